"""The model that users meet."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  (scvi-tools' view_anndata_setup uses it without importing it)
import scipy.sparse as sp
import torch
from anndata import AnnData
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalJointObsField, LayerField, NumericalJointObsField
from scvi.model.base import BaseModelClass

from scdiffusion.autoencoders import count_components
from scdiffusion.model._checks import check_anndata, check_continuous
from scdiffusion.model._classifiers import ClassifierMixin
from scdiffusion.model._composition import Plan, TrainingComposition
from scdiffusion.model._constants import Key
from scdiffusion.model._generation import GenerationMixin
from scdiffusion.model._module import SCDiffusionModule
from scdiffusion.model._presets import module_settings, read_preset
from scdiffusion.model._refining import RefiningMixin
from scdiffusion.model._saving import SavingMixin
from scdiffusion.model._training import TrainingMixin


class SCDiffusion(TrainingMixin, ClassifierMixin, GenerationMixin, RefiningMixin, SavingMixin, BaseModelClass):
    """Latent diffusion model of single-cell counts, which generates cells under any conditions.

    An autoencoder maps cells to latents; a diffusion model learns how latents and library size are distributed, given
    any subset of the conditions; new latents are decoded to counts.

    Parameters
    ----------
    adata
        Cells, registered with :meth:`setup_anndata`.
    preset
        Named configuration. None is our own.
    registry
        A saved registry in place of `adata`; used by :meth:`load`.
    rng
        Seed of the initial weights.
    **overrides
        Settings that differ from the preset's: `autoencoder`, `n_latent` (by default estimated from the data),
        `n_hidden` (256), `n_layers` (1), `likelihood` (`"nb"`, `"zinb"`, `"poisson"`), `dispersion` (`"gene"`,
        `"gene-batch"`, `"gene-cell"`), `dropout` (0.3), `schedule` (`"cosine"`, `"linear"`), `prediction` (`"v"`,
        `"epsilon"`, `"x0"`), `loss_weighting` (`"min_snr"`, `"uniform"`), `n_timesteps` (1000), `denoiser`,
        `denoiser_hidden` (256), `denoiser_layers` (3), `denoiser_dropout` (0.1), `condition_encoder`.

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
        registry: dict[str, Any] | None = None,
        rng: int = 0,
        **overrides: Any,
    ) -> None:
        super().__init__(adata, registry)
        settings = read_preset(preset, overrides)
        setup = self.registry_["setup_args"]
        self.batch_key: str | None = setup["batch_key"]
        self.condition_keys: list[str] = list(setup["condition_keys"] or [])
        self.continuous_condition_keys: list[str] = list(setup["continuous_condition_keys"] or [])
        self.classifiers_: dict[str, dict[str, Any]] = {}  # settings of the trained ones, by condition key
        categories = self._categories()
        if adata is not None:
            codes, values = self._registered_conditions()
            composition = TrainingComposition.from_codes(categories, codes, self.continuous_condition_keys, values)
            self.composition_ = composition.to_dict()
            self.ordered_keys_ = [key for key in categories if getattr(adata.obs[key].dtype, "ordered", False)]
            self.var_ = adata.var.copy()
            library = np.asarray(self._counts().sum(1)).ravel()
            self.library_range_ = [float(library.min()), float(library.max())]
            if settings["n_latent"] is None:
                settings["n_latent"] = overrides["n_latent"] = count_components(
                    self._counts(), np.random.default_rng(rng)
                )
        n_categories = [len(names) for names in categories.values()]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng)
            self.module = SCDiffusionModule(
                self.summary_stats.n_vars,
                n_categories,
                len(self.continuous_condition_keys),
                n_categories[-1] if self.batch_key else 0,
                **module_settings(settings),
            )
        self._model_summary_string = (
            f"SCDiffusion with n_genes: {self.summary_stats.n_vars}, n_latent: {settings['n_latent']}, "
            f"likelihood: {settings['likelihood']}, conditions: "
            f"{', '.join([*categories, *self.continuous_condition_keys]) or 'none'}"
        )
        self.init_params_ = self._get_init_params(locals())

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData,
        *,
        layer: str | None = None,
        condition_keys: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        continuous_condition_keys: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the counts and conditions of an AnnData, after checking that they can be learned from.

        Parameters
        ----------
        adata
            Cells by genes; left as it is but for the fields below.
        layer
            Layer with raw counts; by default `X`.
        condition_keys
            One categorical `obs` column or several, to generate cells by.
        batch_key
            `obs` column of a nuisance condition: known to the decoder and the diffusion, and drawn from the training
            cells where :meth:`generate` is not told.
        continuous_condition_keys
            One numeric `obs` column or several, such as time or dose, to generate cells by any number of.
        **kwargs
            Used by scvi-tools when fields are transferred.

        Returns
        -------
        None. Adds `uns["_scvi_uuid"]`, `uns["_scvi_manager_uuid"]` and, with conditions,
        `obsm["_scvi_scdiffusion_conditions"]`, with continuous ones `obsm["_scvi_scdiffusion_continuous"]`.

        Raises
        ------
        ValueError
            If the data cannot be used: no raw counts, cells without counts, too few cells, missing columns or
            categories, continuous conditions that are not finite numbers. The message says what to type instead.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
        """
        is_transfer = kwargs.get("source_registry") is not None
        batch = [batch_key] if batch_key else []
        if not is_transfer:
            condition_keys = check_anndata(adata, layer, condition_keys, batch_key)
            continuous_condition_keys = check_continuous(adata, continuous_condition_keys, [*condition_keys, *batch])
        condition_keys, continuous_condition_keys = list(condition_keys or []), list(continuous_condition_keys or [])
        setup_method_args = cls._get_setup_method_args(
            cls=cls,
            adata=adata,
            layer=layer,
            condition_keys=condition_keys,
            batch_key=batch_key,
            continuous_condition_keys=continuous_condition_keys,
        )
        fields = [
            LayerField(Key.COUNTS, layer, is_count_data=True),
            CategoricalJointObsField(Key.CONDITIONS, [*condition_keys, *batch]),
            NumericalJointObsField(Key.CONTINUOUS, continuous_condition_keys),
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
        """Latents of cells, standardised over the training cells.

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
        mean, log_variance, log_library, _ = self._encode(adata, indices)
        generator = None if give_mean else _generator(rng)
        return self._latents(mean, log_variance, log_library, generator).cpu().numpy()

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
        indices: Sequence[int] | None = None,
        *,
        rng: int | None = 0,
    ) -> Any:
        """Encode cells, draw from their posterior, decode and draw counts: the ceiling of what can be generated.

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
        Counts, :class:`sparse.GCXS`, `(n_cells, n_genes)`, with a third axis if `n_samples` is above 1.
        """
        import sparse

        self._require_trained("posterior_predictive_sample")
        of_latents, of_counts = _generator(rng), _generator(rng, self.device)
        mean, log_variance, log_library, batch = self._encode(adata, indices)
        draws = []
        for _ in range(n_samples):
            latents = self._latents(mean, log_variance, log_library, of_latents)
            blocks = self._draw(latents, log_library[:, 0].to(self.device), batch, of_counts)
            draws.append(sparse.COO.from_scipy_sparse(sp.vstack(blocks, format="csr")))
        return sparse.GCXS.from_coo(draws[0] if n_samples == 1 else sparse.stack(draws, axis=-1))

    def _encode(
        self, adata: AnnData | None, indices: Sequence[int] | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Means and log-variances of the latents of cells, their log library sizes, and their batch codes."""
        adata = self._validate_anndata(adata)
        manager = self.get_anndata_manager(adata, required=True)
        counts = self._counts(manager)
        codes, _ = self._registered_conditions(manager)
        if indices is not None:
            counts, codes = counts[np.asarray(indices)], codes[np.asarray(indices)]
        batch = torch.from_numpy(codes[:, -1]).to(self.device) if self.batch_key else None
        return *self._posteriors(counts), batch

    def _latents(
        self,
        mean: torch.Tensor,
        log_variance: torch.Tensor,
        log_library: torch.Tensor,
        generator: torch.Generator | None,
    ) -> torch.Tensor:
        """Standardised means of posteriors, or samples where there is a generator, `(n_cells, n_latent)`."""
        if generator is not None:
            mean = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        return self.module.standardise(mean.to(self.device), log_library.to(self.device))[:, :-1]

    @cached_property
    def composition(self) -> TrainingComposition:
        """Which combinations of conditions the model was trained on, and how many cells of each."""
        return TrainingComposition.from_dict(self.composition_)

    def _categories(self) -> dict[str, np.ndarray]:
        """Categories of each condition key in training order, the batch last."""
        state = self.registry_["field_registries"][Key.CONDITIONS]["state_registry"]
        return {key: np.asarray(names) for key, names in state.get("mappings", {}).items()}

    def _category_dtype(self, key: str) -> pd.CategoricalDtype:
        return pd.CategoricalDtype(self._categories()[key], ordered=key in self.ordered_keys_)

    def _registered_conditions(self, manager: AnnDataManager | None = None) -> Plan:
        """Codes and values of the registered conditions."""
        manager = manager or self.adata_manager

        def registered(key: str, keys: Sequence[str], dtype: type) -> np.ndarray:
            if not keys:
                return np.empty((manager.adata.n_obs, 0), dtype=dtype)
            return np.asarray(manager.get_from_registry(key), dtype=dtype)

        return Plan(
            registered(Key.CONDITIONS, self._categories(), np.int64),
            registered(Key.CONTINUOUS, self.continuous_condition_keys, np.float64),
        )

    def _batch_codes(self) -> np.ndarray | None:
        return self._registered_conditions().codes[:, -1] if self.batch_key else None

    def _counts(self, manager: AnnDataManager | None = None) -> sp.csr_matrix:
        """Registered counts as float32 CSR, `(n_cells, n_genes)`."""
        return sp.csr_matrix((manager or self.adata_manager).get_from_registry(Key.COUNTS), dtype=np.float32)


def _generator(rng: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    generator = torch.Generator(device)
    if rng is None:
        generator.seed()
        return generator
    return generator.manual_seed(rng)
