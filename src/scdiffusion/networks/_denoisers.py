"""Denoisers: from noised latents, timestep and condition to what the process asks for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scdiffusion._registry import Registry

from ._condition_encoders import ConditionEncoder
from ._conditions import Conditions
from ._fusion import fusions

denoisers = Registry("denoiser")


class TimestepEncoder(nn.Module):
    """Sines and cosines of the timestep, of periods from `longest` timesteps down to single ones, then a small MLP."""

    def __init__(self, n_hidden: int, longest: int, n_frequencies: int = 32) -> None:
        super().__init__()
        frequencies = torch.logspace(0, math.log10(longest), n_frequencies) / longest
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.layers = nn.Sequential(nn.Linear(2 * n_frequencies, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden))

    def forward(self, t: Tensor) -> Tensor:
        """Encode timesteps, `(n_cells,)`, as `(n_cells, n_hidden)`."""
        angles = t[:, None] * self.frequencies
        return self.layers(torch.cat([angles.sin(), angles.cos()], dim=1))


@dataclass(frozen=True)
class Context:
    """What steers the layers of a denoiser: vectors of timesteps and conditions.

    Parameters
    ----------
    vectors
        One for each cell, or for each group of cells that share theirs, `(n_vectors, n_hidden)`.
    group
        The group of each cell, `(n_cells,)`; None where each has a vector of its own.
    """

    vectors: Tensor
    group: Tensor | None = None

    def through(self, layer: nn.Module) -> Tensor:
        """What a layer makes of the vectors, `(n_cells, n_outputs)`, or `(1, n_outputs)` where all cells share one."""
        outputs = layer(self.vectors)
        return outputs if self.group is None or len(outputs) == 1 else outputs[self.group]


class ResidualBlock(nn.Module):
    """Two linear layers added to their input, scaled and shifted by the timestep and condition; starts as identity."""

    def __init__(self, n_hidden: int, n_context: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(n_hidden, elementwise_affine=False)
        self.modulation = nn.Linear(n_context, 2 * n_hidden)
        self.first = nn.Linear(n_hidden, n_hidden)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(n_hidden, n_hidden)
        for layer in (self.modulation, self.second):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, h: Tensor, context: Context) -> Tensor:
        scale, shift = context.through(self.modulation).chunk(2, dim=1)
        return h + self.second(self.dropout(F.silu(self.first(self.norm(h) * (1 + scale) + shift))))


class Denoiser(nn.Module, ABC):
    """Predicts what the process asks for from noised latents, told the timestep and the conditions.

    Parameters
    ----------
    condition_encoder, timestep_encoder
        Each gives one vector per cell, of the same length.
    fusion
        How the two become one: `"add"`, `"concat"` or `"attention"`.
    """

    def __init__(self, condition_encoder: ConditionEncoder, timestep_encoder: nn.Module, fusion: str) -> None:
        super().__init__()
        self.condition_encoder = condition_encoder
        self.timestep_encoder = timestep_encoder
        self.fusion = fusions.resolve(fusion, n_hidden=condition_encoder.n_hidden)

    def forward(self, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """Predict from noised latents.

        Parameters
        ----------
        x_t
            Noised latents, `(n_cells, n_features)`.
        t
            Timesteps, `(n_cells,)`.
        conditions
            Of the cells; they are read by the condition encoder alone.

        Returns
        -------
        `(n_cells, n_features)`.
        """
        group = None
        if conditions.groups is not None:
            rows, group = conditions.groups
            t, conditions = t[rows], conditions[rows]
        vectors = F.silu(self.fusion(self.timestep_encoder(t), self.condition_encoder(conditions)))
        return self.denoise(x_t, Context(vectors, group))

    @abstractmethod
    def denoise(self, x_t: Tensor, context: Context) -> Tensor:
        """Predict from noised latents, `(n_cells, n_features)`, and the vectors of timesteps and conditions."""


@denoisers.register("mlp")
class ResidualMLP(Denoiser):
    """Residual multi-layer perceptron whose every block is told the timestep and the condition.

    Parameters
    ----------
    n_features
        Length of the latents.
    condition_encoder
        Gives one vector per cell, whose length, its `n_hidden`, the timestep's vector has too.
    n_hidden
        Width.
    n_layers
        Number of residual blocks.
    n_timesteps
        Number of timesteps of the process.
    dropout
        Dropout rate inside the blocks.
    fusion
        How the vectors of timestep and conditions become one: `"add"`, `"concat"` or `"attention"`.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.networks import Conditions, EmbeddingConditions
    >>> denoiser = ResidualMLP(10, EmbeddingConditions([3], 64), n_hidden=64)
    >>> denoiser(torch.randn(5, 10), torch.full((5,), 999), Conditions(torch.full((5, 1), -1))).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        n_features: int,
        condition_encoder: ConditionEncoder,
        n_hidden: int = 256,
        n_layers: int = 3,
        n_timesteps: int = 1000,
        dropout: float = 0.1,
        fusion: str = "add",
    ) -> None:
        n_context = condition_encoder.n_hidden
        super().__init__(condition_encoder, TimestepEncoder(n_context, n_timesteps), fusion)
        self.input = nn.Linear(n_features, n_hidden)
        self.blocks = nn.ModuleList(ResidualBlock(n_hidden, n_context, dropout) for _ in range(n_layers))
        self.norm = nn.LayerNorm(n_hidden)
        self.output = nn.Linear(n_hidden, n_features)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def denoise(self, x_t: Tensor, context: Context) -> Tensor:
        h = self.input(x_t)
        for block in self.blocks:
            h = block(h, context)
        return self.output(self.norm(h))
