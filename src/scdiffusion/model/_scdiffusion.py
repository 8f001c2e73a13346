"""The model that users meet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rich.pretty  # noqa: F401  (scvi-tools' view_anndata_setup uses it without importing it)
import torch
from anndata import AnnData
from anndata.experimental import AnnCollection
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import CategoricalJointObsField, NumericalJointObsField, ObsmField
from scvi.model.base import BaseModelClass
from torch import Tensor

from scdiffusion.autoencoders import COUNTS, are_reads, count_components, read_pretrained
from scdiffusion.model._borrowing import BorrowingMixin
from scdiffusion.model._checks import check_anndata, check_continuous
from scdiffusion.model._classifiers import ClassifierMixin
from scdiffusion.model._composition import Plan, TrainingComposition
from scdiffusion.model._constants import Key
from scdiffusion.model._drawing import DrawingMixin
from scdiffusion.model._fields import ExpressionField
from scdiffusion.model._generation import GenerationMixin
from scdiffusion.model._guidance import needs_classifiers
from scdiffusion.model._hub import HubMixin
from scdiffusion.model._latents import LatentMixin
from scdiffusion.model._lazy import as_anndata
from scdiffusion.model._modalities import ModalitiesMixin
from scdiffusion.model._module import SCDiffusionModule
from scdiffusion.model._mudata_checks import check_protein
from scdiffusion.model._multimodal_settings import add_n_latent, choose_preset, sizes_of
from scdiffusion.model._presets import arguments_of, read_preset
from scdiffusion.model._pretraining import add_sizes, adopt, check_settings
from scdiffusion.model._profiles import set_profiles
from scdiffusion.model._refining import RefiningMixin
from scdiffusion.model._requests import RequestMixin
from scdiffusion.model._saving import SavingMixin
from scdiffusion.model._scoring import ScoringMixin
from scdiffusion.model._selection import read_keep_top
from scdiffusion.model._training import TrainingMixin
from scdiffusion.networks import MeanExpressionConditions

# Most cells that statistics are fitted on; they change little beyond.
_MOST_SAMPLED = 20_000


class SCDiffusion(
    TrainingMixin,
    ClassifierMixin,
    ScoringMixin,
    GenerationMixin,
    RequestMixin,
    RefiningMixin,
    DrawingMixin,
    LatentMixin,
    ModalitiesMixin,
    BorrowingMixin,
    SavingMixin,
    HubMixin,
    BaseModelClass,
):
    """Latent diffusion model of single-cell expression, which generates cells under any conditions.

    An autoencoder maps cells to latents; a diffusion model learns how latents and library size are distributed, given
    any subset of the conditions; new latents are decoded to counts. The papers' own models, by `preset`, work on
    log-normalised expression instead, and know no library size.

    Parameters
    ----------
    adata
        Cells, registered with :meth:`setup_anndata` or, several modalities of them, with :meth:`setup_mudata`, in
        memory or on disk.
    preset
        Named configuration: None is our own, `"scdiffusion"` and `"scld"` are the papers'. It also sets how
        :meth:`train` trains, and how :meth:`generate` samples, guides and selects. `"scld"` follows the
        paper's Algorithms 1 and 2, the standard process, where its Eq. 9 prints the square root of the variance for the
        variance, and the condition added to the latent at every step. Several modalities have one of their own,
        `"multimodal"`, which need not be named.
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
          (256), `n_layers` (1), `likelihood` (`"nb"`, or `"zinb"` where counts are reads without unique molecular
          identifiers; `"poisson"`), `dispersion` (`"gene"`, `"gene-batch"`, `"gene-cell"`), `dropout` (0.3); with
          pretrained weights `freeze_hidden`. Of several modalities, `n_latent` and
          `likelihood` are dicts by modality, which need not name all; by default RNA and protein have `"nb"`, ATAC
          `"poisson"`; there are `"nb_mixture"` and `"bernoulli"` as well.
        - `standardise_latents` (True).
        - `schedule` (`"cosine"`, `"linear"`), `prediction` (`"v"`, `"epsilon"`, `"x0"`), `loss_weighting`
          (`"min_snr"`, `"uniform"`), `min_snr_gamma` (5), `n_timesteps` (1000).
        - `condition_encoder` (`"embedding"`, `"mean_expression"`, or `"none"` for a denoiser that does not see
          conditions), `condition_hidden` (256); with mean expression `project_profiles`.
        - `denoiser` (`"mlp"`, `"skip_mlp"`, `"unet"`), `denoiser_hidden` (256), `denoiser_layers` (3),
          `denoiser_dropout` (0.1), `fusion` (`"add"`, `"concat"`, `"attention"`).
        - `guidance` (`{"classifier_free": 0.15}`): what :meth:`generate` guides by unless told otherwise, a name, a dict
          of names to scales, or `"none"`. Where that needs classifiers, :meth:`train` trains them.
        - `keep_top` (`"none"`): which share of what it draws :meth:`generate` keeps unless told otherwise. With a number,
          :meth:`train` trains the scorer.

    Raises
    ------
    ValueError
        If a preset or part does not exist, a setting is out of range, a category has no cells to take the mean of, or
        the pretrained directory is incomplete or shares no genes with `adata`.
    TypeError
        If a setting does not exist, or does not belong to the part that was chosen.

    Warns
    -----
    UserWarning
        If few genes are known to the pretrained weights, or there is a batch key that the denoiser does not see.

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
        adata: AnnData | MuData | AnnCollection | None = None,
        preset: str | None = None,
        *,
        pretrained: str | Path | None = None,
        registry: dict[str, Any] | None = None,
        rng: int = 0,
        **overrides: Any,
    ) -> None:
        adata = as_anndata(adata)
        super().__init__(adata, registry)
        setup = self.registry_["setup_args"]
        self.batch_key: str | None = setup["batch_key"]
        self.condition_keys: list[str] = list(setup["condition_keys"] or [])
        self.continuous_condition_keys: list[str] = list(setup["continuous_condition_keys"] or [])
        weights = None
        if pretrained is not None:
            weights = read_pretrained(pretrained)
            add_sizes(overrides, weights)
        preset = choose_preset(preset, overrides, self.modalities if self._is_multimodal else {})
        if self._is_multimodal and adata is not None:
            generator = np.random.default_rng(rng)
            cells = self._sample(generator)
            expression, labels = self._expression().take(cells), self._labels()[cells]
            add_n_latent(overrides, self.modalities, expression, labels, generator)
        self._settings = settings = read_preset(preset, overrides)
        if registry is None:
            check_settings(settings["autoencoder"], is_pretrained=weights is not None)
        self._guides_by_classifiers = needs_classifiers(settings["guidance"]["guidance"])
        self._selects_by_scores = read_keep_top(settings["selection"]["keep_top"]) is not None
        # Conditions that the autoencoder is told too, and that no cell can be drawn without.
        batch = [self.batch_key] if self.batch_key else []
        self.covariate_keys: list[str] = list(settings["autoencoder"].get("covariates", batch))
        self.classifiers_: dict[str, dict[str, Any]] = {}  # settings of the trained ones, by condition key
        self.scorer_: dict[str, Any] | None = None  # its settings, and which weights it was trained against
        categories = self._categories()
        if adata is not None:
            self._describe(adata, categories)
            found = self._settings_from_data(settings["autoencoder"], np.random.default_rng(rng))
            settings["autoencoder"] |= found
            overrides |= found
        n_categories = [len(names) for names in categories.values()]
        sizes = sizes_of(self.modalities) if self._is_multimodal else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng)
            self.module = SCDiffusionModule(
                sum(len(modality.features) for modality in self.modalities.values()),
                n_categories,
                len(self.continuous_condition_keys),
                n_categories[-1] if self.batch_key else 0,
                self._values,
                autoencoder_settings=arguments_of(settings["autoencoder"]) | sizes,
                process_settings=settings["process"],
                condition_settings=arguments_of(settings["condition_encoder"]),
                denoiser_settings=arguments_of(settings["denoiser"]),
                **settings["latents"],
            )
        conditions = self.module.denoiser.condition_encoder
        if registry is None and isinstance(conditions, MeanExpressionConditions):
            codes = self._registered_conditions().codes
            set_profiles(conditions, self._expression(), self._values, codes, categories)
        if registry is None and self.batch_key and not conditions.sees_conditions:
            warnings.warn(
                f"The denoiser sees no conditions, nor the batch: latents will not differ by {self.batch_key!r}. Name it "
                "in condition_keys to guide by a classifier of it.",
                UserWarning,
                stacklevel=2,
            )
        self.pretrained_ = None
        if weights is not None:
            self.pretrained_ = adopt(self.module.autoencoder, weights, self.var_.index.astype(str), pretrained)
        autoencoder = self.module.autoencoder
        self._model_summary_string = (
            f"SCDiffusion with n_genes: {autoencoder.n_genes}, n_latent: {autoencoder.n_latent}, "
            f"preset: {preset or 'default'}, values: {autoencoder.likelihood.values}, "
            f"conditions: {', '.join([*categories, *self.continuous_condition_keys]) or 'none'}"
        )
        if self.pretrained_:
            genes = "{n_matching_genes} of {n_genes} genes pretrained".format(**self.pretrained_)
            self._model_summary_string += f", {genes}"
        pretrained = None  # a saved model has the weights, and may be loaded where the directory is not
        self.init_params_ = self._get_init_params(locals())

    def _describe(self, adata: AnnData | MuData, categories: dict[str, np.ndarray]) -> None:
        """Keep what generating needs to know of the cells."""
        codes, values = self._registered_conditions()
        composition = TrainingComposition.from_codes(categories, codes, self.continuous_condition_keys, values)
        self.composition_ = composition.to_dict()
        self.ordered_keys_ = [key for key in categories if getattr(self._obs_of(adata)[key].dtype, "ordered", False)]
        self._describe_modalities(adata)
        library = self._library_sizes(adata)
        self.library_range_ = [library.min(0).tolist(), library.max(0).tolist()]

    @classmethod
    def setup_anndata(
        cls,
        adata: AnnData | AnnCollection,
        *,
        layer: str | None = None,
        condition_keys: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        continuous_condition_keys: str | Sequence[str] | None = None,
        values: str = COUNTS,
        protein_obsm_key: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the expression and conditions of an AnnData, after checking that they can be learned from.

        Parameters
        ----------
        adata
            Cells by genes; left as it is but for the fields below. Expression may lie in a file, which is then read in
            pieces and never loaded: an AnnData backed by an h5ad file, or with a matrix of
            :func:`anndata.io.sparse_dataset`, or several in an :class:`~anndata.experimental.AnnCollection`, whose
            fields are kept apart from it.
        layer
            Layer with the expression; by default `X`.
        condition_keys
            One categorical `obs` column or several, to generate cells by.
        batch_key
            `obs` column of a nuisance condition: known to the decoder and the diffusion, and drawn from the training
            cells where :meth:`generate` is not told.
        continuous_condition_keys
            One numeric `obs` column or several, such as time or dose, to generate cells by any number of.
        values
            What the expression is: raw `"counts"`, which every preset takes, or `"log-normalised"` expression, the
            `log1p` of counts per 10,000, which the papers' presets take too.
        protein_obsm_key
            Name in `obsm` of raw protein counts of the same cells, an array or a data frame by protein. Cells are then
            generated with both, and expression that lies in a file is loaded. See :meth:`setup_mudata` for several
            modalities in a MuData.
        **kwargs
            Used by scvi-tools when fields are transferred.

        Returns
        -------
        None. Adds `uns["_scvi_uuid"]`, `uns["_scvi_manager_uuid"]` and, with conditions,
        `obsm["_scvi_scdiffusion_conditions"]`, with continuous ones `obsm["_scvi_scdiffusion_continuous"]`.

        Raises
        ------
        ValueError
            If the data cannot be used: not the values that were said, cells without any, too few cells, missing columns
            or categories, continuous conditions that are not finite numbers, proteins that are not counts. The message
            says what to type instead.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
        """
        adata = as_anndata(adata)
        is_transfer = kwargs.get("source_registry") is not None
        batch = [batch_key] if batch_key else []
        if not is_transfer:
            condition_keys = check_anndata(adata, layer, condition_keys, batch_key, values)
            continuous_condition_keys = check_continuous(adata, continuous_condition_keys, [*condition_keys, *batch])
            if protein_obsm_key is not None:
                check_protein(adata, protein_obsm_key, values)
        condition_keys, continuous_condition_keys = list(condition_keys or []), list(continuous_condition_keys or [])
        setup_method_args = cls._get_setup_method_args(
            cls=cls,
            adata=adata,
            layer=layer,
            condition_keys=condition_keys,
            batch_key=batch_key,
            continuous_condition_keys=continuous_condition_keys,
            values=values,
            protein_obsm_key=protein_obsm_key,
        )
        fields = [
            ExpressionField(Key.EXPRESSION, layer, values),
            CategoricalJointObsField(Key.CONDITIONS, [*condition_keys, *batch]),
            NumericalJointObsField(Key.CONTINUOUS, continuous_condition_keys),
        ]
        if protein_obsm_key is not None:
            fields.append(ObsmField(Key.of_modality("protein"), protein_obsm_key, correct_data_format=False))
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(adata, **kwargs)
        cls.register_manager(manager)

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
            return np.array(manager.get_from_registry(key), dtype=dtype)

        return Plan(
            registered(Key.CONDITIONS, self._categories(), np.int64),
            registered(Key.CONTINUOUS, self.continuous_condition_keys, np.float64),
        )

    def _covariates(self, plan: Plan) -> Tensor | None:
        """What the autoencoder is told of cells: batch codes, or the columns that it takes, `(n_cells, n_covariates)`."""
        if not self.module.autoencoder.encodes_covariates:
            return torch.from_numpy(plan.codes[:, -1]) if self.batch_key else None
        columns = [*self._categories(), *self.continuous_condition_keys]
        values = np.column_stack(plan)[:, [columns.index(key) for key in self.covariate_keys]]
        return torch.from_numpy(values.astype(np.float32))

    def _labels(self) -> np.ndarray:
        """Codes of what cells are generated by, `(n_cells, n_keys)`: the batch, which the decoder is told, left out."""
        return self._registered_conditions().codes[:, : len(self.condition_keys)]

    def _settings_from_data(self, settings: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """What the autoencoder's settings leave to the data: number of latents and likelihood."""
        open_ = {name for name in ("n_latent", "likelihood") if settings.get(name, ...) is None}
        found: dict[str, Any] = {}
        if open_:
            cells = self._sample(rng)
            expression = self._expression().take(cells)
        if "n_latent" in open_:
            n_principal, n_discriminant = count_components(expression, self._labels()[cells], rng)
            found |= {"n_latent": n_principal + sum(n_discriminant), "n_discriminant": list(n_discriminant)}
        if "likelihood" in open_:
            found["likelihood"] = "zinb" if are_reads(expression) else "nb"
        return found

    def _sample(self, rng: np.random.Generator, cells: np.ndarray | None = None) -> np.ndarray:
        """Of all cells or some, as many as statistics need, sorted."""
        cells = np.arange(self.adata.n_obs) if cells is None else cells
        return cells if len(cells) <= _MOST_SAMPLED else np.sort(rng.choice(cells, _MOST_SAMPLED, replace=False))

    def _validate_anndata(
        self, adata: AnnData | MuData | AnnCollection | None = None, copy_if_view: bool = True
    ) -> AnnData | MuData:
        return super()._validate_anndata(as_anndata(adata), copy_if_view)
