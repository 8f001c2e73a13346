"""Components that hold signal: which genes to trust, and how many directions of expression to keep."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from scipy.stats import f_oneway
from sklearn.covariance import ledoit_wolf
from sklearn.decomposition import PCA

# By how many standard errors of a variance a component must stand out, in other cells, from components of noise.
_LEAST_CONTRAST = 3.0
# Significance, in cells it was not fitted on, that a discriminant must reach: geometric mean over splits.
_LARGEST_P_VALUE = 3e-3
_N_SPLITS = 3
_N_CANDIDATES = 50
# Starting values need no more cells than this.
_N_CELLS = 5_000
# Share of the largest or total variance, below which there is none but rounding.
_LEAST_VARIANCE = 1e-6
# Reads: where genes that few cells have show a single count in no more than this share of these.
_LARGEST_SHARE_OF_ONES = 0.25
_RARELY_DETECTED = (20, 0.3)  # cells, at least; share of cells, at most
_LEAST_GENES = 50


class LinearMap(NamedTuple):
    """Scores of log-normalised counts: `x @ weights - offset`."""

    weights: np.ndarray  # (n_genes, n_scores)
    offset: np.ndarray  # (n_scores,)
    n_last: int = 0  # discriminants that were added last

    def __call__(self, x: sp.csr_matrix) -> np.ndarray:
        return x @ self.weights - self.offset


def subsample(counts: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> tuple[sp.csr_matrix, np.ndarray]:
    """At most 5,000 cells and their labels."""
    if counts.shape[0] <= _N_CELLS:
        return counts, labels
    cells = np.sort(rng.choice(counts.shape[0], _N_CELLS, replace=False))
    return counts[cells], labels[cells]


def normalise(counts: sp.csr_matrix, scale: float) -> sp.csr_matrix:
    """`log1p` of counts brought to a library size of `scale`, float32."""
    library = np.maximum(np.asarray(counts.sum(1)).ravel(), 1)
    return (sp.diags_array((scale / library).astype(np.float32)) @ counts).tocsr().log1p()


def split_counts(counts: sp.csr_matrix, rng: np.random.Generator) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Two halves of every count, drawn binomially: independent given the true expression :cite:p:`Batson2019`."""
    half = counts.copy()
    half.data = rng.binomial(counts.data.astype(np.int64), 0.5).astype(np.float32)
    return half, (counts - half).tocsr()


def are_reads(counts: sp.csr_matrix) -> bool:
    """Whether counts are reads, of which each molecule gave many, and not molecules.

    A gene that few cells have is there in one or two molecules, and a single count is then the most frequent one. Where
    it is not, counts are of reads without unique molecular identifiers, as of Smart-seq2.
    """
    by_gene = counts.tocsc()
    n_cells = np.diff(by_gene.indptr)
    least, most = _RARELY_DETECTED
    rare = np.flatnonzero((n_cells >= least) & (n_cells <= most * counts.shape[0]))
    if len(rare) < _LEAST_GENES:
        return False
    ones = sp.csc_matrix((by_gene.data == 1, by_gene.indices, by_gene.indptr), shape=by_gene.shape)
    return bool(np.median(np.asarray(ones[:, rare].sum(0)).ravel() / n_cells[rare]) <= _LARGEST_SHARE_OF_ONES)


def reads_per_molecule(counts: sp.csr_matrix) -> np.ndarray:
    """What a gene's counts are multiples of, float32 `(n_genes,)`: the median of those that are not zero, of reads; or 1.

    Divided by it, counts scatter about as widely as those of molecules do :cite:p:`Townes2020`.
    """
    unit = np.ones(counts.shape[1], dtype=np.float32)
    if are_reads(counts):
        by_gene = counts.tocsc()
        for gene in np.flatnonzero(np.diff(by_gene.indptr)):
            unit[gene] = max(1, np.median(by_gene.data[by_gene.indptr[gene] : by_gene.indptr[gene + 1]]))
    return unit


def gene_weights(counts: sp.csr_matrix, rng: np.random.Generator) -> np.ndarray:
    """Each gene's reliability: the correlation of two halves of its counts over cells, `(n_genes,)`.

    Genes whose variation is sampling noise are kept from turning the components towards the noise of the training
    cells, which other cells do not share. Of presence or absence, every gene counts alike.
    """
    if counts.max() <= 1:  # halves of a single count exclude each other
        return np.ones(counts.shape[1], dtype=np.float32)
    unit = reads_per_molecule(counts)
    if (unit > 1).any():
        counts = (counts @ sp.diags_array(1 / unit)).tocsr()
        counts.data = np.ceil(counts.data)
    scale = float(np.median(np.asarray(counts.sum(1)))) / 2
    first, second = (normalise(half, scale) for half in split_counts(counts, rng))

    def covariance(a: sp.csr_matrix, b: sp.csr_matrix) -> np.ndarray:
        return np.asarray(a.multiply(b).mean(0)).ravel() - np.asarray(a.mean(0)).ravel() * np.asarray(b.mean(0)).ravel()

    variance = np.sqrt(covariance(first, first).clip(1e-12) * covariance(second, second).clip(1e-12))
    return (covariance(first, second) / variance).clip(0, 1).astype(np.float32)


def fit_components(
    counts: sp.csr_matrix,
    labels: np.ndarray,
    n_principal: int,
    n_discriminant: tuple[int, ...],
    rng: np.random.Generator,
) -> LinearMap:
    """Principal components, and discriminants of the conditions in what these leave over, all of unit variance.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    labels
        Category codes, `(n_cells, n_keys)`.
    n_principal
        Number of principal components.
    n_discriminant
        Number of discriminants of each condition key.
    rng
        Splits the counts that genes are weighted by.
    """
    x = normalise(counts, float(np.median(np.asarray(counts.sum(1)))))
    weights = gene_weights(counts, rng)
    components = _principal(x, weights, n_principal, rng)
    if not any(n_discriminant):
        return components
    # Fine types may live in genes of little reliability, which are given more of a say here.
    candidates = _principal(x, np.sqrt(weights), min(_N_CANDIDATES, max(10, len(labels) // 15)), rng)
    for codes, n in zip(labels.T, n_discriminant, strict=True):
        if n:
            components = _with_discriminants(x, components, candidates, codes, n)
    return components


def _principal(x: sp.csr_matrix, weights: np.ndarray, n_components: int, rng: np.random.Generator) -> LinearMap:
    if not weights.any():
        weights = np.ones_like(weights)
    n_components = min(n_components, np.count_nonzero(weights), min(x.shape) - 1)
    pca = PCA(n_components, svd_solver="arpack", random_state=int(rng.integers(2**31)))
    pca.fit(x @ sp.diags_array(weights))
    # Few reliable genes span few directions, and along the others nothing varies.
    varies = pca.explained_variance_ > _LEAST_VARIANCE * pca.explained_variance_[0]
    axes = pca.components_[varies].T / np.sqrt(pca.explained_variance_[varies])
    return LinearMap((axes * weights[:, None]).astype(np.float32), pca.mean_ @ axes)


def _with_discriminants(
    x: sp.csr_matrix, components: LinearMap, candidates: LinearMap, codes: np.ndarray, n: int
) -> LinearMap:
    """Add Fisher's discriminants of the categories within what the components leave over of the candidates."""
    known = components(x)
    left_over = _residual_map(components, candidates, known, candidates(x))
    scores = left_over(x)
    indicator = sp.csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))))
    sizes = np.maximum(np.asarray(indicator.sum(1)), 1)
    means = (indicator @ scores) / sizes  # (n_categories, n_candidates)
    within, _ = ledoit_wolf(scores - means[codes], assume_centered=True)
    between = (means * sizes).T @ means / len(codes)
    ridge = _LEAST_VARIANCE * max(np.trace(within), _LEAST_VARIANCE) * np.eye(len(within))
    _, axes = scipy.linalg.eigh(between, within + ridge)
    axes = axes[:, ::-1][:, :n]
    spread = (scores @ axes).std(0)
    varies = spread > 0.5  # it is 1 within categories, but where the components leave nothing over
    axes = axes[:, varies] / spread[varies]
    return LinearMap(
        np.hstack([components.weights, left_over.weights @ axes]).astype(np.float32),
        np.concatenate([components.offset, left_over.offset @ axes]),
        axes.shape[1],
    )


def _residual_map(components: LinearMap, candidates: LinearMap, known: np.ndarray, scores: np.ndarray) -> LinearMap:
    """The candidates less what the components already tell of them."""
    slopes = np.linalg.lstsq(known, scores, rcond=None)[0]
    return LinearMap(candidates.weights - components.weights @ slopes, candidates.offset - components.offset @ slopes)


def count_components(
    counts: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator, *, least: int = 5, most: int = 50
) -> tuple[int, tuple[int, ...]]:
    """How many principal components, and discriminants of the conditions beside them, hold signal other cells share.

    Both are fitted on four fifths of the cells and judged on the others. There the variance along a component is
    compared with what it would be if genes varied independently: genes that vary together, in cells that were not
    fitted, are signal; the second half of the components shows what the comparison gives for noise. A discriminant
    counts while the categories differ along it, beyond what the components tell, by an F test.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    labels
        Category codes, `(n_cells, n_keys)`.
    rng
        Splits the cells.
    least, most
        Bounds of the number of principal components.

    Returns
    -------
    The number of principal components, and of discriminants for each condition key.
    """
    counts, labels = subsample(counts, labels, rng)
    n_held_out = max(counts.shape[0] // 5, 20)
    splits = [np.split(rng.permutation(counts.shape[0]), [n_held_out]) for _ in range(_N_SPLITS)]
    by_split = [_contrast(counts[fitted], counts[held_out], most, rng) for held_out, fitted in splits]
    contrasts = np.stack([contrast[: min(map(len, by_split))] for contrast in by_split])  # (n_splits, n_components)
    above_noise = contrasts.mean(0) > 1 + _LEAST_CONTRAST * np.sqrt(2 / n_held_out)
    n_principal = int(np.clip(np.sum(above_noise), min(least, contrasts.shape[1]), most))

    n_discriminant: tuple[int, ...] = ()
    for key in range(labels.shape[1]):
        p_values = [
            _p_values(counts, labels[:, : key + 1], fitted, held_out, n_principal, n_discriminant, rng)
            for held_out, fitted in splits
        ]
        n_shared = min(len(p) for p in p_values)
        significant = np.mean([np.log(p[:n_shared] + 1e-300) for p in p_values], axis=0) < np.log(_LARGEST_P_VALUE)
        n_discriminant += (int(np.sum(np.cumprod(significant))),)
    return n_principal, n_discriminant


def _contrast(
    fitted_on: sp.csr_matrix, held_out: sp.csr_matrix, n_components: int, rng: np.random.Generator
) -> np.ndarray:
    """Variance of held-out cells along each component, over what independent genes would give and noise gives too."""
    weights = gene_weights(fitted_on, rng)
    scale = float(np.median(np.asarray(fitted_on.sum(1))))
    components = _principal(normalise(fitted_on, scale), weights, n_components, rng)
    x = normalise(held_out, scale)
    gene_variance = np.asarray(x.multiply(x).mean(0)).ravel() - np.asarray(x.mean(0)).ravel() ** 2
    ratio = components(x).var(0) / (components.weights.T**2 @ gene_variance)
    n_kept = len(ratio)
    return ratio / np.median(ratio[n_kept // 2 :])


def _p_values(
    counts: sp.csr_matrix,
    labels: np.ndarray,
    fitted: np.ndarray,
    held_out: np.ndarray,
    n_principal: int,
    n_earlier: tuple[int, ...],
    rng: np.random.Generator,
) -> np.ndarray:
    """Of an F test of each discriminant of the last key, in held-out cells, beyond the components before it."""
    n_categories = len(np.unique(labels[fitted, -1]))
    n_discriminant = (*n_earlier, min(n_categories - 1, _N_CANDIDATES))
    if n_categories < 2:
        return np.empty(0)
    components = fit_components(counts[fitted], labels[fitted], n_principal, n_discriminant, rng)
    scores = components(normalise(counts[held_out], float(np.median(np.asarray(counts[fitted].sum(1))))))
    n_known = scores.shape[1] - components.n_last
    known = np.column_stack([np.ones(len(scores)), scores[:, :n_known]])
    left_over = scores[:, n_known:] - known @ np.linalg.lstsq(known, scores[:, n_known:], rcond=None)[0]
    codes = labels[held_out, -1]
    groups = [left_over[codes == code] for code in np.unique(codes) if np.sum(codes == code) >= 3]
    return f_oneway(*groups).pvalue if len(groups) > 1 else np.ones(left_over.shape[1])
