"""scDiffusion's denoiser."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from ._condition_encoders import ConditionEncoder
from ._denoisers import Context, Denoiser, TimestepEncoder, denoisers

# Of the sinusoidal embedding that the paper's code takes over from image diffusion.
_LONGEST_PERIOD = 10_000


class _Block(nn.Module):
    """Linear layer, moved by the timestep and conditions, normalised and activated."""

    def __init__(self, n_in: int, n_out: int, n_context: int, dropout: float) -> None:
        super().__init__()
        self.linear, self.context = nn.Linear(n_in, n_out), nn.Linear(n_context, n_out)
        self.norm, self.dropout = nn.LayerNorm(n_out), nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Context) -> Tensor:
        return self.dropout(F.silu(self.norm(self.linear(x) + context.through(self.context))))


@denoisers.register("skip_mlp")
class SkipMLP(Denoiser):
    """Multi-layer perceptron that narrows and widens again, each width's output added on the way back.

    With the default sizes, 128 latents and an unconditional encoder it has 3.49 million parameters, as published.

    Parameters
    ----------
    n_features
        Length of the latents.
    condition_encoder
        Gives one vector per cell, whose length, its `n_hidden`, the timestep's vector has too (512 in the paper).
    n_hidden
        Widths on the way down.
    n_timesteps
        Ignored: the periods of the timestep's sines and cosines are the paper's, up to 10,000.
    dropout
        Dropout rate of the blocks.
    fusion
        How the vectors of timestep and conditions become one: `"add"`, `"concat"` or `"attention"`.

    References
    ----------
    Luo et al. 2024, scDiffusion, and the sizes of its public code.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.networks import Conditions, NoConditions
    >>> denoiser = SkipMLP(128, NoConditions([3], n_hidden=512))
    >>> sum(p.numel() for p in denoiser.parameters())
    3488384
    >>> denoiser(torch.randn(5, 128), torch.full((5,), 999), Conditions(torch.zeros(5, 1, dtype=torch.long))).shape
    torch.Size([5, 128])
    """

    def __init__(
        self,
        n_features: int,
        condition_encoder: ConditionEncoder,
        n_hidden: Sequence[int] = (512, 512, 256, 128),
        n_timesteps: int = 1000,
        dropout: float = 0.0,
        fusion: str = "add",
    ) -> None:
        if not isinstance(n_hidden, Sequence) or len(n_hidden) < 2:
            raise ValueError(
                f"denoiser_hidden must hold two widths or more, e.g. (512, 512, 256, 128); got {n_hidden!r}."
            )
        n_context = condition_encoder.n_hidden
        super().__init__(
            condition_encoder, TimestepEncoder(n_context, _LONGEST_PERIOD, n_frequencies=n_context // 2), fusion
        )
        self.down = nn.ModuleList(_Block(a, b, n_context, dropout) for a, b in pairwise([n_features, *n_hidden]))
        self.up = nn.ModuleList(_Block(a, b, n_context, dropout) for a, b in pairwise(reversed(n_hidden)))
        n_head = 2 * n_hidden[1]
        self.head = nn.Sequential(
            nn.Linear(n_hidden[0], n_head), nn.LayerNorm(n_head), nn.SiLU(), nn.Linear(n_head, n_features)
        )

    def denoise(self, x_t: Tensor, context: Context) -> Tensor:
        h, outputs = x_t, []
        for block in self.down:
            h = block(h, context)
            outputs.append(h)
        for block, skip in zip(self.up, reversed(outputs[:-1]), strict=True):
            h = block(h, context) + skip
        return self.head(h)
