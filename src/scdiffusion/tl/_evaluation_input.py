"""Reading cells of any origin for a comparison: the same genes, the same space, every value checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdiffusion._compat import named_layers
from scdiffusion.metrics import log_normalise
from scdiffusion.metrics._checks import MAX_NUMERIC_CATEGORIES, category_name
from scdiffusion.model._expression_checks import MAX_LOG_VALUE
from scdiffusion.model._messages import did_you_mean, name_some

MIN_SHARED_GENES = 50


@dataclass(frozen=True)
class Cells:
    """Some cells; every attribute has a row for each of them."""

    log: sparse.csr_matrix  # (n_cells, n_genes)
    counts: sparse.csr_matrix | None = None  # (n_cells, n_genes)
    labels: np.ndarray | None = None  # (n_cells,), None where a cell has none
    pcs: np.ndarray | None = None  # (n_cells, n_components)
    donors: np.ndarray | None = None  # (n_cells,)

    @property
    def native(self) -> sparse.csr_matrix:
        """Counts where there are counts, else log-normalised expression."""
        return self.log if self.counts is None else self.counts

    def __len__(self) -> int:
        return self.log.shape[0]

    def __getitem__(self, rows: Any) -> Cells:
        parts = (self.log, self.counts, self.labels, self.pcs, self.donors)
        return Cells(*(None if x is None else x[rows] for x in parts))


@dataclass(frozen=True)
class Input:
    """All sides of a comparison, by name, with what a reader of the result should know about them."""

    cells: dict[str, Cells]
    genes: pd.Index
    notes: list[str]


def read(
    sides: Mapping[str, AnnData],
    groupby: str | None,
    layer: str | None,
    *,
    donor_key: str | None = None,
    few_genes: bool = False,
) -> Input:
    """Check all sides and bring them to the genes they share, and to counts or else to log-normalised expression.

    With ``few_genes``, sides of fewer genes than are needed otherwise must share as many as they have.
    """
    for name, adata in sides.items():
        _check_anndata(name, adata)
    labels = {name: None if groupby is None else _types(name, adata, groupby) for name, adata in sides.items()}
    donors = {} if donor_key is None else _held_out_donors(sides["real"], sides["train"], donor_key)
    notes: list[str] = []
    genes = _shared_genes(sides, notes, few_genes)
    matrices = {name: _matrix(name, adata, layer, notes) for name, adata in sides.items()}
    columns = {name: adata.var_names.get_indexer(genes) for name, adata in sides.items()}
    has_counts = {name: _holds_counts(name, X) for name, X in matrices.items()}
    if all(has_counts.values()):
        counts = {name: _take_genes(X, columns[name]) for name, X in matrices.items()}
        cells = {name: Cells(log_normalise(X), X, labels[name]) for name, X in counts.items()}
    else:
        logs = _all_log_normalised(matrices, columns, has_counts, notes)
        cells = {name: Cells(X, None, labels[name]) for name, X in logs.items()}
    cells = {name: replace(side, donors=donors.get(name)) for name, side in cells.items()}
    if "train" in sides:
        _check_held_out(sides["real"], sides["train"], cells["real"], cells["train"])
    return Input(cells, genes, notes)


def _check_anndata(name: str, adata: Any) -> None:
    if not isinstance(adata, AnnData):
        hint = " A MuData is compared with others." if hasattr(adata, "mod") else ""
        raise TypeError(f"{name} must be an AnnData, not {type(adata).__name__}.{hint}")
    if not adata.n_obs:
        raise ValueError(f"{name} has no cells.")
    if not adata.var_names.is_unique:
        twice = name_some(adata.var_names[adata.var_names.duplicated()].unique(), 5)
        raise ValueError(f"The genes of {name} are not unique ({twice}). Call {name}.var_names_make_unique() first.")


def _column(name: str, adata: AnnData, key: str) -> pd.Series:
    if key not in adata.obs:
        raise ValueError(f"{name}.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
    return adata.obs[key]


def _names(column: pd.Series) -> np.ndarray:
    # one tool writes categories, another strings or numbers: names are what they have in common
    return np.where(column.isna(), None, column.astype(object).map(category_name))


def _types(name: str, adata: AnnData, groupby: str) -> np.ndarray:
    column = _column(name, adata, groupby)
    if pd.api.types.is_numeric_dtype(column) and column.nunique() > MAX_NUMERIC_CATEGORIES:
        raise ValueError(
            f"{name}.obs[{groupby!r}] holds numbers ({column.nunique()} different ones), not types. Bin it first, with "
            "pd.cut, or make numbered types categories: .astype('category')."
        )
    types = _names(column)
    if "all" in types:
        raise ValueError(
            f"{name}.obs[{groupby!r}] has a type called 'all', as the rows of all cells are called. Rename it first."
        )
    return types


def _held_out_donors(real: AnnData, train: AnnData, key: str) -> dict[str, np.ndarray]:
    donors = {name: _names(_column(name, side, key)) for name, side in (("real", real), ("train", train))}
    for name, of_cells in donors.items():
        without = sum(donor is None for donor in of_cells)
        if without:
            raise ValueError(f"{without} cells of {name} have no donor in obs[{key!r}]. Leave them out.")
    held_out, trained = map(set, donors.values())
    if held_out & trained:
        raise ValueError(
            f"Donors of both real and train: {name_some(sorted(held_out & trained))}. Hold out whole donors."
        )
    if len(held_out) < 4 or len(trained) < 2:
        raise ValueError(
            f"By donor, at least four held-out donors are needed, two of them for the floor, and two training donors: "
            f"real has {len(held_out)}, train {len(trained)}."
        )
    return donors


def _shared_genes(sides: Mapping[str, AnnData], notes: list[str], few_genes: bool) -> pd.Index:
    genes = sides["real"].var_names
    for adata in sides.values():
        genes = genes[genes.isin(adata.var_names)]
    sizes = ", ".join(f"{name} {adata.n_vars}" for name, adata in sides.items())
    least = min(MIN_SHARED_GENES, *(adata.n_vars for adata in sides.values())) if few_genes else MIN_SHARED_GENES
    if len(genes) < least:
        examples = "; ".join(f"{name}: {name_some(adata.var_names[:3])}" for name, adata in sides.items())
        has_panel = min(adata.n_vars for adata in sides.values()) < least
        hint = " A smaller panel, of proteins for instance, is compared as a modality of a MuData." if has_panel else ""
        raise ValueError(
            f"{len(genes)} genes are shared by name ({sizes}), but at least {least} are needed. Set "
            f"var_names to the same kind of identifier on all sides; they begin with {examples}.{hint}"
        )
    if any(adata.n_vars != len(genes) for adata in sides.values()):
        notes.append(f"Compared on the {len(genes)} genes that all sides share ({sizes}).")
    return genes


def _matrix(name: str, adata: AnnData, layer: str | None, notes: list[str]) -> sparse.csr_matrix:
    X, where = adata.X, f"{name}.X"
    if layer is not None:
        if layer in adata.layers:
            X, where = adata.layers[layer], f"{name}.layers[{layer!r}]"
        elif name == "real" or X is None:
            raise ValueError(f"{name}.layers has no {layer!r}.{did_you_mean(layer, named_layers(adata))}")
        else:
            notes.append(f"{name} has no layer {layer!r}: its X was used.")
    if X is None:
        raise ValueError(f"{where} is empty. Pass layer= to read a layer.")
    if not isinstance(X, np.ndarray) and not sparse.issparse(X):
        X = X.compute() if hasattr(X, "compute") else X[:]  # on disk or lazy
    X = sparse.csr_matrix(X)
    X = X if X.dtype in (np.float32, np.float64) else X.astype(np.float32)
    values = X.data
    if not np.isfinite(values).all():
        n_bad = len(np.unique(np.repeat(np.arange(X.shape[0]), np.diff(X.indptr))[~np.isfinite(values)]))
        raise ValueError(f"{where} holds NaN or infinite values in {n_bad} of {X.shape[0]} cells. Remove those cells.")
    if values.size and values.min() < 0:
        raise ValueError(
            f"{where} holds negative values (down to {values.min():.4g}), but counts or log-normalised expression are "
            "needed. Scaled or centred data cannot be compared; clip a decoder's small negative values at 0 yourself."
        )
    return X


def _holds_counts(name: str, X: sparse.csr_matrix) -> bool:
    values = X.data
    if (values == np.floor(values)).all():
        return True
    if values.max() > MAX_LOG_VALUE:
        raise ValueError(
            f"{name} holds neither counts nor log-normalised expression: values are not integers, and go up to "
            f"{values.max():.4g}. Round expected counts, or apply sc.pp.log1p to normalised ones."
        )
    return False


def _take_genes(X: sparse.csr_matrix, columns: np.ndarray) -> sparse.csr_matrix:
    return X if np.array_equal(columns, np.arange(X.shape[1])) else X[:, columns]


def _all_log_normalised(
    matrices: dict[str, sparse.csr_matrix],
    columns: dict[str, np.ndarray],
    has_counts: dict[str, bool],
    notes: list[str],
) -> dict[str, sparse.csr_matrix]:
    """Log-normalise the sides with counts so that their shared genes have the total of the log-normalised sides."""
    logs = {name: _take_genes(X, columns[name]) for name, X in matrices.items() if not has_counts[name]}
    with_counts = {name: X for name, X in matrices.items() if has_counts[name]}
    if not with_counts:
        notes.append("All sides are log-normalised: metrics that need counts are left out.")
        return logs
    total = np.median(np.concatenate([_totals(X.expm1()) for X in logs.values()]))
    for name, X in with_counts.items():
        # a cell is normalised over all its genes, as log-normalised data usually were before genes were chosen
        share = np.median(_totals(_take_genes(X, columns[name])) / np.maximum(_totals(X), 1))
        logs[name] = _take_genes(log_normalise(X, total / max(share, 1e-6)), columns[name])
    notes.append(
        f"{' and '.join(n for n in matrices if not has_counts[n])} log-normalised, {' and '.join(with_counts)} counts: "
        f"compared log-normalised (median total {total:.0f} per cell on the shared genes); metrics that need counts "
        "are left out."
    )
    return {name: logs[name] for name in matrices}


def _totals(X: sparse.csr_matrix) -> np.ndarray:
    return np.asarray(X.sum(axis=1, dtype=np.float64)).ravel()


def _check_held_out(real: AnnData, train: AnnData, real_cells: Cells, train_cells: Cells) -> None:
    """Raise where real cells are among the training cells: every figure would then flatter a copying generator."""
    shared = real.obs_names.intersection(train.obs_names)
    if not (len(shared) and real.obs_names.is_unique and train.obs_names.is_unique):
        return
    # the same name may be a mere number: only cells that also hold the same values are the same
    a = _totals(real_cells.log)[real.obs_names.get_indexer(shared)]
    b = _totals(train_cells.log)[train.obs_names.get_indexer(shared)]
    n_same = int(np.isclose(a, b, rtol=1e-6).sum())
    if n_same > 0.01 * real.n_obs:
        raise ValueError(
            f"{n_same} of the {real.n_obs} real cells are also in train. Pass as real the cells that were held out from "
            "training, or leave train out."
        )
