"""Which genes rise and fall together."""

from __future__ import annotations

import numpy as np
from scipy import sparse, stats

from ._checks import Matrix, as_pair
from ._marginals import CorrelationMethod, check_method, gene_moments


def gene_correlation_error(
    real: Matrix, generated: Matrix, *, n_top: int = 200, method: CorrelationMethod = "spearman"
) -> float:
    r"""Mean absolute difference of the gene-gene correlations, over all pairs of the most variable real genes.

    .. math:: \frac{2}{G(G-1)} \sum_{g < h} \lvert \rho'_{gh} - \rho_{gh}\rvert

    Lower is better. Sampling noise alone contributes about :math:`1.1/\sqrt n`.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    n_top
        Number of genes, those with the largest variance in real cells.
    method
        ``"spearman"`` or ``"pearson"``.

    Returns
    -------
    Mean absolute difference; a gene that is constant on one side counts as uncorrelated there.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 1)) + 0.1 * rng.normal(size=(500, 4))
    >>> gene_correlation_error(X, X), gene_correlation_error(X, rng.permuted(X, axis=0)) > 0.9
    (0.0, True)
    """
    a, b = _correlation_pairs(real, generated, n_top, method)
    return float(np.abs(a - b).mean())


def gene_correlation_similarity(
    real: Matrix, generated: Matrix, *, n_top: int = 200, method: CorrelationMethod = "spearman"
) -> float:
    """Pearson correlation between the real and the generated gene-gene correlations.

    Over the pairs of :func:`gene_correlation_error`. Higher is better, 1 at most: it compares the pattern of
    co-expression, whatever its strength.

    Parameters
    ----------
    real, generated
        Log-normalised expression, shapes (n_real, n_genes) and (n_generated, n_genes), dense or CSR.
    n_top
        Number of genes, those with the largest variance in real cells; at least 3.
    method
        ``"spearman"`` or ``"pearson"``.

    Returns
    -------
    Correlation; NaN where all pairs of one side correlate equally.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(500, 2)) @ rng.normal(size=(2, 6))
    >>> round(gene_correlation_similarity(X, X), 6)
    1.0
    """
    a, b = _correlation_pairs(real, generated, n_top, method)
    if len(a) < 3 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(stats.pearsonr(a, b).statistic)


def _correlation_pairs(real: Matrix, generated: Matrix, n_top: int, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Gene-gene correlations of either side, upper triangle."""
    real, generated = as_pair(real, generated, min_cells=3, allow_sparse=True)
    check_method(method)
    top = np.sort(np.argsort(-gene_moments(real)[1], kind="stable")[:n_top])
    if len(top) < 2:
        raise ValueError(f"Correlations need at least two genes, but there is {len(top)}.")
    upper = np.triu_indices(len(top), k=1)
    return tuple(_correlations(X[:, top], method)[upper] for X in (real, generated))


def _correlations(X: Matrix, method: str) -> np.ndarray:
    X = standardised(X, method)
    return X.T @ X


def standardised(X: Matrix, method: str) -> np.ndarray:
    """Columns, or their ranks, of mean 0 and length 1, so that products are correlations; 0 where they are constant."""
    X = X.toarray() if sparse.issparse(X) else X
    X = stats.rankdata(X, axis=0) if method == "spearman" else X.astype(np.float64)
    X = X - X.mean(axis=0)
    scale = np.sqrt(np.square(X).sum(axis=0))
    return X / np.where(scale > 0, scale, 1)
