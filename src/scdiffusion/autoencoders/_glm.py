"""Negative binomial regression of every gene on the same few scores, all genes at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

_THETA_RANGE = (1e-2, 1e4)
_BISECTIONS = 11
_OUTLIERS = 0.005  # share of a gene's counts
# Fisher scoring between updates of the slopes' prior.
_ROUNDS = (5, 4, 4)
_FIRST_PRECISION = 10.0
_PRIOR_DEGREES = 3.0
_PRIOR_VARIANCE_RANGE = (1e-4, 4.0)
_EXCESS_RANGE = (1.0, 20.0)
_CHUNK = 4096  # genes regressed together, which bounds the memory


def fit_means(counts: sp.csr_matrix, library: np.ndarray, scores: np.ndarray) -> Tensor:
    r"""Regress counts on scores with a log link, by Fisher scoring.

    Means are fitted as quasi-Poisson, which keeps each gene's total and does not depend on dispersions still to be found. The
    model is :math:`x_{ig} \sim \mathrm{Poisson}(\ell_i \exp(b_g + w_g \cdot s_i))`, the decoding step of GLM-PCA
    :cite:p:`Townes2019`. Slopes are shrunk by empirical Bayes: those of a gene share a Student t prior of three degrees
    of freedom whose scale is learned from them, so that a gene of few counts, or one that the scores say nothing of,
    does not follow the noise, while one strong slope among weak ones is left alone.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    library
        Library sizes, `(n_cells,)`.
    scores
        Regressors of about unit variance, `(n_cells, n_scores)`.

    Returns
    -------
    Intercept and slopes, `(n_genes, 1 + n_scores)`.
    """
    design = torch.from_numpy(np.column_stack([np.ones(len(scores)), scores])).float()  # (n_cells, 1 + n_scores)
    offset = torch.from_numpy(np.log(library)).float()
    upper = torch.triu_indices(design.shape[1], design.shape[1])
    products = design[:, upper[0]] * design[:, upper[1]]  # (n_cells, n_pairs)
    return torch.cat([_fit_means(_dense(x), offset, design, products, upper) for _, x in _chunks(counts)])


def fit_dispersions(counts: sp.csr_matrix, mean_of: Callable[[slice], Tensor]) -> tuple[Tensor, Tensor]:
    """Likeliest dispersions given the means, a gene's few impossible counts left out.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    mean_of
        Gives the expected counts of a range of genes, `(n_cells, n_genes_in_range)`.

    Returns
    -------
    The logarithm of what each gene's means must be multiplied by to give its total without those counts, and its log
    inverse dispersion, each `(n_genes,)`.
    """
    shifts, inverse = [], []
    for genes, x in _chunks(counts):
        mean = mean_of(genes)
        usual = _without_outliers(_dense(x), mean)
        shifts.append(torch.log((usual.sum(0) + 0.5) / (mean.sum(0) + 0.5)))
        inverse.append(torch.exp(-_likeliest_log_theta(usual, mean * shifts[-1].exp())))
    inverse = torch.cat(inverse)
    total = torch.from_numpy(np.asarray(counts.sum(0)).ravel()).float()
    # A gene with few counts says little of its own dispersion: lean on the typical one, worth ten counts.
    weight = total / (total + 10)
    typical = inverse[total >= total.median()].median()
    return torch.cat(shifts), -torch.log((weight * inverse + (1 - weight) * typical).clamp(1e-4, 1e2))


def _chunks(counts: sp.csr_matrix) -> list[tuple[slice, sp.csc_matrix]]:
    by_gene = counts.tocsc()
    ranges = [slice(start, start + _CHUNK) for start in range(0, counts.shape[1], _CHUNK)]
    return [(genes, by_gene[:, genes]) for genes in ranges]


def _dense(x: sp.csc_matrix) -> Tensor:
    return torch.from_numpy(x.toarray()).float()


def _expected(coefficients: Tensor, offset: Tensor, design: Tensor) -> Tensor:
    """Means, `(n_cells, n_genes)`."""
    return torch.exp((design @ coefficients.T + offset[:, None]).clamp(max=15))


def _without_outliers(x: Tensor, mean: Tensor) -> Tensor:
    """Counts with a gene's few impossible ones replaced by their means, which say nothing of the dispersion.

    A handful of extreme counts, which nothing here explains, would make a gene that is Poisson in all other cells look
    overdispersed in every cell.
    """
    excess = (x - mean) / (mean + 0.1).sqrt()
    n_outliers = math.ceil(_OUTLIERS * len(x))
    least = excess.topk(n_outliers + 1, dim=0).values[-1]  # (n_genes,)
    outlying = (excess > least) & (x > mean + 5 * mean.sqrt() + 2)
    return torch.where(outlying, mean, x)


def _fit_means(x: Tensor, offset: Tensor, design: Tensor, products: Tensor, upper: Tensor) -> Tensor:
    """Intercept and slopes of each gene, `(n_genes, 1 + n_scores)`."""
    n_coefficients = design.shape[1]
    coefficients = torch.zeros(x.shape[1], n_coefficients)
    coefficients[:, 0] = torch.log((x.sum(0) + 0.5) / offset.exp().sum())
    precision = torch.full_like(coefficients, _FIRST_PRECISION)
    precision[:, 0] = 0.0
    excess = torch.ones(x.shape[1])  # variance over that of a Poisson: what makes the slopes less sure
    information = torch.empty(x.shape[1], n_coefficients, n_coefficients)
    for n_iterations in _ROUNDS:
        for _ in range(n_iterations):
            mean = _expected(coefficients, offset, design)
            flat = mean.T @ products  # (n_genes, n_pairs)
            information[:, upper[0], upper[1]] = flat
            information[:, upper[1], upper[0]] = flat
            penalty = precision * excess[:, None]
            information.diagonal(dim1=1, dim2=2).add_(penalty + 1e-3)
            gradient = (x - mean).T @ design - penalty * coefficients
            step = torch.linalg.solve(information, gradient)
            # Under a log link, Fisher scoring overshoots where the mean should grow: by a factor of e a round at most.
            coefficients += step / (design @ step.T).amax(0).clamp(min=1)[:, None]
        mean = _expected(coefficients, offset, design)
        deviation = _without_outliers(x, mean) - mean
        excess = (deviation.square().sum(0) / mean.sum(0).clamp(min=1e-6)).clamp(*_EXCESS_RANGE)
        # One step of expectation maximisation: what is known of each slope's square, and their mean over the gene.
        uncertainty = excess[:, None] * torch.linalg.inv(information).diagonal(dim1=1, dim2=2)
        square = (coefficients**2 + uncertainty)[:, 1:]
        variance = (square + _PRIOR_DEGREES * square.mean(1, keepdim=True)) / (1 + _PRIOR_DEGREES)
        precision[:, 1:] = 1 / variance.clamp(*_PRIOR_VARIANCE_RANGE)
    return coefficients


def _likeliest_log_theta(x: Tensor, mean: Tensor) -> Tensor:
    """Log inverse dispersion of most likelihood for each gene, `(n_genes,)`, by bisection on the slope.

    Likelihood and not moments: a few cells with extreme counts would decide the latter.
    """
    rows, genes = x.nonzero(as_tuple=True)
    counts = x[rows, genes]
    low, high = (torch.full((x.shape[1],), math.log(bound)) for bound in _THETA_RANGE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        theta = middle.exp()
        slope = (mean - x).div_(mean + theta).sub_(torch.log1p(mean / theta)).sum(0)
        at = theta[genes]
        slope.index_add_(0, genes, torch.digamma(counts + at) - torch.digamma(at))
        low, high = torch.where(slope > 0, middle, low), torch.where(slope > 0, high, middle)
    return (low + high) / 2
