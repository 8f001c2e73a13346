"""Reading a trained model of scvi-tools: its settings, its cells and what they were set up with."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scvi
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data._constants import ADATA_MINIFY_TYPE
from scvi.data._utils import _get_adata_minify_type
from scvi.model.base import BaseModelClass
from scvi.module import VAE

from scdiffusion._compat import named_layers
from scdiffusion.autoencoders import COUNTS, LOG_NORMALISED, autoencoders
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import looks_like_counts
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.model._saving import check_genes, to_plain

if TYPE_CHECKING:
    from mudata import MuData


@dataclass(frozen=True)
class Borrowing:
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


#: By class. Encoder and decoder of a scANVI are those of a scVI.
BORROWINGS = {
    "SCVI": Borrowing("borrowed", "VAE"),
    "SCANVI": Borrowing("borrowed", "VAE"),
    "LinearSCVI": Borrowing("borrowed", "LDVAE", {"n_layers": "n_layers_encoder"}),
    "TOTALVI": Borrowing("borrowed_totalvi", "TOTALVAE", encodes_protein=True),
}
# Sizes of the data, which a module keeps as attributes.
_SIZES = ("n_input", "n_input_genes", "n_input_proteins", "n_batch", "n_labels", "n_panel")
_MODEL_FILE, _LEGACY_FILE, _DATA_FILES = "model.pt", "attr.pkl", ("adata.h5ad", "mdata.h5mu")


class ScviSource:
    """A trained model of scvi-tools, and cells that are registered with it.

    Parameters
    ----------
    model
        The model, or the directory that it was saved in.
    adata
        Cells with its genes; by default those that it holds.

    Raises
    ------
    TypeError, ValueError
        As for :meth:`~scdiffusion.SCDiffusion.from_scvi_model`.
    """

    def __init__(self, model: BaseModelClass | str | Path, adata: AnnData | MuData | None) -> None:
        self.model = model = _load(Path(model), adata) if isinstance(model, str | Path) else model
        self.name = _check_class(type(model).__name__, type(model).__module__)
        self.borrowing = BORROWINGS[self.name]
        if not model.is_trained:
            raise ValueError(f"The {self.name} model is not trained yet: call model.train() first.")
        is_given = adata is not None
        adata = adata if is_given else model.adata
        if adata is None:
            raise ValueError(
                f"The {self.name} model holds no cells to learn from: pass adata, those it was trained on."
            )
        _check_genes(adata, model.registry)
        if model.minified_data_type is not None and _get_adata_minify_type(adata) is None:
            raise ValueError(
                f"The {self.name} model holds minified cells and cannot read others: leave adata out, or load it with "
                f"them, {self.name}.load(dir, adata=adata)."
            )
        if is_given:
            _check_setup(adata, model.registry)
        self.adata = model._validate_anndata(adata)
        self.manager = model.get_anndata_manager(self.adata, required=True)
        self.setup: Mapping[str, Any] = model.registry["setup_args"]
        self.layer: str | None = self.setup.get("layer")

    def conditions(self) -> tuple[pd.DataFrame, dict[str, str]]:
        """What the model was set up with, categories in its own order, and what each key is to it.

        That is `"batch"`, `"labels"`, `"categorical"` or `"continuous"`.
        """
        columns: dict[str, Any] = {}
        kinds: dict[str, str] = {}

        def add(key: str, kind: str, codes: Any, names: Sequence[Any]) -> None:
            columns[key] = pd.Categorical.from_codes(np.asarray(codes).ravel().astype(int), names)
            kinds[key] = kind

        for role, kind in ((REGISTRY_KEYS.BATCH_KEY, "batch"), (REGISTRY_KEYS.LABELS_KEY, "labels")):
            key = self.setup.get(f"{role}_key")
            if key is not None and key not in kinds:
                add(key, kind, self._registered(role), self.manager.get_state_registry(role)["categorical_mapping"])
        unlabelled, labels = self.setup.get("unlabeled_category"), self.setup.get("labels_key")
        if unlabelled is not None and kinds.get(labels) == "labels":
            columns[labels] = self._with_predictions(columns[labels], unlabelled)
        if self.setup.get("categorical_covariate_keys"):
            codes = np.asarray(self._registered(REGISTRY_KEYS.CAT_COVS_KEY))
            mappings = self.manager.get_state_registry(REGISTRY_KEYS.CAT_COVS_KEY)["mappings"]
            for i, (key, names) in enumerate(mappings.items()):
                add(key, "categorical", codes[:, i], names)
        if self.setup.get("continuous_covariate_keys"):
            values = self._registered(REGISTRY_KEYS.CONT_COVS_KEY)
            columns |= {key: np.asarray(values[key], dtype=float) for key in values.columns}
            kinds |= dict.fromkeys(values.columns, "continuous")
        return pd.DataFrame(columns, index=self.adata.obs_names), kinds

    def _with_predictions(self, labels: pd.Categorical, unlabelled: Any) -> pd.Categorical:
        """Labels without the unlabelled category, whose cells have what the model predicts."""
        names, known = np.asarray(labels, dtype=object), labels.categories.drop(unlabelled)
        gaps = names == unlabelled
        if gaps.any():  # model.predict() does not take minified data
            mean, _ = self.model.get_latent_representation(self.adata, return_dist=True)
            with torch.inference_mode():
                scores = self.model.module.classifier(torch.from_numpy(mean[gaps]).to(self.model.device))
            names[gaps] = known[scores.argmax(1).cpu().numpy()]
        return pd.Categorical(names, known)

    def covariates(self, kinds: Mapping[str, str]) -> dict[str, str]:
        """Those conditions that encoder and decoder are told."""
        module = self.model.module
        by_labels = "gene-label" in (getattr(module, name, None) for name in ("dispersion", "gene_dispersion"))
        return {key: kind for key, kind in kinds.items() if kind != "labels" or by_labels}

    def cells(self, obs: pd.DataFrame, further: Sequence[str]) -> AnnData:
        """The same expression with other `obs` and further columns of its own, where new cells too are read from."""
        missing = [key for key in further if key not in self.adata.obs]
        if missing:
            raise ValueError(
                f"adata.obs has no column {missing[0]!r}.{did_you_mean(missing[0], self.adata.obs.columns)}"
            )
        obs = obs.assign(**{key: self.adata.obs[key].array for key in further})
        expression, var = self._registered(REGISTRY_KEYS.X_KEY), _rna(self.adata, self.model.registry).var.copy()
        if self.layer is None:
            cells = AnnData(expression, obs=obs, var=var)
        else:
            cells = AnnData(obs=obs, var=var, layers={self.layer: expression})
        posteriors = self._posteriors_to_keep()
        if posteriors is not None:
            cells.obsm[Key.POSTERIORS] = posteriors
        return cells

    def _posteriors_to_keep(self) -> np.ndarray | None:
        """Mean, log-variance and log library size, `(n_cells, 2 * n_latent + 1)`, of cells not to be encoded anew."""
        if _get_adata_minify_type(self.adata) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            keys = (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY, REGISTRY_KEYS.OBSERVED_LIB_SIZE)
            mean, variance, library = (np.asarray(self._registered(key)) for key in keys)
        elif self.borrowing.encodes_protein:
            mean, variance = self.model.get_latent_representation(self.adata, return_dist=True)
            library = np.asarray(self._registered(REGISTRY_KEYS.X_KEY).sum(1))
        else:
            return None
        return np.column_stack([mean, np.log(variance), np.log(library.reshape(-1, 1))]).astype(np.float32)

    def values(self) -> str:
        """What the expression is; only a normal likelihood takes anything but counts."""
        takes_any = self.model.module.gene_likelihood == "normal"
        return LOG_NORMALISED if takes_any and not looks_like_counts(self._registered(REGISTRY_KEYS.X_KEY)) else COUNTS

    def module_settings(self) -> dict[str, Any]:
        """Arguments that make the model's module anew, plain enough to be saved."""
        renamed, module, parameters = self.borrowing.renamed, self.model.module, self.model.init_params_
        given = parameters["non_kwargs"] | {k: v for group in parameters["kwargs"].values() for k, v in group.items()}
        given = {renamed.get(name, name): value for name, value in given.items()}
        given |= {name: getattr(module, name) for name in _SIZES if hasattr(module, name)}
        covariates = self.model.registry["field_registries"].get(REGISTRY_KEYS.CAT_COVS_KEY, {})
        given |= {
            "n_cats_per_cov": covariates.get("state_registry", {}).get("n_cats_per_key") or None,
            "n_continuous_cov": self.model.summary_stats.get(f"n_{REGISTRY_KEYS.CONT_COVS_KEY}", 0),
            "use_size_factor_key": bool(module.use_size_factor_key),
            # Its encoder of library sizes has no part in this, and its prior of them is not needed.
            "use_observed_lib_size": True,
        }
        taken = _arguments(autoencoders.member(self.borrowing.autoencoder).scvi_modules[self.borrowing.module])
        settings = {name: value for name, value in given.items() if name in taken and name not in renamed}
        for name, value in settings.items():
            try:
                to_plain(value)
            except TypeError:
                raise ValueError(
                    f"The {self.name} model was made with {name}={value!r}, which cannot be stored as a plain setting. "
                    "Train one without it."
                ) from None
        return settings

    def _registered(self, key: str) -> Any:
        return self.manager.get_from_registry(key)


def _arguments(module: type) -> set[str]:
    names = set(inspect.signature(module).parameters)
    # What a linear decoder's class is given beyond its own arguments goes to that of scVI.
    return names | set(inspect.signature(VAE).parameters) if issubclass(module, VAE) else names


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
    name = _check_class(registry["model_name"])
    if adata is None and not any((path / file).exists() for file in _DATA_FILES):
        raise ValueError(f"No cells were saved in {path}: pass adata, the cells that the {name} model was trained on.")
    if adata is not None:
        _check_genes(adata, registry)
        _check_setup(adata, registry)
    return getattr(scvi.model, name).load(str(path), adata=adata, accelerator="cpu")


def _check_class(name: str, package: str = "scvi.") -> str:
    if name not in BORROWINGS or not package.startswith("scvi."):
        raise TypeError(f"from_scvi_model takes a trained {name_some(BORROWINGS)} model, not {name!r}.")
    return name


def _check_genes(adata: AnnData | MuData, registry: Mapping[str, Any]) -> None:
    genes = registry["field_registries"][REGISTRY_KEYS.X_KEY]["state_registry"]["column_names"]
    remedy = "adata = adata[:, list(model.get_var_names())].copy(), model being the scvi-tools model."
    check_genes(_rna(adata, registry).var_names.astype(str), [str(gene) for gene in genes], remedy)


def _check_setup(adata: AnnData | MuData, registry: Mapping[str, Any]) -> None:
    """Raise unless cells have what a model was set up with: its layer, its columns, and no categories but its own."""
    layer, cells = registry["setup_args"].get("layer"), _rna(adata, registry)
    if layer is not None and layer not in cells.layers:
        raise ValueError(
            f"adata.layers has no {layer!r}, which the model reads.{did_you_mean(layer, named_layers(cells))}"
        )
    for field_name, column, categories in _columns(registry):
        modality = registry["field_registries"][field_name]["data_registry"].get("mod_key")
        obs = adata.obs if modality is None else adata[modality].obs
        if column not in obs:
            raise ValueError(
                f"adata.obs has no column {column!r}, which the model was set up with. Add it, or leave adata out to use "
                "the cells that the model was trained on."
            )
        new = [] if categories is None else [name for name in obs[column].dropna().unique() if name not in categories]
        if new:
            raise ValueError(
                f"adata.obs[{column!r}] holds {name_some(new)}, which the model was not trained on; it knows "
                f"{name_some(categories)}. Leave those cells out: adata = adata[~adata.obs[{column!r}].isin({new})].copy()"
            )


def _columns(registry: Mapping[str, Any]) -> Iterator[tuple[str, str, list[Any] | None]]:
    """Fields of a model that are read from `obs`: their columns, and the categories of those that have any."""
    setup = registry["setup_args"]
    states = {name: field["state_registry"] for name, field in registry["field_registries"].items()}
    for name in (REGISTRY_KEYS.BATCH_KEY, REGISTRY_KEYS.LABELS_KEY):
        if setup.get(f"{name}_key") is not None:
            yield name, setup[f"{name}_key"], list(states[name]["categorical_mapping"])
    for key in setup.get("categorical_covariate_keys") or ():
        yield REGISTRY_KEYS.CAT_COVS_KEY, key, list(states[REGISTRY_KEYS.CAT_COVS_KEY]["mappings"][key])
    for key in setup.get("continuous_covariate_keys") or ():
        yield REGISTRY_KEYS.CONT_COVS_KEY, key, None
    if setup.get("size_factor_key") is not None:
        yield REGISTRY_KEYS.SIZE_FACTOR_KEY, setup["size_factor_key"], None


def _rna(adata: AnnData | MuData, registry: Mapping[str, Any]) -> AnnData:
    """The cells, or of several modalities the RNA."""
    modality = registry["field_registries"][REGISTRY_KEYS.X_KEY]["data_registry"].get("mod_key")
    return adata if modality is None else adata[modality]
