"""Principal components that hold signal: which genes to trust, and how many components."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

# Share of a component's variance that must come back as signal in cells it was not fitted on.
_LEAST_SIGNAL = 0.3


def normalise(counts: sp.csr_matrix, scale: float) -> sp.csr_matrix:
    """`log1p` of counts brought to a library size of `scale`, float32."""
    library = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    return (sp.diags_array((scale / library).astype(np.float32)) @ counts).tocsr().log1p()


def split_counts(counts: sp.csr_matrix, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two halves of every count, drawn binomially: independent given the true expression :cite:p:`Batson2019`."""
    half = counts.copy()
    half.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(np.float32)
    return half, (counts - half).tocsr()


def gene_weights(counts: sp.csr_matrix, rng: np.random.Generator) -> np.ndarray:
    """Square root of each gene's reliability: the correlation of its two halves over cells, `(n_genes,)`.

    Genes whose variation is sampling noise are kept from turning the components towards the noise of the training
    cells, which other cells do not share.
    """
    scale = float(np.median(np.asarray(counts.sum(1)))) / 2
    first, second = (normalise(half, scale) for half in split_counts(counts, rng))

    def covariance(a: sp.csr_matrix, b: sp.csr_matrix) -> np.ndarray:
        return np.asarray(a.multiply(b).mean(0)).ravel() - np.asarray(a.mean(0)).ravel() * np.asarray(b.mean(0)).ravel()

    variance = np.sqrt(covariance(first, first).clip(1e-12) * covariance(second, second).clip(1e-12))
    return np.sqrt((covariance(first, second) / variance).clip(0, 1)).astype(np.float32)


def fit_components(counts: sp.csr_matrix, weights: np.ndarray, n_components: int, rng: np.random.Generator) -> PCA:
    """Whitened principal components of the weighted, log-normalised counts."""
    scale = float(np.median(np.asarray(counts.sum(1))))
    weighted = normalise(counts, scale) @ sp.diags_array(weights)
    n_components = min(n_components, min(counts.shape) - 1)
    return PCA(n_components, whiten=True, svd_solver="arpack", random_state=int(rng.integers(2**31))).fit(weighted)


def count_components(counts: sp.csr_matrix, rng: np.random.Generator, *, least: int = 5, most: int = 50) -> int:
    """How many principal components hold signal that other cells share.

    Components are fitted on four fifths of the cells. The counts of the others are split in two halves, whose
    covariance along a component is its signal there: a direction of sampling noise has none, and neither has one that
    only fits the training cells.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    rng
        Splits cells and counts.
    least, most
        Bounds of the answer.
    """
    n_held_out = max(counts.shape[0] // 5, 20)
    order = rng.permutation(counts.shape[0])
    fitted_on, held_out = counts[order[n_held_out:]], counts[order[:n_held_out]]
    weights = gene_weights(fitted_on, rng)
    pca = fit_components(fitted_on, weights, most, rng)
    scale = float(np.median(np.asarray(counts.sum(1)))) / 2
    first, second = (pca.transform(normalise(half, scale) @ sp.diags_array(weights)) for half in split_counts(held_out, rng))
    signal = [np.cov(a, b)[0, 1] for a, b in zip(first.T, second.T, strict=True)]
    return int(np.clip(np.sum(np.array(signal) > _LEAST_SIGNAL), min(least, pca.n_components_), most))
