"""Negative binomial regression of every gene on the same few scores, all genes at once."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ._components import reads_per_molecule

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
_INFLATION_ROUNDS = 6  # of expectation maximisation, at most
_INFLATION_RANGE = (0.01, 0.99)


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
    design, family = _Design(scores), _Poisson(torch.from_numpy(np.log(library)).float())
    unit = torch.from_numpy(reads_per_molecule(counts))
    fitted = []
    for genes, x in _chunks(counts):
        x = _dense(x) / unit[genes]
        fitted.append(_regress(x, torch.log((x.sum(0) + 0.5) / float(library.sum())), design, family))
        fitted[-1][:, 0] += unit[genes].log()
    return torch.cat(fitted)


def fit_zero_inflation(counts: sp.csr_matrix, mean_of: Callable[[slice], Tensor], scores: np.ndarray) -> Tensor:
    """Regress zeros beyond the negative binomial's own on scores, given the means that all counts have, these included.

    Slopes are shrunk as in :func:`fit_means`.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    mean_of
        Gives the expected counts of a range of genes, `(n_cells, n_genes_in_range)`.
    scores
        Regressors of about unit variance, `(n_cells, n_scores)`.

    Returns
    -------
    Intercept and slopes of the logits of such a zero, `(n_genes, 1 + n_scores)`.
    """
    design, fitted = _Design(scores), []
    for genes, x in _chunks(counts):
        x = _dense(x)
        extra, _ = _extra_zeros(x, mean_of(genes), None)
        fitted.append(_regress(extra, extra.mean(0).clamp(*_INFLATION_RANGE).logit(), design, _Bernoulli()))
    return torch.cat(fitted)


def fit_dispersions(
    counts: sp.csr_matrix,
    mean_of: Callable[[slice], Tensor],
    zero_logits_of: Callable[[slice], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Likeliest dispersions given the means, a gene's few impossible counts left out.

    Parameters
    ----------
    counts
        `(n_cells, n_genes)`.
    mean_of
        Gives the expected counts of a range of genes, `(n_cells, n_genes_in_range)`.
    zero_logits_of
        Gives the logits of zeros beyond the negative binomial's own, which `mean_of` counts in. No counts are left out
        then.

    Returns
    -------
    The logarithm of what each gene's means must be multiplied by to give its total without those counts, and its log
    inverse dispersion, each `(n_genes,)`.
    """
    shifts, inverse = [], []
    for genes, x in _chunks(counts):
        x, mean = _dense(x), mean_of(genes)
        usual = x if zero_logits_of else _without_outliers(x, mean)
        shifts.append(torch.log((usual.sum(0) + 0.5) / (mean.sum(0) + 0.5)))
        mean = mean * shifts[-1].exp()
        if zero_logits_of:
            _, log_theta = _extra_zeros(x, mean, zero_logits_of(genes))
        else:
            log_theta = _likeliest_log_theta(usual, mean)
        inverse.append(torch.exp(-log_theta))
    inverse = torch.cat(inverse)
    evidence = counts if zero_logits_of is None else counts > 0
    total = torch.from_numpy(np.asarray(evidence.sum(0)).ravel()).float()
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


class _Design:
    """Intercept and regressors, `(n_cells, 1 + n_scores)`, and the products of each two."""

    def __init__(self, scores: np.ndarray) -> None:
        self.values = torch.from_numpy(np.column_stack([np.ones(len(scores)), scores])).float()
        self.upper = torch.triu_indices(self.values.shape[1], self.values.shape[1])
        self.products = self.values[:, self.upper[0]] * self.values[:, self.upper[1]]  # (n_cells, n_pairs)

    def information(self, weights: Tensor) -> Tensor:
        """Of each gene, `(n_genes, 1 + n_scores, 1 + n_scores)`, given the weights of cells, `(n_cells, n_genes)`."""
        flat = weights.T @ self.products  # (n_genes, n_pairs)
        information = torch.empty(len(flat), self.values.shape[1], self.values.shape[1])
        information[:, self.upper[0], self.upper[1]] = flat
        information[:, self.upper[1], self.upper[0]] = flat
        return information


class _Family(ABC):
    """How values scatter around what is expected, with its canonical link."""

    @abstractmethod
    def expected(self, linear: Tensor) -> Tensor:
        """Expected values, `(n_cells, n_genes)`, of the linear predictor."""

    @abstractmethod
    def variance(self, expected: Tensor) -> Tensor:
        """Variance of values with this expectation."""

    @abstractmethod
    def excess(self, x: Tensor, expected: Tensor) -> Tensor:
        """Variance over that of the family, `(n_genes,)`: what makes the slopes less sure."""


class _Poisson(_Family):
    def __init__(self, offset: Tensor) -> None:
        self.offset = offset[:, None]

    def expected(self, linear: Tensor) -> Tensor:
        return torch.exp((linear + self.offset).clamp(max=15))

    def variance(self, expected: Tensor) -> Tensor:
        return expected

    def excess(self, x: Tensor, expected: Tensor) -> Tensor:
        deviation = _without_outliers(x, expected) - expected
        return (deviation.square().sum(0) / expected.sum(0).clamp(min=1e-6)).clamp(*_EXCESS_RANGE)


class _Bernoulli(_Family):
    def expected(self, linear: Tensor) -> Tensor:
        return linear.sigmoid()

    def variance(self, expected: Tensor) -> Tensor:
        return expected * (1 - expected)

    def excess(self, x: Tensor, expected: Tensor) -> Tensor:
        return torch.ones(x.shape[1])


def _regress(x: Tensor, intercept: Tensor, design: _Design, family: _Family) -> Tensor:
    """Intercept and slopes of each gene, `(n_genes, 1 + n_scores)`, from a starting value of the intercept."""
    coefficients = torch.zeros(x.shape[1], design.values.shape[1])
    coefficients[:, 0] = intercept
    precision = torch.full_like(coefficients, _FIRST_PRECISION)
    precision[:, 0] = 0.0
    excess = torch.ones(x.shape[1])
    for n_iterations in _ROUNDS:
        for _ in range(n_iterations):
            expected = family.expected(design.values @ coefficients.T)
            information = design.information(family.variance(expected))
            penalty = precision * excess[:, None]
            information.diagonal(dim1=1, dim2=2).add_(penalty + 1e-3)
            gradient = (x - expected).T @ design.values - penalty * coefficients
            step = torch.linalg.solve(information, gradient)
            # Under a log link, Fisher scoring overshoots where the mean should grow: by a factor of e a round at most.
            coefficients += step / (design.values @ step.T).amax(0).clamp(min=1)[:, None]
        excess = family.excess(x, family.expected(design.values @ coefficients.T))
        # One step of expectation maximisation: what is known of each slope's square, and their mean over the gene.
        uncertainty = excess[:, None] * torch.linalg.inv(information).diagonal(dim1=1, dim2=2)
        square = (coefficients**2 + uncertainty)[:, 1:]
        variance = (square + _PRIOR_DEGREES * square.mean(1, keepdim=True)) / (1 + _PRIOR_DEGREES)
        precision[:, 1:] = 1 / variance.clamp(*_PRIOR_VARIANCE_RANGE)
    return coefficients


def _extra_zeros(x: Tensor, mean: Tensor, zero_logits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Expectation maximisation of a zero-inflated negative binomial, of which all means are known.

    Parameters
    ----------
    x, mean
        Counts and what is expected of them, zeros of both kinds counted in, `(n_cells, n_genes)`.
    zero_logits
        Logits of zeros beyond the negative binomial's own; None to find one probability per gene.

    Returns
    -------
    The probability of each entry to be such a zero, `(n_cells, n_genes)`, and the log inverse dispersion of most
    likelihood, `(n_genes,)`.
    """
    is_zero = (x == 0).float()
    extra = _INFLATION_RANGE[1] * is_zero if zero_logits is None else zero_logits.sigmoid() * is_zero
    for _ in range(_INFLATION_ROUNDS):
        logits = extra.mean(0).clamp(*_INFLATION_RANGE).logit() if zero_logits is None else zero_logits
        rate = mean * (1 + logits.exp())
        log_theta = _likeliest_log_theta(x, rate, 1 - extra)
        theta = log_theta.exp()
        before, extra = extra, is_zero * torch.sigmoid(logits + theta * torch.log1p(rate / theta))
        if (extra - before).abs().mean() < 1e-3:
            break
    return extra, log_theta


def _likeliest_log_theta(x: Tensor, mean: Tensor, weights: Tensor | None = None) -> Tensor:
    """Log inverse dispersion of most likelihood for each gene, `(n_genes,)`, by bisection on the slope.

    Entries may have weights; those above zero have a weight of one.

    Likelihood and not moments: a few cells with extreme counts would decide the latter.
    """
    rows, genes = x.nonzero(as_tuple=True)
    counts = x[rows, genes]
    low, high = (torch.full((x.shape[1],), math.log(bound)) for bound in _THETA_RANGE)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        theta = middle.exp()
        slope = (mean - x).div_(mean + theta).sub_(torch.log1p(mean / theta))
        slope = (slope if weights is None else slope.mul_(weights)).sum(0)
        at = theta[genes]
        slope.index_add_(0, genes, torch.digamma(counts + at) - torch.digamma(at))
        low, high = torch.where(slope > 0, middle, low), torch.where(slope > 0, high, middle)
    return (low + high) / 2
