"""Noise-aware classifiers: how likely a condition is, given a noised cell."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._denoisers import TimestepEncoder


class NoiseAwareClassifier(nn.Module, ABC):
    """Likelihood of one condition given a noised latent and its timestep.

    For :meth:`~scdiffusion.SCDiffusion.train_classifier`.

    Three hidden layers, the last of half the width, each told the timestep: scDiffusion's layout, at a width that
    suits latents of few dimensions. There is no normalisation: within the batch, it would make a cell's guidance
    depend on the cells beside it; within the cell, the gradient would vanish far from a category, where it is needed.

    The network reads `alpha_t x_t`, the best linear estimate of standardised latents, in place of `x_t`. Guidance
    divides the gradient by `alpha_t`; the gradient through this input is proportional to `alpha_t`, so that guidance
    stays bounded where nearly all is noise.

    Parameters
    ----------
    n_features
        Length of the latents.
    n_outputs
        Length of the output.
    n_hidden
        Width.
    n_timesteps
        Number of timesteps of the process.
    dropout
        Dropout rate after each layer.

    References
    ----------
    Luo et al., *scDiffusion*, Bioinformatics 2024, section 2.3.
    """

    #: What :meth:`score` measures.
    score_name: str

    def __init__(
        self, n_features: int, n_outputs: int, n_hidden: int = 256, n_timesteps: int = 1000, dropout: float = 0.1
    ) -> None:
        super().__init__()
        widths = [n_features, n_hidden, n_hidden, n_hidden // 2]
        self.timestep_encoder = TimestepEncoder(n_hidden, n_timesteps)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True))
        self.times = nn.ModuleList(nn.Linear(n_hidden, width) for width in widths[1:])
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(widths[-1], n_outputs)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Read noised latents times alpha, `(n_cells, n_features)`, at timesteps `(n_cells,)`."""
        context = F.silu(self.timestep_encoder(t))
        for layer, time in zip(self.layers, self.times, strict=True):
            x = self.dropout(F.silu(layer(x) + time(context)))
        return self.output(x)

    @abstractmethod
    def log_prob(self, output: Tensor, target: Tensor) -> Tensor:
        """Log-likelihood of the condition under an output of the network, `(n_cells,)`."""

    @abstractmethod
    def score(self, output: Tensor, target: Tensor) -> Tensor:
        """How well each condition is told, `(n_cells,)`, on a scale where 1 is perfect."""


class CategoryClassifier(NoiseAwareClassifier):
    """Which category a noised cell is of; parameters as of :class:`NoiseAwareClassifier`.

    Examples
    --------
    >>> import torch
    >>> classifier = CategoryClassifier(n_features=10, n_outputs=3).eval()
    >>> output = classifier(torch.randn(5, 10), torch.full((5,), 100))
    >>> classifier.log_prob(output, torch.tensor([0, 1, 2, 0, 1])).shape
    torch.Size([5])
    """

    score_name = "accuracy"

    def log_prob(self, output, target):
        return -F.cross_entropy(output, target, reduction="none")

    def score(self, output, target):
        return (output.argmax(1) == target).float()


class NumberRegressor(NoiseAwareClassifier):
    """Normal distribution of a standardised number given a noised cell; parameters as of its base class.

    Its output is the mean and the logarithm of the variance.
    """

    score_name = "r2"

    def __init__(self, n_features: int, **settings) -> None:
        super().__init__(n_features, 2, **settings)

    def log_prob(self, output, target):
        mean, log_variance = output.unbind(1)
        return -0.5 * (math.log(2 * math.pi) + log_variance + (target - mean) ** 2 * torch.exp(-log_variance))

    def score(self, output, target):
        return 1 - (target - output[:, 0]) ** 2
