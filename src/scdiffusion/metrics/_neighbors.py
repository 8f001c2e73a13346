"""Metrics on nearest neighbours: mixing, fidelity, diversity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ._checks import as_labels, as_matrix, as_pair
from ._distances import nearest_others, squared_distance_blocks


class DensityCoverage(NamedTuple):
    """Result of :func:`density_coverage`."""

    density: float
    coverage: float


class PrecisionRecall(NamedTuple):
    """Result of :func:`precision_recall`."""

    precision: float
    recall: float


def lisi(X: np.ndarray, batches: Sequence[Any], *, perplexity: int = 30) -> float:
    r"""Local inverse Simpson's index of the batches around a cell, scaled to 0..1 (iLISI).

    Each cell weighs its :math:`3 \times` ``perplexity`` nearest neighbours (itself counted, with weight 0) by
    :math:`w_{ij} \propto e^{-\beta_i d_{ij}}`, with :math:`\beta_i` such that the weights have the given perplexity.
    Over the :math:`B` batches

    .. math::
        \mathrm{LISI}_i = \Bigl(\sum_b \bigl(\textstyle\sum_{j \in b} w_{ij}\bigr)^2\Bigr)^{-1}, \qquad
        \mathrm{iLISI} = \frac{\operatorname{median}_i \mathrm{LISI}_i - 1}{B - 1}.

    Higher is better: 1 where real and generated cells mix perfectly, 0 where they stay apart. Real against real falls
    short of 1 (about 0.9), since neighbourhoods are finite. Equals ``scib_metrics.ilisi_knn`` with exact neighbours.

    Parameters
    ----------
    X
        Coordinates of all cells, shape (n_cells, n_features); for a generator, real and generated ones stacked.
    batches
        Batch of each cell, e.g. ``["real"] * n_real + ["generated"] * n_generated``.
    perplexity
        Effective number of neighbours.

    Returns
    -------
    Scaled iLISI.

    References
    ----------
    Korsunsky et al. (2019), Harmony, Nature Methods 16. Luecken et al. (2022), scIB, Nature Methods 19.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(400, 2))
    >>> batches = np.repeat(["real", "generated"], 200)
    >>> lisi(X, batches) > 0.9, round(lisi(X + 99 * (batches == "real")[:, None], batches), 6)
    (True, 0.0)
    """
    X = as_matrix(X, "X", min_cells=3 * perplexity)
    _, codes = np.unique(as_labels(batches, len(X), "batches"), return_inverse=True)
    n_batches = codes.max() + 1
    if n_batches < 2:
        raise ValueError("batches holds one value only, but mixing needs at least two, e.g. 'real' and 'generated'.")
    distances, neighbors = _knn(3 * perplexity - 1).fit(X).kneighbors()  # without the cell itself
    weights = _perplexity_weights(distances, perplexity)
    shares = [(weights * (codes[neighbors] == b)).sum(axis=1) for b in range(n_batches)]
    index = 1 / np.square(shares).sum(axis=0)
    return float((np.median(index) - 1) / (n_batches - 1))


def density_coverage(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> DensityCoverage:
    r"""How densely generated cells populate the neighbourhoods of real ones, and how many of these they reach.

    With :math:`B_i` the open ball around real cell :math:`x_i` that reaches to its k-th nearest real neighbour,

    .. math::
        \mathrm{density} = \frac{1}{kM} \sum_{j=1}^{M} \sum_{i=1}^{N} 1[y_j \in B_i], \qquad
        \mathrm{coverage} = \frac{1}{N} \sum_{i=1}^{N} 1[\exists j : y_j \in B_i].

    Higher is better for both. Density is 1 in expectation for a perfect generator and above 1 for one that prefers the
    crowded places; coverage is :math:`1 - 2^{-k}` for a perfect generator with as many cells, and falls where real
    states are missing.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features), the same number of cells on both sides.
    k
        Neighbours that define a ball; 5 in the paper.

    Returns
    -------
    Density and coverage, as a named tuple.

    References
    ----------
    Naeem et al. (2020), Reliable fidelity and diversity metrics for generative models, ICML.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> density_coverage(X, X), density_coverage(X, X + 99)
    (DensityCoverage(density=1.0, coverage=1.0), DensityCoverage(density=0.0, coverage=0.0))
    """
    real, generated = _pair_for_balls(real, generated, k)
    n_inside, n_covered = 0, 0
    radii = nearest_others(real, k)[:, -1:]
    for rows, block in squared_distance_blocks(real, generated):
        inside = block < radii[rows]
        n_inside += int(np.count_nonzero(inside))
        n_covered += int(np.count_nonzero(inside.any(axis=1)))
    return DensityCoverage(n_inside / (k * len(generated)), n_covered / len(real))


def precision_recall(real: np.ndarray, generated: np.ndarray, *, k: int = 5) -> PrecisionRecall:
    r"""Share of generated cells within the real cells' neighbourhoods, and of real ones within the generated cells'.

    With the balls :math:`B` of :func:`density_coverage` around the cells of one side,

    .. math::
        \mathrm{precision} = \frac{1}{M} \sum_{j} 1[\exists i : y_j \in B(x_i)], \qquad
        \mathrm{recall} = \frac{1}{N} \sum_{i} 1[\exists j : x_i \in B(y_j)].

    Higher is better for both. One outlier with a wide ball can lift either: prefer :func:`density_coverage`.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features), the same number of cells on both sides.
    k
        Neighbours that define a ball.

    Returns
    -------
    Precision and recall, as a named tuple.

    References
    ----------
    Kynkäänniemi et al. (2019), NeurIPS; Naeem et al. (2020), ICML.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(100, 5))
    >>> precision_recall(X, X), precision_recall(X, X + 99)
    (PrecisionRecall(precision=1.0, recall=1.0), PrecisionRecall(precision=0.0, recall=0.0))
    """
    real, generated = _pair_for_balls(real, generated, k)
    return PrecisionRecall(_share_in_balls(generated, real, k), _share_in_balls(real, generated, k))


def one_nn_accuracy(real: np.ndarray, generated: np.ndarray) -> float:
    r"""Leave-one-out accuracy of the nearest neighbour in telling real from generated cells.

    .. math::
        \tfrac12 P\bigl(\mathrm{nn}(x) \in \text{real}\bigr) + \tfrac12 P\bigl(\mathrm{nn}(y) \in \text{generated}\bigr)

    0.5 is perfect, 1 means the two stay apart, and values towards 0 mean that generated cells are copies of these real
    ones (identical sets give 0).

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features).

    Returns
    -------
    Accuracy, averaged over the two sides.

    References
    ----------
    Lopez-Paz & Oquab (2017), ICLR. Xu et al. (2018), arXiv 1806.07755.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.random.default_rng(0).normal(size=(50, 2))
    >>> one_nn_accuracy(X, X), one_nn_accuracy(X, X + 99)
    (0.0, 1.0)
    """
    real, generated = as_pair(real, generated)
    is_real = np.repeat([True, False], [len(real), len(generated)])
    nearest = _knn(1).fit(np.concatenate([real, generated])).kneighbors(return_distance=False).ravel()
    correct = is_real[nearest] == is_real
    return float(correct[is_real].mean() + correct[~is_real].mean()) / 2


def _knn(n_neighbors: int) -> NearestNeighbors:
    # trees lose to brute force in tens of dimensions, and scikit-learn's brute force works in blocks
    return NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute")


def _pair_for_balls(real: np.ndarray, generated: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    return as_pair(real, generated, min_cells=k + 1)


def _share_in_balls(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    radii = nearest_others(centres, k)[:, -1]
    n_inside = sum(
        np.count_nonzero((block < radii).any(axis=1)) for _, block in squared_distance_blocks(points, centres)
    )
    return int(n_inside) / len(points)


def _perplexity_weights(distances: np.ndarray, perplexity: float, *, tolerance: float = 1e-5) -> np.ndarray:
    """Weights exp(-beta d), normalised per row, with each row's beta found by bisection on the entropy."""
    # a common offset changes neither weights nor entropy, but keeps far-away rows from underflowing
    distances = distances - distances.min(axis=1, keepdims=True)
    weights = np.empty_like(distances)
    rows = np.arange(len(distances))
    beta, low, high = np.ones(len(rows)), np.zeros(len(rows)), np.full(len(rows), np.inf)
    for _ in range(50):
        d = distances[rows]
        w = np.exp(-beta[rows, None] * d)
        total = w.sum(axis=1)
        excess = np.log(total) + beta[rows] * (w * d).sum(axis=1) / total - np.log(perplexity)
        weights[rows] = w / total[:, None]
        open_ = np.abs(excess) >= tolerance
        rows, excess = rows[open_], excess[open_]
        if not len(rows):
            break
        low[rows] = np.where(excess > 0, beta[rows], low[rows])
        high[rows] = np.where(excess > 0, high[rows], beta[rows])
        beta[rows] = np.where(np.isinf(high[rows]), 2 * beta[rows], (low[rows] + high[rows]) / 2)
    return weights
