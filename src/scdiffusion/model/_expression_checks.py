"""Errors before any time is spent: whether a matrix holds the expression that it is said to hold."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdiffusion._compat import named_layers
from scdiffusion.autoencoders import COUNTS, LOG_NORMALISED
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.training import row_blocks

N_ROWS_TO_JUDGE_A_LAYER = 1_000
CHUNK = 2**20
# log(1 + x) of a cell scaled to a million counts stays below 14; more than this was never log-transformed
MAX_LOG_VALUE = 30
TOO_MANY = np.float32(2**31)  # counts are generated as int32
MIN_FEATURES = 2
KEEP_COUNTS = " Keep the counts before normalising, adata.layers['counts'] = adata.X.copy(), and pass layer='counts'."


def check_expression(adata: AnnData, layer: str | None, values: str) -> Any:
    """Return the matrix of a layer once it is known to hold the ``values`` it is said to, see :func:`check_anndata`."""
    if values not in _CHECKS:
        raise ValueError(f"values must be {' or '.join(map(repr, _CHECKS))}; got {values!r}.")
    X = _stored(adata, layer)
    if not sparse.issparse(X) and getattr(X, "format", None) == "csc":
        raise ValueError(
            f"{_name_of(layer)} is stored gene by gene (CSC), so that no cell can be read without all others. Load it, "
            "adata = adata.to_memory(), or store it cell by cell: scipy.sparse.csr_matrix(X)"
        )
    _CHECKS[values](X, _name_of(layer), adata)
    if X.shape[1] < MIN_FEATURES:
        raise ValueError(f"adata has {X.shape[1]} gene; a model needs {MIN_FEATURES} or more.")
    return X


def check_counts(X: Any, name: str, adata: AnnData | None = None) -> None:
    """Check that a matrix holds raw counts, with at least one in every cell.

    Parameters
    ----------
    X
        Cells by genes, dense or sparse; on disk, or a dask array, it is read in pieces.
    name
        What messages call the matrix, e.g. ``"adata.layers['counts']"``.
    adata
        Where the matrix is from, for cell names and for a better layer to suggest.

    Raises
    ------
    ValueError
        If ``X`` is empty; holds NaN, infinite, negative or non-integer values, or ones beyond int32; or has cells without
        counts.
    """
    if X is None or 0 in X.shape:
        raise ValueError(f"{name} is empty.{_where_counts_are(adata, name)}")
    empty = []
    for block in row_blocks(X):
        problem = _first_problem(block)
        if problem is not None:
            raise ValueError(f"{name} holds {problem}; scdiffusion needs raw counts.{_where_counts_are(adata, name)}")
        empty.append(_are_empty(block))
    _refuse_empty_cells(np.concatenate(empty), name, adata)


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
    empty, are_counts = [], True
    for block in row_blocks(X):
        stored = block.data[: block.nnz] if sparse.issparse(block) else block
        if not np.isfinite(stored).all() or stored.min(initial=0) < 0 or stored.max(initial=0) > MAX_LOG_VALUE:
            raise ValueError(
                f"{name} holds NaN, infinite or negative values, or ones above {MAX_LOG_VALUE}, but "
                "values='log-normalised' was said. Make it of raw counts: sc.pp.normalize_total(adata, target_sum=1e4); "
                "sc.pp.log1p(adata)"
            )
        are_counts = are_counts and _first_problem(block) is None
        empty.append(_are_empty(block))
    if are_counts:
        raise ValueError(f"{name} holds counts, but values='log-normalised' was said. Leave values out.")
    _refuse_empty_cells(np.concatenate(empty), name, adata)


_CHECKS = {COUNTS: check_counts, LOG_NORMALISED: check_log_normalised}


def _are_empty(X: np.ndarray | sparse.spmatrix) -> np.ndarray:
    return np.asarray(X.sum(axis=1)).ravel() == 0


def _refuse_empty_cells(is_empty: np.ndarray, name: str, adata: AnnData | None) -> None:
    empty = np.flatnonzero(is_empty)
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


def _stored(adata: AnnData, layer: str | None) -> Any:
    if layer is None:
        return adata.X
    if layer not in adata.layers:
        raise ValueError(f"adata.layers has no {layer!r}.{did_you_mean(layer, named_layers(adata))}")
    return adata.layers[layer]


def _name_of(layer: str | None) -> str:
    return "adata.X" if layer is None else f"adata.layers[{layer!r}]"


def _first_problem(X: np.ndarray | sparse.spmatrix) -> str | None:
    """Say what is the first value of ``X`` that cannot be a count, if there is one."""
    values = X.data[: X.nnz] if sparse.issparse(X) else X
    if values.dtype.kind == "b":
        return None
    if values.dtype.kind not in "uif":
        return f"{values.dtype} values"
    for chunk in _chunks(values):
        # Comparisons with NaN are false, so that NaN counts as bad here.
        bad = ~((chunk >= 0) & (chunk == np.floor(chunk)) & (chunk < TOO_MANY))
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
    if value >= TOO_MANY:
        return f"values beyond int32 (e.g. {value:.4g})"
    return f"{'negative values' if value < 0 else 'non-integers'} (e.g. {value:.4g})"


def _where_counts_are(adata: AnnData | None, not_in: str) -> str:
    """Name the places of ``adata`` that do hold counts, or how to keep them in a layer."""
    if adata is None:
        return KEEP_COUNTS
    layers = [layer for layer in (None, *named_layers(adata)) if _name_of(layer) != not_in]
    found = [f"layer={layer!r}" for layer in layers if looks_like_counts(_stored(adata, layer))]
    if found:
        return f" Pass {' or '.join(found)}."
    if adata.raw is not None and looks_like_counts(adata.raw.X):
        return " Take them from adata.raw: adata = adata.raw.to_adata()"
    return KEEP_COUNTS


def looks_like_counts(X: Any) -> bool:
    """Whether the first rows of a matrix hold nothing but counts."""
    if X is None or 0 in X.shape:
        return False
    X = next(row_blocks(X[:N_ROWS_TO_JUDGE_A_LAYER]))
    return _first_problem(X) is None and bool(X.sum() > 0)
