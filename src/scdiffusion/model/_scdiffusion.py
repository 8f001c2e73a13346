"""The model that users meet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  (scvi-tools' view_anndata_setup uses it without importing it)
import scipy.sparse as sp
import torch
from anndata import AnnData, read_h5ad
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalJointObsField, LayerField
from scvi.model._utils import parse_device_args
from scvi.model.base import BaseModelClass

from scdiffusion.autoencoders import COUNTS, count_components, read_pretrained
from scdiffusion.model._checks import check_anndata
from scdiffusion.model._conditions import TrainingComposition
from scdiffusion.model._constants import Key
from scdiffusion.model._generation import GenerationMixin
from scdiffusion.model._module import SCDiffusionModule
from scdiffusion.model._presets import arguments_of, read_preset
from scdiffusion.model._pretraining import add_sizes, adopt, check_settings
from scdiffusion.model._profiles import log_normalised, set_profiles
from scdiffusion.model._saving import AtomicDirectory, from_plain, to_plain
from scdiffusion.model._training import TrainingMixin
from scdiffusion.networks import MeanExpressionConditions

_MODEL_FILE, _DATA_FILE = "model.pt", "adata.h5ad"


class SCDiffusion(TrainingMixin, GenerationMixin, BaseModelClass):
    """Latent diffusion model of single-cell expression, which generates cells under any conditions.

    An autoencoder maps cells to latents; a diffusion model learns how latents and library size are distributed, given
    any subset of the conditions; new latents are decoded to counts. The papers' own models, by `preset`, work on
    log-normalised expression instead, and know no library size.

    Parameters
    ----------
    adata
        Cells, registered with :meth:`setup_anndata`.
    preset
        Named configuration: None is our own, `"scdiffusion"` and `"scld"` are the papers'. It also sets how
        :meth:`train` trains and which sampler :meth:`generate` uses.
    pretrained
        Directory of a SCimilarity model (`encoder.ckpt`, `decoder.ckpt`, `gene_order.tsv`) to start the autoencoder of
        `preset="scdiffusion"` from. Layer sizes are read from it. Genes are matched by name; those that it does not
        know start with new weights. `pretrained_` tells how many match. A saved model does not need the directory.
    registry
        A saved registry in place of `adata`; used by :meth:`load`.
    rng
        Seed of the initial weights.
    **overrides
        Settings that differ from the preset's. A part that is chosen by name, `autoencoder`, `condition_encoder` or
        `denoiser`, brings its own defaults. Of the default preset:

        - `autoencoder` (`"counts"`, `"scimilarity"`, `"linear"`), `n_latent` (estimated from the data), `n_hidden`
          (256), `n_layers` (1), `likelihood` (`"nb"`, `"zinb"`, `"poisson"`), `dispersion` (`"gene"`, `"gene-batch"`,
          `"gene-cell"`), `dropout` (0.3); with pretrained weights `freeze_hidden`.
        - `standardise_latents` (True).
        - `schedule` (`"cosine"`, `"linear"`), `prediction` (`"v"`, `"epsilon"`, `"x0"`), `loss_weighting`
          (`"min_snr"`, `"uniform"`), `min_snr_gamma` (5), `n_timesteps` (1000).
        - `condition_encoder` (`"embedding"`, `"mean_expression"`), `condition_hidden` (256); with mean expression
          `project_profiles`.
        - `denoiser` (`"mlp"`, `"skip_mlp"`, `"unet"`), `denoiser_hidden` (256), `denoiser_layers` (3),
          `denoiser_dropout` (0.1), `fusion` (`"add"`, `"concat"`, `"attention"`).

    Raises
    ------
    ValueError
        If a preset or part does not exist, a setting is out of range, a category has no cells to take the mean of, or
        the pretrained directory is incomplete or shares no genes with `adata`.
    TypeError
        If a setting does not exist, or does not belong to the part that was chosen.

    References
    ----------
    Luo et al., *scDiffusion: conditional generation of high-quality single-cell data using diffusion model*,
    Bioinformatics 2024. Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model*, 2023.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    >>> model = scd.SCDiffusion(adata)
    >>> model.train(max_epochs=1, progress=False)
    >>> model.generate(5, obs_conditions={"bulk_labels": "CD34+"}, rng=0).shape
    (5, 765)
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        preset: str | None = None,
        *,
        pretrained: str | Path | None = None,
        registry: dict[str, Any] | None = None,
        rng: int = 0,
        **overrides: Any,
    ) -> None:
        super().__init__(adata, registry)
        weights = None
        if pretrained is not None:
            weights = read_pretrained(pretrained)
            add_sizes(overrides, weights)
        self._settings = settings = read_preset(preset, overrides)
        if registry is None:
            check_settings(settings["autoencoder"], is_pretrained=weights is not None)
        setup = self.registry_["setup_args"]
        self.batch_key: str | None = setup["batch_key"]
        self.condition_keys: list[str] = list(setup["condition_keys"] or [])
        categories = self._categories()
        if adata is not None:
            self._describe(adata, categories)
            if settings["autoencoder"].get("n_latent", 0) is None:
                n_latent = count_components(self._expression(), np.random.default_rng(rng))
                settings["autoencoder"]["n_latent"] = overrides["n_latent"] = n_latent
        n_categories = [len(names) for names in categories.values()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng)
            self.module = SCDiffusionModule(
                self.summary_stats.n_vars,
                n_categories,
                n_categories[-1] if self.batch_key else 0,
                setup["values"],
                autoencoder_settings=arguments_of(settings["autoencoder"]),
                process_settings=settings["process"],
                condition_settings=arguments_of(settings["condition_encoder"]),
                denoiser_settings=arguments_of(settings["denoiser"]),
                **settings["latents"],
            )
        conditions = self.module.denoiser.condition_encoder
        if registry is None and isinstance(conditions, MeanExpressionConditions):
            log_expression = log_normalised(self._expression(), setup["values"])
            set_profiles(conditions, log_expression, self._condition_codes(), categories)
        self.pretrained_ = None
        if weights is not None:
            self.pretrained_ = adopt(self.module.autoencoder, weights, self.var_.index.astype(str), pretrained)
        autoencoder = self.module.autoencoder
        self._model_summary_string = (
            f"SCDiffusion with n_genes: {autoencoder.n_genes}, n_latent: {autoencoder.n_latent}, "
            f"preset: {preset or 'default'}, values: {autoencoder.likelihood.values}, "
            f"conditions: {', '.join(categories) or 'none'}"
        )
        if self.pretrained_:
            genes = "{n_matching_genes} of {n_genes} genes pretrained".format(**self.pretrained_)
            self._model_summary_string += f", {genes}"
        pretrained = None  # a saved model has the weights, and may be loaded where the directory is not
        self.init_params_ = self._get_init_params(locals())

    def _describe(self, adata: AnnData, categories: dict[str, np.ndarray]) -> None:
        """Keep what generating needs to know of the cells."""
        self.composition_ = TrainingComposition.from_codes(categories, self._condition_codes()).to_dict()
        self.ordered_keys_ = [key for key in categories if getattr(adata.obs[key].dtype, "ordered", False)]
        self.var_ = adata.var.copy()
        library = np.asarray(self._expression().sum(1)).ravel()
        self.library_range_ = [float(library.min()), float(library.max())]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        condition_keys: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        values: str = COUNTS,
        **kwargs: Any,
    ) -> None:
        """Register the expression and conditions of an AnnData, after checking that they can be learned from.

        Parameters
        ----------
        adata
            Cells by genes; left as it is but for the fields below.
        layer
            Layer with the expression; by default `X`.
        condition_keys
            One categorical `obs` column or several, to generate cells by.
        batch_key
            `obs` column of a nuisance condition: known to the decoder and the diffusion, and drawn from the training
            cells where :meth:`generate` is not told.
        values
            What the expression is: raw `"counts"`, which every preset takes, or `"log-normalised"` expression, the
            `log1p` of counts per 10,000, which the papers' presets take too.
        **kwargs
            Used by scvi-tools when fields are transferred.

        Returns
        -------
        None. Adds `uns["_scvi_uuid"]`, `uns["_scvi_manager_uuid"]` and, with conditions,
        `obsm["_scvi_scdiffusion_conditions"]`.

        Raises
        ------
        ValueError
            If the data cannot be used: not the values that were said, cells without any, too few cells, missing columns
            or categories. The message says what to type instead.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
        """
        is_transfer = kwargs.get("source_registry") is not None
        condition_keys = (
            list(condition_keys or [])
            if is_transfer
            else check_anndata(adata, layer, condition_keys, batch_key, values)
        )
        setup_method_args = cls._get_setup_method_args(
            cls=cls, adata=adata, layer=layer, condition_keys=condition_keys, batch_key=batch_key, values=values
        )
        keys = [*condition_keys, *([batch_key] if batch_key else [])]
        fields = [
            LayerField(Key.EXPRESSION, layer, is_count_data=values == COUNTS),
            CategoricalJointObsField(Key.CONDITIONS, keys),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        rng: int | None = 0,
    ) -> np.ndarray:
        """Latents of cells, standardised over the training cells unless `standardise_latents=False`.

        Parameters
        ----------
        adata
            Cells with the genes of the training data; by default the training data.
        indices
            Which cells; by default all.
        give_mean
            Whether to give the means of the posterior, or one sample of it per cell.
        rng
            Seed of the samples.

        Returns
        -------
        `(n_cells, n_latent)`; keep it in `adata.obsm["X_scdiffusion"]`, or let :func:`scdiffusion.tl.latent` do it.
        """
        self._require_trained("get_latent_representation")
        latents, _, _ = self._encode(adata, indices, give_mean, rng)
        return latents.numpy()

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
        indices: Sequence[int] | None = None,
        *,
        rng: int | None = 0,
    ) -> Any:
        """Encode cells, draw from their posterior, decode and draw: the ceiling of what can be generated.

        Has the signature that :class:`scvi.criticism.PosteriorPredictiveCheck` calls.

        Parameters
        ----------
        adata
            Cells with the genes of the training data; by default the training data.
        n_samples
            Number of draws of each cell.
        batch_size
            Ignored; cells are decoded in blocks of one size, whatever it says.
        indices
            Which cells; by default all.
        rng
            Seed.

        Returns
        -------
        Expression, :class:`sparse.GCXS`, `(n_cells, n_genes)`, with a third axis if `n_samples` is above 1.
        """
        import sparse

        self._require_trained("posterior_predictive_sample")
        generator = torch.Generator(self.device).manual_seed(0 if rng is None else rng)
        draws = []
        for sample in range(n_samples):
            seed = None if rng is None else rng + sample
            latents, log_library, batch = self._encode(adata, indices, False, seed)
            blocks = self._draw(latents.to(self.device), log_library.to(self.device), batch, generator)
            draws.append(sparse.COO.from_scipy_sparse(sp.vstack(blocks, format="csr")))
        return sparse.GCXS.from_coo(draws[0] if n_samples == 1 else sparse.stack(draws, axis=-1))

    @torch.inference_mode()
    def _encode(
        self, adata: AnnData | None, indices: Sequence[int] | None, give_mean: bool, rng: int | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Standardised latents, log library sizes, `(n_cells, n_library)`, and batch codes of cells."""
        adata = self._validate_anndata(adata)
        manager = self.get_anndata_manager(adata, required=True)
        expression = self._expression(manager)
        codes = self._condition_codes(manager)
        if indices is not None:
            expression, codes = expression[np.asarray(indices)], codes[np.asarray(indices)]
        mean, log_variance, log_library = self._posteriors(expression)
        if not give_mean:
            generator = torch.Generator().manual_seed(torch.seed() if rng is None else rng)
            mean = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        features = self.module.standardise(mean.to(self.device), log_library.to(self.device)).cpu()
        batch = torch.from_numpy(codes[:, -1]).to(self.device) if self.batch_key else None
        return features[:, : mean.shape[1]], log_library, batch

    @property
    def composition(self) -> TrainingComposition:
        """Which combinations of conditions the model was trained on, and how many cells of each."""
        return TrainingComposition.from_dict(self.composition_)

    def _categories(self) -> dict[str, np.ndarray]:
        """Categories of each condition key in training order, the batch last."""
        state = self.registry_["field_registries"][Key.CONDITIONS]["state_registry"]
        return {key: np.asarray(names) for key, names in state.get("mappings", {}).items()}

    def _category_dtype(self, key: str) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(self._categories()[key], ordered=key in self.ordered_keys_)

    def _condition_codes(self, manager: AnnDataManager | None = None) -> np.ndarray:
        """Codes of the registered conditions, `(n_cells, n_keys)`."""
        manager = manager or self.adata_manager
        if not self._categories():
            return np.empty((manager.adata.n_obs, 0), dtype=np.int64)
        return np.asarray(manager.get_from_registry(Key.CONDITIONS), dtype=np.int64)

    def _batch_codes(self) -> np.ndarray | None:
        return self._condition_codes()[:, -1] if self.batch_key else None

    def save(
        self,
        dir_path: str | Path,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model; :meth:`load` needs no data to generate from it.

        Parameters
        ----------
        dir_path
            Directory to make. It appears only when everything in it is written.
        prefix
            Prefix of the file names.
        overwrite
            Whether to replace files of an existing directory.
        save_anndata
            Whether to write the training data beside the model.
        **anndata_write_kwargs
            Passed on to :meth:`~anndata.AnnData.write_h5ad`.

        Raises
        ------
        ValueError
            If the directory exists and `overwrite` is not set.
        """
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        contents = {
            "model_state_dict": {key: tensor.cpu() for key, tensor in self.module.state_dict().items()},
            "var_names": self.var_.index.astype(str).tolist(),
            "attr_dict": to_plain(attributes),
        }
        with AtomicDirectory(dir_path, overwrite=overwrite) as folder:
            torch.save(contents, folder / f"{prefix or ''}{_MODEL_FILE}")
            if save_anndata:
                self.adata.write_h5ad(folder / f"{prefix or ''}{_DATA_FILE}", **anndata_write_kwargs)

    @classmethod
    def load(
        cls,
        dir_path: str | Path,
        adata: AnnData | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        **kwargs: Any,
    ) -> SCDiffusion:
        """Load a saved model.

        Parameters
        ----------
        dir_path
            Directory that :meth:`save` wrote.
        adata
            Cells with the same genes, to train further or to encode. None: the data saved beside the model if there
            are any, else none, which is enough to generate. False: none in any case.
        accelerator, device
            Where to put the model.
        prefix
            Prefix of the file names.
        **kwargs
            Accepted for scvi-tools' own callers and ignored.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError
            If there is no model in the directory, or the genes of `adata` differ.
        """
        path = Path(dir_path) / f"{prefix or ''}{_MODEL_FILE}"
        if not path.exists():
            raise ValueError(f"There is no model at {path}. Give the directory that model.save(...) wrote.")
        _, _, device = parse_device_args(accelerator, device, return_device="torch", validate_single_device=True)
        contents = torch.load(path, map_location=device, weights_only=True)
        attributes = from_plain(contents["attr_dict"])
        registry, parameters = attributes.pop("registry_"), attributes.pop("init_params_")
        if registry["model_name"] != cls.__name__:
            raise ValueError(f"{path} holds a {registry['model_name']}, not a {cls.__name__}.")
        saved_data = path.with_name(f"{prefix or ''}{_DATA_FILE}")
        if adata is None and saved_data.exists():
            adata = read_h5ad(saved_data)
        if adata is None or adata is False:
            adata = None
        else:
            _check_genes(adata, contents["var_names"])
            cls.setup_anndata(adata, source_registry=registry, **registry["setup_args"])
        overrides = parameters["kwargs"]["overrides"]
        model = cls(adata, registry=registry, **parameters["non_kwargs"], **overrides)
        for name, value in attributes.items():
            setattr(model, name, value)
        model.module.load_state_dict(contents["model_state_dict"])
        model.to_device(device)
        model.module.eval()
        return model

    def _expression(self, manager: AnnDataManager | None = None) -> sp.csr_matrix:
        """Registered expression as float32 CSR, `(n_cells, n_genes)`."""
        return sp.csr_matrix((manager or self.adata_manager).get_from_registry(Key.EXPRESSION), dtype=np.float32)


def _check_genes(adata: AnnData, var_names: list[str]) -> None:
    given = adata.var_names.astype(str)
    if list(given) == var_names:
        return
    missing = pd.Index(var_names).difference(given, sort=False)
    if len(missing):
        detail = f"{len(missing)} of the model's {len(var_names)} genes are missing, e.g. {missing[0]!r}"
    else:
        detail = f"they are in another order, or there are others among them ({len(given)} against {len(var_names)})"
    raise ValueError(
        f"adata does not have the genes the model was trained on: {detail}. Bring them in line with "
        "adata = adata[:, model.var_.index].copy(), or load without data: load(dir)."
    )
