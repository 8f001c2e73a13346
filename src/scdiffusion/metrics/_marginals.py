"""Cell by cell and gene by gene: depth, sparsity, means and variances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from scipy import sparse, stats

from ._checks import Matrix, as_matrix, as_pair

CorrelationMethod = Literal["spearman", "pearson"]


def ks_distance(a: Sequence[float], b: Sequence[float]) -> float:
    r"""Kolmogorov-Smirnov distance between two samples of one number per cell, such as the library size.

    .. math:: D = \sup_t \lvert \hat F_a(t) - \hat F_b(t)\rvert

    Lower is better; 0 for equal, 1 for disjoint distributions. Two real samples of n cells differ by about
    :math:`1.2/\sqrt n`.

    Parameters
    ----------
    a, b
        Values, shapes (n_a,) and (n_b,).

    Returns
    -------
    Distance between 0 and 1.

    References
    ----------
    Massey (1951), The Kolmogorov-Smirnov test for goodness of fit, JASA 46.

    Examples
    --------
    >>> ks_distance([1, 2, 3, 4], [3, 4, 5, 6])
    0.5
    """
    a, b = (np.sort(_vector(values, name)) for name, values in (("a", a), ("b", b)))
    everywhere = np.concatenate([a, b])
    below_a, below_b = (np.searchsorted(x, everywhere, side="right") / len(x) for x in (a, b))
    return float(np.abs(below_a - below_b).max())


def library_size(counts: Matrix) -> np.ndarray:
    """Total counts of every cell, shape (n_cells,).

    Parameters
    ----------
    counts
        Counts, shape (n_cells, n_genes), dense or CSR.

    Examples
    --------
    >>> library_size([[1, 0, 2], [0, 0, 0]])
    array([3., 0.])
    """
    counts = as_matrix(counts, "counts", min_cells=1, allow_sparse=True)
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def n_genes(X: Matrix) -> np.ndarray:
    """Count the genes with a non-zero value in every cell, shape (n_cells,).

    Parameters
    ----------
    X
        Counts or log-normalised expression, shape (n_cells, n_genes), dense or CSR.

    Examples
    --------
    >>> n_genes([[1, 0, 2], [0, 0, 0]])
    array([2, 0])
    """
    X = as_matrix(X, "X", min_cells=1, allow_sparse=True)
    # a stored zero is no expression
    return np.asarray((X != 0).sum(axis=1)).ravel()


def zero_fraction(X: Matrix) -> np.ndarray:
    """Share of genes with value zero in every cell, shape (n_cells,).

    Parameters
    ----------
    X
        Counts or log-normalised expression, shape (n_cells, n_genes), dense or CSR.

    Examples
    --------
    >>> zero_fraction([[1, 0, 2, 0], [0, 0, 0, 0]])
    array([0.5, 1. ])
    """
    X = as_matrix(X, "X", min_cells=1, allow_sparse=True)
    return 1 - n_genes(X) / X.shape[1]


def gene_mean_correlation(real: Matrix, generated: Matrix, *, method: CorrelationMethod = "spearman") -> float:
    """Correlation of the genes' means: the papers' SCC (``"spearman"``) and PCC (``"pearson"``).

    Higher is better, 1 at most. A smoke test only: cells drawn gene by gene, or with every gene shuffled across cells,
    reach 0.98 as well.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    method
        ``"spearman"`` or ``"pearson"``.

    Returns
    -------
    Correlation; NaN where one side's means are all equal.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).poisson([1, 5, 9], size=(100, 3))
    >>> round(gene_mean_correlation(X, 2 * X), 6)
    1.0
    """
    real, generated = as_pair(real, generated, min_cells=1, allow_sparse=True)
    check_method(method)
    correlate = stats.spearmanr if method == "spearman" else stats.pearsonr
    mean_real, mean_generated = gene_moments(real)[0], gene_moments(generated)[0]
    if np.ptp(mean_real) == 0 or np.ptp(mean_generated) == 0:
        return float("nan")
    return float(correlate(mean_real, mean_generated).statistic)


def gene_mean_error(real: Matrix, generated: Matrix) -> float:
    r"""Root mean squared difference of the genes' log10 means: 0.3 is a factor of two.

    .. math:: \Bigl(\frac1G \sum_g \bigl(\log_{10} \max(\mu'_g, \tfrac1n) - \log_{10} \max(\mu_g, \tfrac1n)\bigr)^2
        \Bigr)^{1/2}

    over the :math:`G` genes expressed on either side; n is the number of cells of the smaller side, so that "not seen"
    counts as "seen once at most". Lower is better.

    Parameters
    ----------
    real, generated
        Counts (or log-normalised expression), shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.

    Returns
    -------
    Error in decades.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).poisson(5, size=(100, 3))
    >>> round(gene_mean_error(X, 10 * X), 6)
    1.0
    """
    return _log10_error(real, generated, moment=0)


def gene_variance_error(real: Matrix, generated: Matrix) -> float:
    """Root mean squared difference of the genes' log10 variances, floored and averaged as in :func:`gene_mean_error`.

    Lower is better; 0.3 is a factor of two. A decoder whose dispersion has not converged shows here first.

    Parameters
    ----------
    real, generated
        Counts (or log-normalised expression), shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.

    Returns
    -------
    Error in decades.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).poisson(5, size=(100, 3))
    >>> round(gene_variance_error(X, 10 * X), 6)
    2.0
    """
    return _log10_error(real, generated, moment=1)


def _vector(values: Sequence[float], name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or not len(values) or not np.isfinite(values).all():
        raise ValueError(f"{name} must hold one finite number per cell, for at least one cell.")
    return values


def _log10_error(real: Matrix, generated: Matrix, moment: int) -> float:
    real, generated = as_pair(real, generated, allow_sparse=True)
    a, b = gene_moments(real), gene_moments(generated)
    expressed = (a[0] > 0) | (b[0] > 0)
    if not expressed.any():
        raise ValueError("No gene is expressed on either side.")
    floor = 1 / min(real.shape[0], generated.shape[0])
    ratio = np.maximum(b[moment][expressed], floor) / np.maximum(a[moment][expressed], floor)
    return float(np.sqrt(np.square(np.log10(ratio)).mean()))


def check_method(method: str) -> None:
    """Raise unless ``method`` names a correlation."""
    if method not in get_args(CorrelationMethod):
        raise ValueError(f"method must be 'spearman' or 'pearson', not {method!r}.")


def gene_moments(X: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of every gene, in float64."""
    if not sparse.issparse(X):
        return X.mean(axis=0, dtype=np.float64), X.var(axis=0, dtype=np.float64)
    # sums of counts are exact, and so are ties between genes; scipy's mean would break them
    n, X = X.shape[0], X.astype(np.float64)
    mean, square = (np.asarray(total).ravel() / n for total in (X.sum(axis=0), X.power(2).sum(axis=0)))
    return mean, np.maximum(square - mean**2, 0)
