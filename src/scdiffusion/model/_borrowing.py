"""Making a model from one of scvi-tools, whose encoder and decoder it keeps."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.data._constants import ADATA_MINIFY_TYPE
from scvi.data._utils import _get_adata_minify_type
from scvi.model.base import BaseModelClass
from scvi.module import VAE
from torch import nn

from scdiffusion.autoencoders import COUNTS, LOG_NORMALISED, autoencoders
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import looks_like_counts
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.model._saving import check_genes, to_plain

if TYPE_CHECKING:
    from mudata import MuData

    from scdiffusion.model import SCDiffusion


@dataclass(frozen=True)
class Source:
    """How a class of scvi-tools is taken over.

    Attributes
    ----------
    autoencoder
        Name of the autoencoder that does.
    module
        Name of its module.
    renamed
        Arguments of the module by their names in the class.
    encodes_protein
        Whether it encodes protein too, so that the latents of its cells must be kept.
    """

    autoencoder: str
    module: str
    renamed: dict[str, str] = field(default_factory=dict)
    encodes_protein: bool = False


#: A scANVI's encoder and decoder are those of a scVI.
SOURCES = {
    "SCVI": Source("borrowed", "VAE"),
    "SCANVI": Source("borrowed", "VAE"),
    "LinearSCVI": Source("borrowed", "LDVAE", {"n_layers": "n_layers_encoder"}),
    "TOTALVI": Source("borrowed_totalvi", "TOTALVAE", encodes_protein=True),
}
# Sizes of the data, which a module keeps as attributes.
_SIZES = ("n_input", "n_input_genes", "n_input_proteins", "n_batch", "n_labels", "n_panel")
_MODEL_FILE, _LEGACY_FILE, _DATA_FILES = "model.pt", "attr.pkl", ("adata.h5ad", "mdata.h5mu")


class BorrowingMixin:
    """Making a model from a trained one of scvi-tools."""

    @classmethod
    def from_scvi_model(
        cls,
        model: BaseModelClass | str | Path,
        adata: AnnData | MuData | None = None,
        condition_keys: str | Sequence[str] | None = None,
        *,
        continuous_condition_keys: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> SCDiffusion:
        """Make a model that generates through the encoder and decoder of a trained scvi-tools model.

        Their weights are kept, frozen, as part of this model: :meth:`train` trains the diffusion alone, and a saved
        model does not need the other one. What that was set up with becomes conditions: its `batch_key` the batch, its
        `labels_key`, `categorical_covariate_keys` and `continuous_covariate_keys` conditions to generate by. Batch
        and covariates, which the decoder must know, are drawn from the training cells where :meth:`generate` is not
        told. Cells that a scANVI holds unlabelled have the labels that it predicts; its unlabelled category is none
        that can be asked for.

        Parameters
        ----------
        model
            Trained :class:`~scvi.model.SCVI`, :class:`~scvi.model.SCANVI`, :class:`~scvi.model.LinearSCVI` or
            :class:`~scvi.model.TOTALVI`, or the directory that it was saved in. scvi-tools unpickles what is there: give
            a directory only that you trust. Of a totalVI, RNA is generated, and no protein.
        adata
            Cells to learn the diffusion from, with the genes of `model`; by default those that it holds. They are
            registered with `model`, if they are not yet. Of minified data without counts the stored latents are used.
        condition_keys
            Further categorical `obs` columns to generate cells by.
        continuous_condition_keys
            Further numeric `obs` columns to generate cells by.
        **kwargs
            As for :class:`~scdiffusion.SCDiffusion`: settings of the diffusion, `preset` and `rng`.

        Returns
        -------
        The model, whose `adata` is a new :class:`~anndata.AnnData` of the same counts with the conditions in `obs`. Its
        `var`, and that of generated cells, is that of `adata`.

        Raises
        ------
        TypeError
            If `model` is of another class, or a setting does not exist.
        ValueError
            If `model` is not trained, holds no cells and none are given, was trained on other genes, was saved before
            scvi-tools 0.15, or has a setting that cannot be stored; or a condition cannot be used.

        References
        ----------
        Lopez et al., *Deep generative modeling for single-cell transcriptomics*, Nature Methods 2018. Xu et al.,
        *Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models*,
        Molecular Systems Biology 2021.

        Examples
        --------
        >>> import scvi
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scvi.model.SCVI.setup_anndata(adata, layer="counts")
        >>> trained = scvi.model.SCVI(adata, n_hidden=16)
        >>> trained.train(max_epochs=1, enable_progress_bar=False)
        >>> model = scd.SCDiffusion.from_scvi_model(trained, condition_keys="bulk_labels")
        >>> model.train(max_epochs=1, progress=False)
        >>> model.generate(obs_conditions={"bulk_labels": {"CD34+": 5}}, rng=0).shape
        (5, 765)
        """
        if isinstance(model, str | Path):
            model = _load(Path(model), adata)
        source = SOURCES[_supported(type(model).__name__, type(model).__module__)]
        if not model.is_trained:
            raise ValueError(f"The {type(model).__name__} model is not trained yet: call model.train() first.")
        adata = model.adata if adata is None else adata
        if adata is None:
            raise ValueError(
                "The scvi-tools model holds no cells to learn from: pass adata, the cells it was trained on."
            )
        _check_genes(adata, model.registry)
        if model.minified_data_type is not None and _get_adata_minify_type(adata) is None:
            name = type(model).__name__
            raise ValueError(
                f"The {name} model holds minified cells and cannot read others: leave adata out, or load it with them, "
                f"{name}.load(dir, adata=adata)."
            )
        adata = model._validate_anndata(adata)
        manager = model.get_anndata_manager(adata, required=True)

        settings = _module_settings(model, source)
        obs, kinds = _conditions(model, adata, manager)
        covariates = {key: kind for key, kind in kinds.items() if kind != "labels" or _goes_by_labels(model)}
        given = [key for key, kind in kinds.items() if kind in ("labels", "categorical")]
        numbers = [key for key, kind in kinds.items() if kind == "continuous"]
        further = [key for key in _as_list(condition_keys) if key not in kinds]
        further_numbers = [key for key in _as_list(continuous_condition_keys) if key not in kinds]
        missing = [key for key in [*further, *further_numbers] if key not in adata.obs]
        if missing:
            raise ValueError(f"adata.obs has no column {missing[0]!r}.{did_you_mean(missing[0], adata.obs.columns)}")
        layer = model.registry["setup_args"].get("layer")
        obs = obs.assign(**{key: adata.obs[key].array for key in [*further, *further_numbers]})
        cells = _new_anndata(manager, obs, layer)
        stored = _stored_posteriors(model, adata, manager)
        if stored is not None:
            cells.obsm[Key.POSTERIORS] = stored
        is_normal = settings.get("gene_likelihood") == "normal"
        cls.setup_anndata(
            cells,
            layer=layer,
            condition_keys=[*given, *further],
            batch_key=model.registry["setup_args"].get("batch_key"),
            continuous_condition_keys=[*numbers, *further_numbers],
            values=LOG_NORMALISED if is_normal and not looks_like_counts(_expression(manager)) else COUNTS,
        )
        borrowed = cls(
            cells,
            autoencoder=source.autoencoder,
            scvi_module=source.module,
            scvi_settings=settings,
            covariates=covariates,
            **kwargs,
        )
        borrowed.module.autoencoder.adopt(model.module.state_dict())
        return borrowed


def _load(path: Path, adata: AnnData | MuData | None) -> BaseModelClass:
    """Load a saved scvi-tools model."""
    if not (path / _MODEL_FILE).exists():
        if (path / _LEGACY_FILE).exists():
            raise ValueError(
                f"{path} was saved by scvi-tools before 0.15. Convert it, scvi.model.SCVI.convert_legacy_save("
                f"{str(path)!r}, 'converted'), and give the new directory."
            )
        raise ValueError(f"There is no scvi-tools model in {path}. Give the directory that model.save(...) wrote.")
    registry = BaseModelClass.load_registry(str(path))
    name = _supported(registry["model_name"])
    if adata is None and not any((path / file).exists() for file in _DATA_FILES):
        raise ValueError(f"No cells were saved in {path}: pass adata, the cells that the {name} model was trained on.")
    if adata is not None:
        _check_genes(adata, registry)
    return getattr(scvi.model, name).load(str(path), adata=adata, accelerator="cpu")


def _supported(name: str, package: str = "scvi.") -> str:
    if name not in SOURCES or not package.startswith("scvi."):
        raise TypeError(f"from_scvi_model takes a trained {name_some(SOURCES)} model, not {name!r}.")
    return name


def _rna(adata: AnnData | MuData, registry: dict[str, Any]) -> AnnData:
    """The cells, or of several modalities the RNA."""
    modality = registry["field_registries"][REGISTRY_KEYS.X_KEY]["data_registry"].get("mod_key")
    return adata if modality is None else adata[modality]


def _check_genes(adata: AnnData | MuData, registry: dict[str, Any]) -> None:
    state = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]
    remedy = "adata = adata[:, list(model.get_var_names())].copy(), model being the scvi-tools model."
    check_genes(_rna(adata, registry), [str(name) for name in state["column_names"]], remedy)


def _expression(manager: AnnDataManager) -> Any:
    return manager.get_from_registry(REGISTRY_KEYS.X_KEY)


def _module_settings(model: BaseModelClass, source: Source) -> dict[str, Any]:
    """Arguments that make the model's module anew, plain enough to be saved."""
    parameters = model.init_params_
    given = parameters["non_kwargs"] | {k: v for group in parameters["kwargs"].values() for k, v in group.items()}
    given = {source.renamed.get(name, name): value for name, value in given.items()}
    given |= {name: getattr(model.module, name) for name in _SIZES if hasattr(model.module, name)}
    categories = model.registry["field_registries"].get(REGISTRY_KEYS.CAT_COVS_KEY, {}).get("state_registry", {})
    given |= {
        "n_cats_per_cov": categories.get("n_cats_per_key") or None,
        "n_continuous_cov": model.summary_stats.get(f"n_{REGISTRY_KEYS.CONT_COVS_KEY}", 0),
        "use_size_factor_key": bool(model.module.use_size_factor_key),
        # Its encoder of library sizes has no part in this, and its prior of them is not needed.
        "use_observed_lib_size": True,
    }
    taken = _arguments(autoencoders.member(source.autoencoder).scvi_modules[source.module])
    settings = {name: value for name, value in given.items() if name in taken and name not in source.renamed}
    for name, value in settings.items():
        try:
            to_plain(value)
        except TypeError as error:
            raise ValueError(
                f"The {type(model).__name__} model was made with {name}={value!r}, which cannot be stored as a plain "
                f"setting ({error}). Train one without it."
            ) from None
    return settings


def _arguments(module: type[nn.Module]) -> set[str]:
    names = set(inspect.signature(module).parameters)
    return names | set(inspect.signature(VAE).parameters) if issubclass(module, VAE) else names


def _goes_by_labels(model: BaseModelClass) -> bool:
    return "gene-label" in (getattr(model.module, "dispersion", None), getattr(model.module, "gene_dispersion", None))


def _conditions(
    model: BaseModelClass, adata: AnnData | MuData, manager: AnnDataManager
) -> tuple[pd.DataFrame, dict[str, str]]:
    """What the model was set up with, in its own order of categories, and what each key is to it."""
    setup, columns, kinds = model.registry["setup_args"], {}, {}

    def add(key: str, kind: str, codes: np.ndarray, names: Sequence[Any]) -> None:
        columns[key] = pd.Categorical.from_codes(np.asarray(codes).ravel().astype(int), names)
        kinds[key] = kind

    for role, kind in ((REGISTRY_KEYS.BATCH_KEY, "batch"), (REGISTRY_KEYS.LABELS_KEY, "labels")):
        key = setup.get(f"{role}_key")
        if key is not None and key not in kinds:
            add(key, kind, manager.get_from_registry(role), manager.get_state_registry(role)["categorical_mapping"])
    unlabelled, labels = setup.get("unlabeled_category"), setup.get("labels_key")
    if unlabelled is not None and kinds.get(labels) == "labels":
        columns[labels] = _with_predictions(model, adata, columns[labels], unlabelled)
    if setup.get("categorical_covariate_keys"):
        codes = np.asarray(manager.get_from_registry(REGISTRY_KEYS.CAT_COVS_KEY))
        mappings = manager.get_state_registry(REGISTRY_KEYS.CAT_COVS_KEY)["mappings"]
        for i, (key, names) in enumerate(mappings.items()):
            add(key, "categorical", codes[:, i], names)
    if setup.get("continuous_covariate_keys"):
        values = manager.get_from_registry(REGISTRY_KEYS.CONT_COVS_KEY)
        columns |= {key: np.asarray(values[key], dtype=float) for key in values.columns}
        kinds |= dict.fromkeys(values.columns, "continuous")
    return pd.DataFrame(columns, index=adata.obs_names), kinds


def _with_predictions(model: BaseModelClass, adata: AnnData, labels: pd.Categorical, unlabelled: Any) -> pd.Categorical:
    """Labels without the unlabelled category, whose cells have what the model predicts."""
    names, known = np.asarray(labels, dtype=object), labels.categories.drop(unlabelled)
    gaps = names == unlabelled
    if gaps.any():  # model.predict() does not take minified data
        mean, _ = model.get_latent_representation(adata, return_dist=True)
        with torch.inference_mode():
            scores = model.module.classifier(torch.from_numpy(mean[gaps]).to(model.device))
        names[gaps] = known[scores.argmax(1).cpu().numpy()]
    return pd.Categorical(names, known)


def _new_anndata(manager: AnnDataManager, obs: pd.DataFrame, layer: str | None) -> AnnData:
    """The registered expression with other `obs`, in the layer it was in, so that new cells are read from there too."""
    expression, var = _expression(manager), _rna(manager.adata, manager.registry).var.copy()
    if layer is None:
        return AnnData(expression, obs=obs, var=var)
    return AnnData(obs=obs, var=var, layers={layer: expression})


def _stored_posteriors(model: BaseModelClass, adata: AnnData | MuData, manager: AnnDataManager) -> np.ndarray | None:
    """Mean, log-variance and log library size of cells that cannot be encoded anew, `(n_cells, 2 * n_latent + 1)`."""
    if _get_adata_minify_type(adata) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
        keys = (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY, REGISTRY_KEYS.OBSERVED_LIB_SIZE)
        mean, variance, library = (np.asarray(manager.get_from_registry(key)) for key in keys)
    elif SOURCES[type(model).__name__].encodes_protein:
        mean, variance = model.get_latent_representation(adata, return_dist=True)
        library = np.asarray(_expression(manager).sum(1))
    else:
        return None
    return np.column_stack([mean, np.log(variance), np.log(library.reshape(-1, 1))]).astype(np.float32)


def _as_list(keys: str | Sequence[str] | None) -> list[str]:
    return [keys] if isinstance(keys, str) else list(keys or [])
