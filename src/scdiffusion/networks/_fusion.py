"""Fusions: how the vectors of timestep and conditions become the one that steers a denoiser's layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from scdiffusion._registry import Registry

fusions = Registry("fusion")

_TOKEN = 16


@fusions.register("add")
class AddFusion(nn.Module):
    """The sum of both."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()

    def forward(self, timestep: Tensor, condition: Tensor) -> Tensor:
        """Fuse vectors, `(n_cells, n_hidden)` each, to `(n_cells, n_hidden)`."""
        return timestep + condition


@fusions.register("concat")
class ConcatFusion(nn.Module):
    """Both side by side, through a linear layer."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * n_hidden, n_hidden)

    def forward(self, timestep: Tensor, condition: Tensor) -> Tensor:
        """Fuse vectors, `(n_cells, n_hidden)` each, to `(n_cells, n_hidden)`."""
        return self.linear(torch.cat([timestep, condition], dim=1))


@fusions.register("attention")
class AttentionFusion(nn.Module):
    """Cross-attention: the timestep's vector, cut into tokens of 16, attends to the tokens of the conditions'."""

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        if n_hidden % _TOKEN:
            raise ValueError(f"fusion='attention' needs a condition_hidden that {_TOKEN} divides; got {n_hidden}.")
        self.attention = nn.MultiheadAttention(_TOKEN, num_heads=2, batch_first=True)
        # Without positions, tokens of the conditions could change places unnoticed.
        self.position = nn.Parameter(0.5 * torch.randn(n_hidden // _TOKEN, _TOKEN))

    def forward(self, timestep: Tensor, condition: Tensor) -> Tensor:
        """Fuse vectors, `(n_cells, n_hidden)` each, to `(n_cells, n_hidden)`."""
        query, tokens = (vector.unflatten(1, self.position.shape) + self.position for vector in (timestep, condition))
        attended, _ = self.attention(query, tokens, tokens, need_weights=False)
        return timestep + attended.flatten(1)
