"""Maximum mean discrepancy, in the two papers' forms and in the unbiased one."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import pdist

from ._checks import as_pair
from ._distances import nearest_others, squared_distance_blocks


def mmd_scdiffusion(real: np.ndarray, generated: np.ndarray) -> float:
    r"""Squared MMD as scDiffusion reports it: five Gaussian kernels around the mean squared distance, biased.

    .. math::
        k(x, y) = \sum_{j=-2}^{2} \exp\Bigl(-\frac{\lVert x-y\rVert^2}{2^j b}\Bigr), \qquad
        \mathrm{MMD}^2 = \overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)},

    where :math:`b` is the mean squared distance over all pairs of different pooled cells and the means run over all
    pairs. Lower is better; 0 for identical sets only, so compare with real against real at the same number of cells:
    the floor falls as 1/n.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features); in the paper 50 joint principal components
        (:func:`joint_pca`) of log-normalised cells, the same number on both sides.

    Returns
    -------
    Squared MMD, at least 0.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518, and its evaluation code.
    Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 5.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> mmd_scdiffusion(X, X), mmd_scdiffusion(X, X + 3) > 1
    (0.0, True)
    """
    real, generated = as_pair(real, generated)
    # the mean of |x - y|^2 over pairs of different cells is twice the total variance
    b = 2 * np.concatenate([real, generated]).var(axis=0, ddof=1, dtype=np.float64).sum()
    return _biased(real, generated, widest=4 * _positive(b), n_kernels=5, ratio=2)


def mmd_scld(real: np.ndarray, generated: np.ndarray, *, n_neighbors: int = 25) -> float:
    r"""Squared MMD as SCLD reports it (Eq. 14): three Gaussian kernels scaled to the neighbourhoods of real cells.

    .. math::
        k(x, y) = \sum_{\sigma \in \{m/2,\, m,\, 2m\}} \exp\Bigl(-\frac{\lVert x-y\rVert^2}{\sigma^2}\Bigr),

    where :math:`m` is the median over real cells of the mean distance to their 25 nearest neighbours; biased estimate
    as in :func:`mmd_scdiffusion`. Lower is better. The kernels are narrow, so most of the value's floor, about 6/n, is
    every cell's similarity to itself: compare at the same number of cells only.

    Erratum: Eq. 14 as printed leaves open what is decided here. The estimate is of the squared MMD and not of its root,
    :math:`m` is that of the real cells alone, so that every generator is judged with the same kernels, and a cell is not
    its own neighbour. Values of other numbers of cells, the paper's among them, cannot be compared.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features), the same number of cells on both sides.
    n_neighbors
        Neighbours that define :math:`m`; 25 in the paper.

    Returns
    -------
    Squared MMD, at least 0.

    References
    ----------
    SCLD (2023), arXiv 2312.14220, Eq. 14; the kernel is that of Shaham et al. (2017), Bioinformatics 33(16).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> mmd_scld(X, X), mmd_scld(X, X + 3) > 0.1
    (0.0, True)
    """
    real, generated = as_pair(real, generated)
    if len(real) <= n_neighbors:
        raise ValueError(f"mmd_scld needs more than {n_neighbors} real cells, but there are {len(real)}.")
    m = np.median(np.sqrt(nearest_others(real, n_neighbors)).mean(axis=1))
    return _biased(real, generated, widest=4 * _positive(m) ** 2, n_kernels=3, ratio=4)


def mmd_unbiased(real: np.ndarray, generated: np.ndarray, *, bandwidth: float | None = None) -> float:
    r"""Unbiased squared MMD with one Gaussian kernel of median bandwidth.

    .. math::
        \mathrm{MMD}_u^2 = \frac{\sum_{i \ne j} k(x_i, x_j)}{n(n-1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{m(m-1)}
        - \frac{2 \sum_{i, j} k(x_i, y_j)}{n m}, \qquad k(x, y) = \exp\Bigl(-\frac{\lVert x-y\rVert^2}{2\sigma^2}\Bigr)

    Lower is better; its expectation is 0 for equal distributions whatever the number of cells, so it may be slightly
    negative. The bandwidth comes from the real cells alone: every generator is judged with the same kernel.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features).
    bandwidth
        :math:`\sigma`; default: the median distance between real cells (of 2,000 evenly spaced rows where there are
        more).

    Returns
    -------
    Squared MMD.

    References
    ----------
    Gretton et al. (2012), A kernel two-sample test, JMLR 13, eq. 3 (Lemma 6) and section 8.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X, Y = rng.normal(size=(2, 200, 5))
    >>> abs(mmd_unbiased(X, Y)) < 0.01, mmd_unbiased(X, Y + 1) > 0.1
    (True, True)
    """
    real, generated = as_pair(real, generated)
    if bandwidth is None:
        rows = np.linspace(0, len(real) - 1, min(len(real), 2000)).astype(int)
        bandwidth = np.median(pdist(real[rows]))
    widest = 2 * _positive(bandwidth) ** 2
    within = 0.0
    for X in (real, generated):
        n = len(X)
        # a cell's similarity to itself is 1; leaving it out is what makes the estimate unbiased
        within += (n * _mean_kernel(X, X, widest) - 1) / (n - 1)
    return within - 2 * _mean_kernel(real, generated, widest)


def _biased(real: np.ndarray, generated: np.ndarray, **kernel: float) -> float:
    xx, yy, xy = (_mean_kernel(X, Y, **kernel) for X, Y in ((real, real), (generated, generated), (real, generated)))
    return max(xx + yy - 2 * xy, 0.0)


def _mean_kernel(X: np.ndarray, Y: np.ndarray, widest: float, n_kernels: int = 1, ratio: int = 2) -> float:
    """Mean over all pairs of ``sum_k exp(-d^2 / (widest / ratio^k))``, ratio a power of two."""
    total = 0.0
    for _, block in squared_distance_blocks(X, Y):
        block *= -1 / widest
        kernel = np.exp(block, out=block)
        total += kernel.sum()
        for _ in range(n_kernels - 1):
            # each narrower kernel is a power of the one before: one exponential serves them all
            for _ in range(ratio.bit_length() - 1):
                np.square(kernel, out=kernel)
            total += kernel.sum()
    return float(total / (len(X) * len(Y)))


def _positive(scale: float) -> float:
    if not scale > 0:
        raise ValueError("More than half of the cells coincide, so the kernel has no width: pass more varied cells.")
    return float(scale)
