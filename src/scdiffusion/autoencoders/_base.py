"""What every autoencoder can do for the rest of the house."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from scdiffusion._registry import Registry

from ._likelihoods import CountLikelihood, CountParameters

autoencoders = Registry("autoencoder")


@runtime_checkable
class Autoencoder(Protocol):
    """The protocol between expression and latents.

    An autoencoder is a :class:`torch.nn.Module` that also knows how to start itself from the data and how to draw
    expression, so that no other room needs to know which kind of data it holds.

    Attributes
    ----------
    n_genes, n_latent
        Sizes of its two sides.
    likelihood
        What scores and draws the expression.
    """

    n_genes: int
    n_latent: int
    likelihood: CountLikelihood

    def initialise(self, counts: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Set data-dependent starting values; called once, before the first training step.

        `labels` are the category codes of the cells' conditions, `(n_cells, n_keys)`.
        """

    def calibrate(self, counts: sp.csr_matrix, batch: np.ndarray | None, rng: np.random.Generator) -> None:
        """Put right what gradient steps leave a little off; called after training. `batch` is `(n_cells,)`."""

    def encode(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, each `(n_cells, n_latent)`, from `(n_cells, n_genes)`."""

    def loss(self, counts: Tensor, latents: Tensor, batch: Tensor | None) -> Tensor:
        """Reconstruction loss of each cell, `(n_cells,)`."""

    def parameters_of(self, latents: Tensor, library_size: Tensor, batch: Tensor | None) -> CountParameters:
        """Distribution of the expression of each cell and gene, to score and to draw from."""
