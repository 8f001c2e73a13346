"""What every autoencoder can do for the rest of the house."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol, runtime_checkable

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion._registry import Registry

autoencoders = Registry("autoencoder")

COUNTS, LOG_NORMALISED = "counts", "log-normalised"


class Parameters(Protocol):
    """What a decoder says about the expression of each cell and gene."""

    @property
    def mean(self) -> Tensor:
        """Expected expression, `(n_cells, n_genes)`."""

    def head(self, n_cells: int) -> Parameters:
        """The parameters of the first cells."""


class Likelihood(ABC):
    """Scores and draws expression, given what the decoder says about it.

    Attributes
    ----------
    values
        What is drawn: `"counts"` or `"log-normalised"`.
    dtype
        Type of the drawn values.
    has_library_size
        Whether the parameters depend on the library size, which the diffusion then learns together with the latents.
    """

    values: str
    dtype: torch.dtype
    has_library_size: bool

    @property
    def n_library(self) -> int:
        """Number of library sizes of a cell: one for each modality whose parameters depend on it."""
        return int(self.has_library_size)

    def library_size(self, expression: Tensor) -> Tensor:
        """Library sizes of cells, `(n_cells, n_library)`, from expression, `(n_cells, n_genes)`."""
        return expression.sum(1, keepdim=True)[:, : self.n_library]

    @abstractmethod
    def log_prob(self, rows: Tensor, columns: Tensor, values: Tensor, p: Any) -> Tensor:
        """Log-likelihood of sparse expression.

        Parameters
        ----------
        rows, columns, values
            The non-zero entries and where they stand, each `(n_nonzero,)`.
        p
            Parameters of all entries, zeros included.

        Returns
        -------
        Log-likelihood of each cell, `(n_cells,)`.
        """

    @abstractmethod
    def draw(self, p: Any, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw expression, as sorted non-zero entries.

        Parameters
        ----------
        p
            Parameters, `(n_cells, n_genes)`.
        generator
            Source of randomness on the parameters' device.

        Returns
        -------
        `rows`, `columns` (long) and `values` (float), each `(n_nonzero,)`, in row-major order.
        """


@runtime_checkable
class Autoencoder(Protocol):
    """The protocol between expression and latents.

    An autoencoder is a :class:`torch.nn.Module` that also knows how to start itself from the data, so that no other
    room needs to know which kind of expression it holds. It is given expression as it was registered, counts or
    log-normalised, and its constructor is told which (`values`).

    Attributes
    ----------
    n_genes, n_latent
        Sizes of its two sides.
    likelihood
        What scores and draws the expression.
    variational
        Whether latents have a posterior, whose divergence from a standard normal is part of training.
    encodes_covariates
        Whether :meth:`encode` is told the covariates too, as its second argument.

    Notes
    -----
    Covariates are what else is known of a cell: batch codes, `(n_cells,)`, or None where there is no batch. A
    :class:`BorrowedAutoencoder` is told more. An autoencoder without any weight that requires a gradient is not trained.
    """

    n_genes: int
    n_latent: int
    likelihood: Likelihood
    variational: bool
    encodes_covariates: bool

    def initialise(self, expression: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Set data-dependent starting values; called once, before the first training step.

        `labels` are the category codes of the cells' conditions, `(n_cells, n_keys)`.
        """

    def calibrate(self, expression: sp.csr_matrix, batch: np.ndarray | None, rng: np.random.Generator) -> None:
        """Put right what gradient steps leave a little off; called after training. `batch` is `(n_cells,)`."""

    def encode(self, expression: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents, each `(n_cells, n_latent)`, from `(n_cells, n_genes)`.

        The log-variance is minus infinity where latents have no posterior.
        """

    def loss(self, expression: Tensor, latents: Tensor, covariates: Tensor | None) -> Tensor:
        """Reconstruction loss of each cell, `(n_cells,)`."""

    def parameters_of(self, latents: Tensor, library_size: Tensor, covariates: Tensor | None) -> Parameters:
        """Distribution of the expression of each cell and gene, to score and to draw from.

        `library_size` is `(n_cells,)`, of several modalities `(n_cells, n_library)`, and without meaning to a likelihood
        that has none.
        """
