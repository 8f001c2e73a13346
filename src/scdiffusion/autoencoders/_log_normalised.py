"""What the autoencoders of log-normalised expression share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor, nn

from ._base import COUNTS, LOG_NORMALISED, Likelihood

TARGET_SUM = 1e4


@dataclass
class MeanParameters:
    """A decoder's output, to be read as mean expression.

    Attributes
    ----------
    output
        What the decoder puts out, `(n_cells, n_genes)`; may fall below zero.
    """

    output: Tensor

    @property
    def mean(self) -> Tensor:
        """Expected log-normalised expression, `(n_cells, n_genes)`, zero where the output is negative."""
        return self.output.clamp(min=0)

    def head(self, n_cells: int) -> MeanParameters:
        """The parameters of the first cells."""
        return MeanParameters(self.output[:n_cells])


class SquaredError(Likelihood):
    """Log-normalised expression scored by its squared error, as in both papers.

    That is a normal distribution of fixed variance, up to scale and a constant. Nothing is drawn from it, since its
    noise would be neither non-negative nor sparse: a cell is the decoder's mean.
    """

    values, dtype, has_library_size = LOG_NORMALISED, torch.float32, False

    def log_prob(self, rows: Tensor, columns: Tensor, values: Tensor, p: MeanParameters) -> Tensor:
        """Minus the mean squared error of each cell over its genes, `(n_cells,)`."""
        at = p.output[rows, columns]
        of_zeros = p.output.square().sum(1)
        return -of_zeros.index_add(0, rows, (values - at).square() - at.square()) / p.output.shape[1]

    def draw(self, p: MeanParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The positive entries of the mean."""
        rows, columns = (p.output > 0).nonzero(as_tuple=True)
        return rows, columns, p.output[rows, columns]


class LogNormalisedAutoencoder(nn.Module):
    """Deterministic autoencoder of log-normalised expression under a squared error.

    A subclass brings the encoder and the decoder.

    Parameters
    ----------
    encoder, decoder
        Networks from `(n_cells, n_genes)` to `(n_cells, n_latent)` and back.
    n_genes, n_latent
        Their sizes.
    values
        What it is given: `"counts"`, which it brings to 10,000 per cell and takes the `log1p` of, or
        `"log-normalised"` expression, which it takes as it is.
    """

    variational = encodes_covariates = False

    def __init__(self, encoder: nn.Module, decoder: nn.Module, n_genes: int, n_latent: int, values: str) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.n_genes, self.n_latent, self.values = n_genes, n_latent, values
        self.likelihood = SquaredError()

    def initialise(self, expression: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Keep the weights as they are."""

    def calibrate(self, expression: sp.csr_matrix, batch: np.ndarray | None, rng: np.random.Generator) -> None:
        """Keep the weights as they are."""

    def normalise(self, expression: Tensor) -> Tensor:
        """Log-normalised expression, `(n_cells, n_genes)`, of what was registered."""
        if self.values != COUNTS:
            return expression
        return torch.log1p(expression * (TARGET_SUM / expression.sum(1, keepdim=True).clamp(min=1)))

    def encode(self, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and, since they have no posterior, a log-variance of minus infinity, each `(n_cells, n_latent)`."""
        latents = self.encoder(self.normalise(expression)).float()
        return latents, torch.full_like(latents, -torch.inf)

    def parameters_of(self, latents: Tensor, library_size: Tensor, batch: Tensor | None = None) -> MeanParameters:
        """Mean expression of latents, `(n_cells, n_latent)`; library size and batch have no part in it."""
        return MeanParameters(self.decoder(latents).float())

    def loss(self, expression: Tensor, latents: Tensor, batch: Tensor | None = None) -> Tensor:
        """Mean squared error of each cell over its genes, `(n_cells,)`."""
        x = self.normalise(expression)
        rows, columns = x.nonzero(as_tuple=True)
        return -self.likelihood.log_prob(rows, columns, x[rows, columns], MeanParameters(self.decoder(latents).float()))
