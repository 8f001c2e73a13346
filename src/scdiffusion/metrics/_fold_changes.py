"""Differences between cell types, and whether generated cells keep them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._checks import Matrix, as_labelled_pair, as_labels, as_matrix


def log_fold_changes(X: Matrix, labels: Sequence[Any], *, groups: Any = None) -> np.ndarray:
    r"""Log2 fold change of every gene in each type against all other cells.

    .. math::
        \mathrm{LFC}_{tg} = \frac{1}{\ln 2} \bigl(\overline{x_{cg}}^{\,c \in t} - \overline{x_{cg}}^{\,c \notin t}\bigr)

    on log-normalised expression: the ratio of geometric means of (1 + CP10k), which stays finite for unexpressed genes.

    Parameters
    ----------
    X
        Log-normalised expression, natural log, shape (n_cells, n_genes), dense or CSR.
    labels
        Type of every cell, shape (n_cells,).
    groups
        Type or types to compute; default: all, sorted.

    Returns
    -------
    Fold changes, shape (n_groups, n_genes).

    Examples
    --------
    >>> import numpy as np
    >>> log_fold_changes(np.log1p([[3, 0], [3, 0], [0, 0]]), ["B", "B", "T"])
    array([[ 2.,  0.],
           [-2.,  0.]])
    """
    X = as_matrix(X, "X", allow_sparse=True)
    labels = as_labels(labels, X.shape[0], "labels")
    types, codes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(types) < 2:
        raise ValueError(f"Fold changes against the rest need at least two types, but labels holds {len(types)}.")
    member = (np.arange(len(types))[:, None] == codes).astype(np.float64)  # (n_types, n_cells)
    sums = np.asarray((X.T @ member.T).T)  # (n_types, n_genes)
    inside = sums / sizes[:, None]
    outside = (sums.sum(axis=0) - sums) / (len(labels) - sizes)[:, None]
    changes = (inside - outside) / np.log(2)
    return changes if groups is None else changes[_positions(types, groups)]


def lfc_slope(
    real: Matrix, real_y: Sequence[Any], generated: Matrix, generated_y: Sequence[Any], *, groups: Any = None
) -> float:
    r"""Slope of generated on real log-fold changes, each type against the rest; the mean over types.

    .. math:: \frac1K \sum_t \frac{\operatorname{cov}_g(\mathrm{LFC}'_{tg}, \mathrm{LFC}_{tg})}
        {\operatorname{var}_g(\mathrm{LFC}_{tg})}

    1 is perfect, below 1 the differences between types are attenuated, above 1 exaggerated. Noise in the real fold
    changes pulls the slope of even a second real sample below 1: compare with that.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    real_y, generated_y
        Types, shapes (n_real,) and (n_generated,); the same types on both sides.
    groups
        Type or types to average over; default: all.

    Returns
    -------
    Mean slope.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["B", "T"], 50)
    >>> X = np.random.default_rng(0).normal(size=(100, 9)) * (1 + (y == "T")[:, None])
    >>> round(lfc_slope(X, y, 0.5 * X, y), 6)
    0.5
    """
    a, b = _paired_changes(real, real_y, generated, generated_y, groups)
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return float(_mean_ratio((a * b).sum(axis=1), np.square(a).sum(axis=1)))


def lfc_correlation(
    real: Matrix, real_y: Sequence[Any], generated: Matrix, generated_y: Sequence[Any], *, groups: Any = None
) -> float:
    """Pearson correlation of real and generated log-fold changes, each type against the rest; the mean over types.

    Higher is better, 1 at most. Unlike :func:`lfc_slope` it ignores attenuation.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    real_y, generated_y
        Types, shapes (n_real,) and (n_generated,); the same types on both sides.
    groups
        Type or types to average over; default: all.

    Returns
    -------
    Mean correlation.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["B", "T"], 50)
    >>> X = np.random.default_rng(0).normal(size=(100, 9)) * (1 + (y == "T")[:, None])
    >>> round(lfc_correlation(X, y, 0.5 * X, y), 6)
    1.0
    """
    a, b = _paired_changes(real, real_y, generated, generated_y, groups)
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return float(_mean_ratio((a * b).sum(axis=1), np.sqrt(np.square(a).sum(axis=1) * np.square(b).sum(axis=1))))


def marker_overlap(
    real: Matrix,
    real_y: Sequence[Any],
    generated: Matrix,
    generated_y: Sequence[Any],
    *,
    n_top: int = 50,
    groups: Any = None,
) -> float:
    """Share of each type's top marker genes in real cells that are top markers in generated cells; mean over types.

    Markers are the genes with the largest :func:`log_fold_changes`. Higher is better, 1 at most; chance is
    ``n_top / n_genes``.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    real_y, generated_y
        Types, shapes (n_real,) and (n_generated,); the same types on both sides.
    n_top
        Markers per type.
    groups
        Type or types to average over; default: all.

    Returns
    -------
    Mean overlap between 0 and 1.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["B", "T"], 50)
    >>> X = np.random.default_rng(0).normal(size=(100, 9)) * (1 + (y == "T")[:, None])
    >>> marker_overlap(X, y, X, y, n_top=3)
    1.0
    """
    a, b = _paired_changes(real, real_y, generated, generated_y, groups)
    if not 0 < n_top < a.shape[1]:
        raise ValueError(
            f"n_top must be between 1 and {a.shape[1] - 1} where there are {a.shape[1]} genes, not {n_top}."
        )
    top_a, top_b = (np.argsort(-x, axis=1, kind="stable")[:, :n_top] for x in (a, b))
    return float(np.mean([len(np.intersect1d(i, j)) / n_top for i, j in zip(top_a, top_b, strict=True)]))


def _positions(types: np.ndarray, groups: Any) -> np.ndarray:
    groups = np.atleast_1d(groups)
    unknown = np.setdiff1d(groups, types)
    if len(unknown):
        raise ValueError(f"No cells of {', '.join(map(repr, unknown.tolist()))}; there are {types.tolist()}.")
    return np.searchsorted(types, groups)


def _paired_changes(real, real_y, generated, generated_y, groups) -> tuple[np.ndarray, np.ndarray]:
    names = ("real", "real_y", "generated", "generated_y")
    real, real_y, generated, generated_y = as_labelled_pair(real, real_y, generated, generated_y, names)
    one_sided = np.setxor1d(real_y, generated_y).tolist()
    if one_sided:
        raise ValueError(f"Both sides need the same types, but only one side has {one_sided}: leave those cells out.")
    return log_fold_changes(real, real_y, groups=groups), log_fold_changes(generated, generated_y, groups=groups)


def _mean_ratio(numerator: np.ndarray, denominator: np.ndarray) -> float:
    if not (denominator > 0).all():
        raise ValueError("A type does not differ from the rest in any gene: are the cells all the same?")
    return float((numerator / denominator).mean())
