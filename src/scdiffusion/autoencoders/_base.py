"""What every autoencoder can do for the rest of the house."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion._registry import Registry

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
    """

    n_genes: int
    n_latent: int

    def initialise(self, counts: sp.csr_matrix, rng: np.random.Generator) -> None:
        """Set data-dependent starting values; called once, before the first training step."""

    def encode(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, each `(n_cells, n_latent)`, from `(n_cells, n_genes)`."""

    def loss(
        self, counts: Tensor, latents: Tensor, batch: Tensor | None
    ) -> Tensor:
        """Reconstruction loss of each cell, `(n_cells,)`."""

    def expected(self, latents: Tensor, library_size: Tensor, batch: Tensor | None) -> Tensor:
        """Expected expression, `(n_cells, n_genes)`."""

    def draw(
        self, latents: Tensor, library_size: Tensor, batch: Tensor | None, generator: torch.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw expression as sorted non-zero entries: rows, columns and values."""
