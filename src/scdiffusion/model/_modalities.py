"""Several modalities of the same cells: how they are registered, become one matrix, and are taken apart again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from scvi.data.fields import MuDataCategoricalJointObsField, MuDataNumericalJointObsField

from scdiffusion._compat import without_pulling
from scdiffusion.autoencoders import COUNTS, MODALITIES
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import check_expression
from scdiffusion.model._fields import MuDataExpressionField
from scdiffusion.model._messages import did_you_mean
from scdiffusion.model._mudata_checks import called, check_mudata, check_mudata_conditions
from scdiffusion.training import Expression, InMemoryExpression, expression_source


class Modality(NamedTuple):
    """One modality of what a model was set up with."""

    name: str
    """What users call it: its name in the MuData, or in `obsm`."""
    kind: str
    """`"rna"`, `"protein"` or `"atac"`."""
    key: str
    """Where the registry keeps it."""
    features: pd.Index
    """Names of its features."""

    @property
    def has_library_size(self) -> bool:
        """Whether counts are shares of a library size; those of a panel of proteins are not."""
        return self.kind != "protein"


def read_modalities(registry: Mapping[str, Any]) -> dict[str, Modality]:
    """The modalities in a registry by name, in the order of the columns of the expression matrix."""
    arguments = registry["setup_args"]
    if "modalities" in arguments:
        names = {kind: arguments["modalities"].get(f"{kind}_layer") for kind in MODALITIES}
    else:
        names = {"rna": "rna", "protein": arguments.get("protein_obsm_key")}
    named = [(name, kind) for kind, name in names.items() if name is not None]
    modalities = {}
    for position, (name, kind) in enumerate(named):
        key = Key.of_modality(kind) if position else Key.EXPRESSION
        features = registry["field_registries"][key]["state_registry"]["column_names"]
        modalities[name] = Modality(name, kind, key, pd.Index(np.asarray(features).astype(str)))
    return modalities


def feature_names(data: AnnData | MuData, registry: Mapping[str, Any]) -> list[str]:
    """Names of the features of all modalities in data that a model is to be given, as far as they are there."""
    names = []
    for position, modality in enumerate(read_modalities(registry).values()):
        if isinstance(data, MuData):
            names += list(data[modality.name].var_names) if modality.name in data.mod else []
        elif not position:
            names += list(data.var_names)
        elif modality.name in data.obsm:
            names += list(_as_anndata(data.obsm[modality.name], data.obs).var_names)
    return [str(name) for name in names]


class ModalitiesMixin:
    """Setting up, joining and taking apart several modalities."""

    @classmethod
    def setup_mudata(
        cls,
        mdata: MuData,
        *,
        rna_layer: str | None = None,
        protein_layer: str | None = None,
        atac_layer: str | None = None,
        condition_keys: str | Sequence[str] | None = None,
        batch_key: str | None = None,
        continuous_condition_keys: str | Sequence[str] | None = None,
        modalities: Mapping[str, str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Register the counts and conditions of a MuData, after checking that they can be learned from.

        Parameters
        ----------
        mdata
            Modalities of the same cells in the same order; left as it is but for the fields below.
        rna_layer, protein_layer, atac_layer
            Layer with the counts of a modality; by default its `X`.
        condition_keys, batch_key, continuous_condition_keys
            As for :meth:`setup_anndata`: columns of `mdata.obs`, or of the modality that `modalities` names for
            `"condition_keys"`.
        modalities
            What the modalities are called, by the argument that they belong to, as in scvi-tools:
            `{"rna_layer": "rna", "protein_layer": "prot", "atac_layer": "atac"}`, of which one or several are modelled.
            With `"condition_keys": "rna"`, conditions and batch are read from `mdata["rna"].obs`.
        **kwargs
            Used by scvi-tools when fields are transferred.

        Returns
        -------
        None. Adds `uns["_scvi_uuid"]`, `uns["_scvi_manager_uuid"]` and, with conditions,
        `obsm["_scvi_scdiffusion_conditions"]` and `obsm["_scvi_scdiffusion_continuous"]`.

        Raises
        ------
        TypeError
            If `mdata` is no MuData.
        ValueError
            If the data cannot be used: a modality that is not there, cells that not all modalities have, values that are
            not counts, and what :meth:`setup_anndata` refuses. The message says what to type instead.

        Examples
        --------
        >>> import mudata, scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> adata.X = adata.layers["counts"]
        >>> mdata = mudata.MuData({"rna": adata[:, :700].copy(), "adt": adata[:, 700:].copy()})  # genes for proteins
        >>> scd.SCDiffusion.setup_mudata(mdata, modalities={"rna_layer": "rna", "protein_layer": "adt"})
        """
        layers = {"rna_layer": rna_layer, "protein_layer": protein_layer, "atac_layer": atac_layer}
        if kwargs.get("source_registry") is None:
            check_mudata(mdata, layers, modalities)
            condition_keys, continuous_condition_keys = check_mudata_conditions(
                mdata, modalities.get("condition_keys"), condition_keys, batch_key, continuous_condition_keys
            )
        setup_method_args = cls._get_setup_method_args(
            cls=cls,
            mdata=mdata,
            **layers,
            condition_keys=list(condition_keys or []),
            batch_key=batch_key,
            continuous_condition_keys=list(continuous_condition_keys or []),
            modalities=dict(modalities),
        )
        named = [kind for kind in MODALITIES if f"{kind}_layer" in modalities]
        in_modality = {"mod_key": modalities.get("condition_keys")}
        fields = [
            MuDataExpressionField(
                Key.of_modality(kind) if position else Key.EXPRESSION,
                layers[f"{kind}_layer"],
                COUNTS,
                mod_key=modalities[f"{kind}_layer"],
                mod_required=True,
            )
            for position, kind in enumerate(named)
        ]
        batch = [batch_key] if batch_key else []
        fields += [
            MuDataCategoricalJointObsField(Key.CONDITIONS, [*(condition_keys or []), *batch], **in_modality),
            MuDataNumericalJointObsField(Key.CONTINUOUS, list(continuous_condition_keys or []), **in_modality),
        ]
        manager = AnnDataManager(fields=fields, setup_method_args=setup_method_args)
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)

    @cached_property
    def modalities(self) -> dict[str, Modality]:
        """The modalities that the model knows, by name, in the order of the columns of its expression matrix."""
        return read_modalities(self.registry_)

    @property
    def _is_multimodal(self) -> bool:
        return len(self.modalities) > 1 or self._knows_mudata

    @property
    def _knows_mudata(self) -> bool:
        return "modalities" in self.registry_["setup_args"]

    @property
    def _values(self) -> str:
        """What was registered, `"counts"` or `"log-normalised"` expression."""
        return self.registry_["setup_args"].get("values", COUNTS)

    def _expression(self, manager: AnnDataManager | None = None) -> Expression:
        """Registered expression, `(n_cells, n_genes)`, several modalities side by side and in memory."""
        manager = manager or self.adata_manager
        return _side_by_side([manager.get_from_registry(modality.key) for modality in self.modalities.values()])

    def _library_sizes(self, data: AnnData | MuData) -> np.ndarray:
        """Library sizes of the registered cells, `(n_cells, n_library)`."""
        stored = data.obsm.get(Key.POSTERIORS)
        if stored is not None:
            return np.exp(stored[:, -1:])
        own = [columns for modality, columns in self._columns() if modality.has_library_size]
        return np.concatenate(
            [
                np.hstack([np.empty((block.shape[0], 0)), *(np.asarray(block[:, columns].sum(1)) for columns in own)])
                for block in self._expression().blocks()
            ]
        )

    def _columns(self) -> Iterator[tuple[Modality, slice]]:
        """Modalities, and which columns of the expression matrix are theirs."""
        start = 0
        for modality in self.modalities.values():
            stop = start + len(modality.features)
            yield modality, slice(start, stop)
            start = stop

    def _obs_of(self, data: AnnData | MuData) -> pd.DataFrame:
        """Where the conditions are."""
        modality = self.registry_["setup_args"].get("modalities", {}).get("condition_keys")
        return data.obs if modality is None else data[modality].obs

    def _parts_of(self, data: AnnData | MuData) -> dict[str, tuple[AnnData, str | None]]:
        """Each modality as an AnnData, and its layer with the expression."""
        arguments = self.registry_["setup_args"]
        if isinstance(data, MuData) != self._knows_mudata:
            expected = "MuData" if self._knows_mudata else "AnnData"
            raise TypeError(f"The model was set up with a {expected}; got {type(data).__name__}.")
        first, *others = self.modalities
        held = data.mod if self._knows_mudata else [first, *data.obsm]
        missing = [name for name in self.modalities if name not in held]
        if missing:
            where = "mdata.mod" if self._knows_mudata else "adata.obsm"
            raise ValueError(
                f"{where} has no {missing[0]!r}, which the model was trained on.{did_you_mean(missing[0], held)}"
            )
        if self._knows_mudata:
            return {name: (data[name], arguments[f"{m.kind}_layer"]) for name, m in self.modalities.items()}
        of_others = {name: (_as_anndata(data.obsm[name], data.obs), None) for name in others}
        return {first: (data, arguments["layer"])} | of_others

    def _checked_parts_of(self, data: AnnData | MuData) -> dict[str, tuple[AnnData, Expression]]:
        """Each modality as an AnnData, and its expression, once it is known to be what the model takes."""
        checked = {}
        for name, (part, layer) in self._parts_of(data).items():
            with called(f"mdata[{name!r}]" if self._knows_mudata else "adata"):
                checked[name] = part, expression_source(check_expression(part, layer, self._values))
        return checked

    def _generated_expression(self, cells: AnnData | MuData) -> sp.csr_matrix:
        """Expression of generated cells as the model sees it, undoing :meth:`_annotate`."""
        return _side_by_side([part.X for part, _ in self._parts_of(cells).values()]).matrix

    def _describe_modalities(self, data: AnnData | MuData) -> None:
        """Keep what taking the modalities apart needs to know: `var` of each, and whether `obsm` holds a data frame."""
        first, *others = self._parts_of(data).items()
        self.var_ = first[1][0].var.copy()
        self.other_vars_ = {name: part.var.copy() for name, (part, _) in others}
        self.obsm_is_frame_ = not self._knows_mudata and any(isinstance(data.obsm[n], pd.DataFrame) for n, _ in others)

    def _by_modality(self, matrix: Any) -> Any:
        """Columns of each modality, by name; the matrix itself if there is one modality of an AnnData."""
        if not self._is_multimodal:
            return matrix
        return {modality.name: matrix[:, columns] for modality, columns in self._columns()}

    def _annotate(
        self, expression: sp.csr_matrix, obs: pd.DataFrame, obsm: dict[str, np.ndarray], provenance: dict[str, Any]
    ) -> AnnData | MuData:
        """Generated expression in the kind of object that the model was set up with."""
        uns = {Key.PROVENANCE: provenance}
        if not self._is_multimodal:
            return AnnData(expression, obs=obs, var=self.var_.copy(), obsm=obsm, uns=uns)
        parts = self._by_modality(expression)
        if not self._knows_mudata:
            first, *others = parts
            for name in others:
                protein = parts[name].toarray()
                obsm[name] = (
                    pd.DataFrame(protein, obs.index, self.modalities[name].features) if self.obsm_is_frame_ else protein
                )
            return AnnData(parts[first], obs=obs, var=self.var_.copy(), obsm=obsm, uns=uns)
        all_var = dict(zip(parts, [self.var_, *self.other_vars_.values()], strict=True))
        with without_pulling():
            mdata = MuData(
                {name: AnnData(part, obs=obs.copy(), var=all_var[name].copy()) for name, part in parts.items()}
            )
        mdata.obs = obs
        for name, values in obsm.items():
            mdata.obsm[name] = values
        mdata.uns.update(uns)
        return mdata


def _side_by_side(matrices: Sequence[Any]) -> Expression:
    sources = [expression_source(np.asarray(m) if isinstance(m, pd.DataFrame) else m) for m in matrices]
    if len(sources) == 1:
        return sources[0]
    return InMemoryExpression(sp.hstack([source.take(np.arange(source.shape[0])) for source in sources], format="csr"))


def _as_anndata(protein: Any, obs: pd.DataFrame) -> AnnData:
    """Protein counts of `obsm`, which may have column names or not, as an AnnData."""
    if isinstance(protein, pd.DataFrame):
        return AnnData(protein.to_numpy(), obs=obs, var=pd.DataFrame(index=protein.columns.astype(str)))
    return AnnData(protein, obs=obs, var=pd.DataFrame(index=np.arange(protein.shape[1]).astype(str)))
