"""Principal components that hold signal: which genes to trust, and how many components."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from sklearn.decomposition import PCA

# By how many standard errors of a variance a component must stand out, in other cells, from components of noise.
_LEAST_CONTRAST = 3.0
_N_SPLITS = 3


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
    """Each gene's reliability: the correlation of two halves of its counts over cells, `(n_genes,)`.

    Genes whose variation is sampling noise are kept from turning the components towards the noise of the training
    cells, which other cells do not share.
    """
    scale = float(np.median(np.asarray(counts.sum(1)))) / 2
    first, second = (normalise(half, scale) for half in split_counts(counts, rng))

    def covariance(a: sp.csr_matrix, b: sp.csr_matrix) -> np.ndarray:
        return np.asarray(a.multiply(b).mean(0)).ravel() - np.asarray(a.mean(0)).ravel() * np.asarray(b.mean(0)).ravel()

    variance = np.sqrt(covariance(first, first).clip(1e-12) * covariance(second, second).clip(1e-12))
    return (covariance(first, second) / variance).clip(0, 1).astype(np.float32)


def fit_components(counts: sp.csr_matrix, weights: np.ndarray, n_components: int, rng: np.random.Generator) -> PCA:
    """Whitened principal components of the weighted, log-normalised counts."""
    scale = float(np.median(np.asarray(counts.sum(1))))
    weighted = normalise(counts, scale) @ sp.diags_array(weights)
    n_components = min(n_components, min(counts.shape) - 1)
    return PCA(n_components, whiten=True, svd_solver="arpack", random_state=int(rng.integers(2**31))).fit(weighted)


def count_components(counts: sp.csr_matrix, rng: np.random.Generator, *, least: int = 5, most: int = 50) -> int:
    """How many principal components hold signal that other cells share.

    Components are fitted on four fifths of the cells. In the others, the variance along a component is compared with
    what it would be if genes varied independently: genes that vary together, in cells that were not fitted, are signal.
    The second half of the components shows what the comparison gives for noise.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    rng
        Splits the cells.
    least, most
        Bounds of the answer.
    """
    n_held_out = max(counts.shape[0] // 5, 20)
    contrasts = np.stack(
        [_contrast(counts, n_held_out, most, rng) for _ in range(_N_SPLITS)]
    )  # (n_splits, n_components)
    above_noise = contrasts.mean(0) > 1 + _LEAST_CONTRAST * np.sqrt(2 / n_held_out)
    return int(np.clip(np.sum(above_noise), min(least, contrasts.shape[1]), most))


def _contrast(counts: sp.csr_matrix, n_held_out: int, n_components: int, rng: np.random.Generator) -> np.ndarray:
    """Variance of held-out cells along each component, over what independent genes would give and noise gives too."""
    order = rng.permutation(counts.shape[0])
    fitted_on, held_out = counts[order[n_held_out:]], counts[order[:n_held_out]]
    weights = gene_weights(fitted_on, rng)
    pca = fit_components(fitted_on, weights, n_components, rng)
    scale = float(np.median(np.asarray(counts.sum(1))))
    weighted = (normalise(held_out, scale) @ sp.diags_array(weights)).tocsr()
    gene_variance = np.asarray(weighted.multiply(weighted).mean(0)).ravel() - np.asarray(weighted.mean(0)).ravel() ** 2
    together = pca.transform(weighted).var(0) * pca.explained_variance_
    contrast = together / (pca.components_**2 @ gene_variance).clip(1e-12)
    return contrast / np.median(contrast[len(contrast) // 2 :])
