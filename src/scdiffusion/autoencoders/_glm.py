"""Negative binomial regression of every gene on the same few scores, all genes at once."""

from __future__ import annotations

import math

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

_THETA_RANGE = (1e-2, 1e4)
_BISECTIONS = 11
_OUTLIERS = 0.005  # share of a gene's counts


def fit_glm(
    counts: sp.csr_matrix,
    library: np.ndarray,
    scores: np.ndarray,
    *,
    estimate_dispersion: bool = True,
    ridge: float = 2.0,
    n_iterations: int = 8,
    chunk: int = 4096,
) -> tuple[Tensor, Tensor]:
    r"""Regress counts on scores with a log link by Fisher scoring, with a ridge on the slopes.

    Means are fitted as Poisson, which keeps each gene's total and does not depend on dispersions still to be found;
    the likeliest ones follow once the means are known. The model is
    :math:`x_{ig} \sim \mathrm{NB}(\ell_i \exp(b_g + w_g \cdot s_i), \theta_g)`, the decoding step of GLM-PCA :cite:p:`Townes2019`.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    library
        Library sizes, `(n_cells,)`.
    scores
        Regressors of about unit variance, `(n_cells, n_scores)`.
    estimate_dispersion
        Whether to estimate dispersions; otherwise the regression is Poisson.
    ridge
        Penalty on the squared slopes.
    n_iterations
        Rounds of Fisher scoring.
    chunk
        Genes regressed together, which bounds the memory.

    Returns
    -------
    Intercept and slopes, `(n_genes, 1 + n_scores)`, and log inverse dispersions, `(n_genes,)`.
    """
    design = torch.from_numpy(np.column_stack([np.ones(len(scores)), scores])).float()  # (n_cells, 1 + n_scores)
    offset = torch.from_numpy(np.log(library)).float()
    upper = torch.triu_indices(design.shape[1], design.shape[1])
    products = design[:, upper[0]] * design[:, upper[1]]  # (n_cells, n_pairs)
    by_gene = counts.tocsc()
    chunks = [by_gene[:, start : start + chunk] for start in range(0, counts.shape[1], chunk)]
    coefficients = torch.cat(
        [_fit_means(_dense(x), offset, design, products, upper, ridge, n_iterations) for x in chunks]
    )
    if not estimate_dispersion:
        return coefficients, torch.zeros(counts.shape[1])

    inverse = []
    for x, part in zip(chunks, coefficients.split(chunk), strict=True):  # parts are views: changes reach coefficients
        mean = _expected(part, offset, design)
        usual = _without_outliers(_dense(x), mean)
        part[:, 0] += torch.log((usual.sum(0) + 0.5) / (mean.sum(0) + 0.5))
        inverse.append(torch.exp(-_likeliest_log_theta(usual, _expected(part, offset, design))))
    inverse = torch.cat(inverse)
    total = torch.from_numpy(np.asarray(counts.sum(0)).ravel()).float()
    # A gene with few counts says little of its own dispersion: lean on the typical one, worth ten counts.
    weight = total / (total + 10)
    typical = inverse[total >= total.median()].median()
    return coefficients, -torch.log((weight * inverse + (1 - weight) * typical).clamp(1e-4, 1e2))


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


def _fit_means(
    x: Tensor, offset: Tensor, design: Tensor, products: Tensor, upper: Tensor, ridge: float, n_iterations: int
) -> Tensor:
    """Intercept and slopes of each gene, `(n_genes, 1 + n_scores)`."""
    n_coefficients = design.shape[1]
    coefficients = torch.zeros(x.shape[1], n_coefficients)
    coefficients[:, 0] = torch.log((x.sum(0) + 0.5) / offset.exp().sum())
    penalty = torch.full((n_coefficients,), ridge)
    penalty[0] = 0.0
    information = torch.empty(x.shape[1], n_coefficients, n_coefficients)
    for _ in range(n_iterations):
        mean = _expected(coefficients, offset, design)
        flat = mean.T @ products  # (n_genes, n_pairs)
        information[:, upper[0], upper[1]] = flat
        information[:, upper[1], upper[0]] = flat
        gradient = (x - mean).T @ design - penalty * coefficients
        step = torch.linalg.solve(information + torch.diag(penalty + 1e-3), gradient)
        # Under a log link, Fisher scoring overshoots where the mean should grow: by a factor of e a round at most.
        coefficients += step / (design @ step.T).amax(0).clamp(min=1)[:, None]
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
