"""Negative binomial regression of every gene on the same few scores, all genes at once."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor


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

    The model is :math:`x_{ig} \sim \mathrm{NB}(\ell_i \exp(b_g + w_g \cdot s_i), \theta_g)`, the decoding step of
    GLM-PCA :cite:p:`Townes2019`; :math:`\theta_g` matches the second moment of the residuals in each round.

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
    parts = [
        _fit_chunk(
            torch.from_numpy(by_gene[:, start : start + chunk].toarray()).float(),
            offset, design, products, upper, estimate_dispersion, ridge, n_iterations,
        )
        for start in range(0, counts.shape[1], chunk)
    ]  # fmt: skip
    coefficients, inverse, total = (torch.cat(part) for part in zip(*parts, strict=True))
    # A gene with few counts says little of its own dispersion: lean on the typical one, worth ten counts.
    weight = total / (total + 10)
    typical = inverse[total >= total.median()].median()
    return coefficients, -torch.log((weight * inverse + (1 - weight) * typical).clamp(1e-4, 1e2))


def _fit_chunk(
    x: Tensor,
    offset: Tensor,
    design: Tensor,
    products: Tensor,
    upper: Tensor,
    estimate_dispersion: bool,
    ridge: float,
    n_iterations: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients, inverse of theta and total count of each gene."""
    total = x.sum(0)  # (n_genes,)
    n_coefficients = design.shape[1]
    coefficients = torch.zeros(x.shape[1], n_coefficients)
    coefficients[:, 0] = torch.log((total + 0.5) / offset.exp().sum())
    inverse = torch.full_like(total, 0.1 if estimate_dispersion else 0.0)
    penalty = torch.full((n_coefficients,), ridge)
    penalty[0] = 1e-3
    information = torch.empty(x.shape[1], n_coefficients, n_coefficients)
    for _ in range(n_iterations):
        mean = torch.exp((design @ coefficients.T + offset[:, None]).clamp(max=15))  # (n_cells, n_genes)
        weight = mean / (1 + mean * inverse)
        flat = weight.T @ products  # (n_genes, n_pairs)
        information[:, upper[0], upper[1]] = flat
        information[:, upper[1], upper[0]] = flat
        pull = penalty * coefficients
        pull[:, 0] = 0
        gradient = ((x - mean) / (1 + mean * inverse)).T @ design - pull
        step = torch.linalg.solve(information + torch.diag(penalty), gradient)
        coefficients += step.clamp(-1, 1)  # far steps overshoot under a log link
        if estimate_dispersion:
            mean = torch.exp((design @ coefficients.T + offset[:, None]).clamp(max=15))
            inverse = (((x - mean) ** 2 - mean).sum(0) / (mean**2).sum(0).clamp(min=1e-6)).clamp(1e-4, 1e2)
    return coefficients, inverse, total
