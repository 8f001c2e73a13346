"""Errors before any time is spent: what is wrong with the data, and what to type instead."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from scdiffusion.autoencoders import COUNTS, LOG_NORMALISED

MIN_CELLS = 50
MIN_CELLS_PER_CATEGORY = 3
MAX_FLOAT_CATEGORIES = 20
N_ROWS_ON_DISK = 10_000
N_ROWS_TO_JUDGE_A_LAYER = 1_000
CHUNK = 2**20
# log(1 + x) of a cell scaled to a million counts stays below 14; more than this was never log-transformed
MAX_LOG_VALUE = 30


def name_some(names: Iterable[Any], n: int = 10) -> str:
    """Return the first ``n`` names as a message shows them: ``'B cell', 'NK' and 3 more``."""
    names = [repr(str(name)) for name in names]
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more if names else "none"


def did_you_mean(name: Any, available: Iterable[Any]) -> str:
    """Return the end of a message about an unknown name: the closest ones, whatever their case, and the list."""
    available = [str(candidate) for candidate in available]
    folded = difflib.get_close_matches(str(name).casefold(), {candidate.casefold() for candidate in available})
    close = [repr(candidate) for match in folded for candidate in available if candidate.casefold() == match]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{hint} Available: {name_some(available)}."


def check_anndata(
    adata: AnnData,
    layer: str | None = None,
    condition_keys: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    values: str = COUNTS,
) -> list[str]:
    """Check that a model can be trained on ``adata``, which is left as it is.

    Parameters
    ----------
    adata
        Cells by genes.
    layer
        Where the expression is; ``None`` for ``adata.X``.
    condition_keys
        One ``obs`` column or several, to generate cells by.
    batch_key
        An ``obs`` column of no interest in itself.
    values
        What the expression is, ``"counts"`` or ``"log-normalised"``.

    Returns
    -------
    The condition keys as a list, without ``batch_key``.

    Raises
    ------
    TypeError
        If ``adata`` is no :class:`~anndata.AnnData`.
    ValueError
        If the expression, the names or a condition cannot be used. The message says what to type instead.

    Warns
    -----
    UserWarning
        If a condition has one category only, or categories with too few cells to learn.
    """
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData, not {type(adata).__name__}. Of a MuData, pass mdata['rna'].")
    keys = _as_list(condition_keys, batch_key)
    columns = [*keys, batch_key] if batch_key is not None else keys
    _check_names(adata)
    for key in columns:
        _check_column(adata, key)
    check_expression(adata, layer, values)
    _warn_about_categories(adata, columns)
    return keys


def check_expression(adata: AnnData, layer: str | None, values: str) -> Any:
    """Return the matrix of a layer once it is known to hold the ``values`` it is said to, see :func:`check_anndata`."""
    if values not in _CHECKS:
        raise ValueError(f"values must be {' or '.join(map(repr, _CHECKS))}; got {values!r}.")
    X = _stored(adata, layer)
    _CHECKS[values](X, _name_of(layer), adata)
    return X


def check_counts(X: Any, name: str, adata: AnnData | None = None) -> None:
    """Check that a matrix holds raw counts, with at least one in every cell.

    Parameters
    ----------
    X
        Cells by genes, dense or sparse. Of a matrix on disk, and of a dask array, the first 10,000 cells are checked.
    name
        What messages call the matrix, e.g. ``"adata.layers['counts']"``.
    adata
        Where the matrix is from, for cell names and for a better layer to suggest.

    Raises
    ------
    ValueError
        If ``X`` is empty; holds NaN, infinite, negative or non-integer values; or has cells without counts.
    """
    if X is None or 0 in X.shape:
        raise ValueError(f"{name} is empty.{_where_counts_are(adata, name)}")
    X = _in_memory(X, N_ROWS_ON_DISK)
    problem = _first_problem(X)
    if problem is not None:
        raise ValueError(f"{name} holds {problem}; scdiffusion needs raw counts.{_where_counts_are(adata, name)}")
    _check_no_empty_cells(X, name, adata)


def check_log_normalised(X: Any, name: str, adata: AnnData | None = None) -> None:
    """Check that a matrix holds log-normalised expression; the parameters are those of :func:`check_counts`.

    Raises
    ------
    ValueError
        If ``X`` is empty; holds NaN, infinite, negative or very large values, or nothing but integers; or has cells
        without expression.
    """
    if X is None or 0 in X.shape:
        raise ValueError(f"{name} is empty. Name a layer with log-normalised expression: layer=...")
    X = _in_memory(X, N_ROWS_ON_DISK)
    stored = X.data[: X.nnz] if sparse.issparse(X) else X
    if not np.isfinite(stored).all() or stored.min(initial=0) < 0 or stored.max(initial=0) > MAX_LOG_VALUE:
        raise ValueError(
            f"{name} holds NaN, infinite or negative values, or ones above {MAX_LOG_VALUE}, but values='log-normalised' "
            "was said. Make it of raw counts: sc.pp.normalize_total(adata, target_sum=1e4); sc.pp.log1p(adata)"
        )
    if _first_problem(X) is None:
        raise ValueError(f"{name} holds counts, but values='log-normalised' was said. Leave values out.")
    _check_no_empty_cells(X, name, adata)


_CHECKS = {COUNTS: check_counts, LOG_NORMALISED: check_log_normalised}


def _check_no_empty_cells(X: np.ndarray | sparse.spmatrix, name: str, adata: AnnData | None) -> None:
    empty = np.flatnonzero(np.asarray(X.sum(axis=1)).ravel() == 0)
    if len(empty):
        cells = empty if adata is None else adata.obs_names[empty]
        # scanpy's filter reads adata.X only, where the sums of a layer are not to be found.
        remedy = (
            "sc.pp.filter_cells(adata, min_counts=1)"
            if name == _name_of(None)
            else f"adata = adata[np.ravel({name}.sum(axis=1)) > 0].copy()"
        )
        raise ValueError(
            f"{name} has {len(empty)} cell(s) without any count ({name_some(cells, 5)}). Remove them: {remedy}"
        )


def _as_list(condition_keys: str | Sequence[str] | None, batch_key: str | None) -> list[str]:
    if condition_keys is None:
        condition_keys = []
    keys = [condition_keys] if isinstance(condition_keys, str) else list(condition_keys)
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise ValueError(f"condition_keys names {name_some(twice)} twice. Name every column once.")
    if batch_key in keys:
        raise ValueError(
            f"batch_key {batch_key!r} is also in condition_keys. Give it in one of them: in condition_keys to generate "
            "cells by it, as batch_key if it is a nuisance."
        )
    return keys


def _check_names(adata: AnnData) -> None:
    if adata.n_vars == 0:
        raise ValueError("adata has no genes (adata.n_vars is 0).")
    if adata.n_obs < MIN_CELLS:
        raise ValueError(f"adata has {adata.n_obs} cells; scdiffusion needs {MIN_CELLS} or more to learn from.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"adata.var_names are not unique ({name_some(twice, 5)}). Call adata.var_names_make_unique() first."
        )


def _check_column(adata: AnnData, key: str) -> None:
    if key not in adata.obs:
        raise ValueError(f"adata.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
    column, where = adata.obs[key], f"adata.obs[{key!r}]"
    if pd.api.types.is_float_dtype(column) and column.nunique() > MAX_FLOAT_CATEGORIES:
        raise ValueError(
            f"{where} holds {column.nunique()} different numbers, but conditions are categorical. Bin it first: "
            f"adata.obs['{key}_binned'] = pd.cut({where}, bins=5).astype(str)"
        )
    n_missing = int(column.isna().sum())
    if n_missing:
        as_category = "" if isinstance(column.dtype, pd.CategoricalDtype) else ".astype('category')"
        raise ValueError(
            f"{where} is missing (NaN) in {n_missing} of {adata.n_obs} cells. Drop them: "
            f"adata = adata[{where}.notna()].copy()\nor make them a category: "
            f"{where} = {where}{as_category}.cat.add_categories('unknown').fillna('unknown')"
        )


def _warn_about_categories(adata: AnnData, keys: list[str]) -> None:
    rare = []
    for key in keys:
        n_cells = adata.obs[key].value_counts()
        # A category that a subset has left behind has no cells and is not one to learn.
        n_cells = n_cells[n_cells > 0]
        if len(n_cells) == 1:
            message = f"adata.obs[{key!r}] carries no information: its only category is {name_some(n_cells.index)}."
            warnings.warn(message, UserWarning, stacklevel=4)
        rare += [f"{key}: {category}" for category in n_cells.index[n_cells < MIN_CELLS_PER_CATEGORY]]
    if rare:
        message = f"Fewer than {MIN_CELLS_PER_CATEGORY} cells to learn from in {name_some(rare)}."
        warnings.warn(message, UserWarning, stacklevel=4)


def _stored(adata: AnnData, layer: str | None) -> Any:
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        raise ValueError(f"adata.layers has no {layer!r}.{did_you_mean(layer, adata.layers)}")
    return adata.layers[layer]


def _name_of(layer: str | None) -> str:
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def _in_memory(X: Any, n_rows: int) -> np.ndarray | sparse.spmatrix:
    """Return ``X`` itself, or the first rows of what is on disk or lazy."""
    if not isinstance(X, np.ndarray) and not sparse.issparse(X):
        X = X[:n_rows]
        X = X.compute() if hasattr(X, "compute") else X
    return X if sparse.issparse(X) else np.asarray(X)


def _first_problem(X: np.ndarray | sparse.spmatrix) -> str | None:
    """Say what is the first value of ``X`` that cannot be a count, if there is one."""
    values = X.data[: X.nnz] if sparse.issparse(X) else X
    if values.dtype.kind in "bu":
        return None
    if values.dtype.kind not in "if":
        return f"{values.dtype} values"
    for chunk in _chunks(values):
        # Comparisons with NaN are false, so that NaN counts as bad here.
        bad = ~((chunk >= 0) & (chunk == np.floor(chunk)) & (chunk < np.inf))
        if bad.any():
            return _describe(chunk[bad][0])
    return None


def _chunks(values: np.ndarray) -> Iterator[np.ndarray]:
    """Cut the values along the first axis, because a check needs scratch space the size of what it looks at."""
    step = max(1, CHUNK * len(values) // max(values.size, 1))
    return (values[start : start + step] for start in range(0, len(values), step))


def _describe(value: np.number) -> str:
    if np.isnan(value):
        return "NaN"
    if np.isinf(value):
        return "infinite values"
    return f"{'negative values' if value < 0 else 'non-integers'} (e.g. {value:.4g})"


def _where_counts_are(adata: AnnData | None, not_in: str) -> str:
    """Name the places of ``adata`` that do hold counts, or how to keep them in a layer."""
    keep = " Keep the counts before normalising, adata.layers['counts'] = adata.X.copy(), and pass layer='counts'."
    if adata is None:
        return keep
    layers = [layer for layer in (None, *adata.layers) if _name_of(layer) != not_in]
    found = [f"layer={layer!r}" for layer in layers if _looks_like_counts(_stored(adata, layer))]
    if found:
        return f" Pass {' or '.join(found)}."
    if adata.raw is not None and _looks_like_counts(adata.raw.X):
        return " Take them from adata.raw: adata = adata.raw.to_adata()"
    return keep


def _looks_like_counts(X: Any) -> bool:
    if X is None or 0 in X.shape:
        return False
    X = _in_memory(X[:N_ROWS_TO_JUDGE_A_LAYER], N_ROWS_TO_JUDGE_A_LAYER)
    return _first_problem(X) is None and bool(X.sum() > 0)
