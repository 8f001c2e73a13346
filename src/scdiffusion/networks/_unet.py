"""SCLD's denoiser: a U-Net over the coordinates of the latents."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._condition_encoders import ConditionEncoder
from ._denoisers import Context, Denoiser, TimestepEncoder, denoisers

_GROUP = 8


class _Block(nn.Module):
    """Two convolutions added to their input, moved in between by the timestep and conditions."""

    def __init__(self, n_in: int, n_out: int, n_context: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(_GROUP, n_in), nn.SiLU(), nn.Conv1d(n_in, n_out, 3, padding=1))
        self.context = nn.Linear(n_context, n_out)
        self.second = nn.Sequential(
            nn.GroupNorm(_GROUP, n_out), nn.SiLU(), nn.Dropout(dropout), nn.Conv1d(n_out, n_out, 3, padding=1)
        )
        self.shortcut = nn.Identity() if n_in == n_out else nn.Conv1d(n_in, n_out, 1)

    def forward(self, h: Tensor, context: Context) -> Tensor:
        return self.shortcut(h) + self.second(self.first(h) + context.through(self.context)[:, :, None])


@denoisers.register("unet")
class UNet1d(Denoiser):
    """Residual U-Net whose convolutions run over the latent's coordinates.

    Coordinates of a latent have no order, and a convolution cannot tell them apart: each has a learned vector of its
    own, added where the network begins.

    Parameters
    ----------
    n_features
        Length of the latents.
    condition_encoder
        Gives one vector per cell, whose length, its `n_hidden`, the timestep's vector has too.
    n_hidden
        Channels at each resolution, multiples of 8; each resolution has half as many positions as the one before. The
        default is half of what image diffusion uses.
    n_timesteps
        Number of timesteps of the process.
    dropout
        Dropout rate inside the blocks.
    fusion
        How the vectors of timestep and conditions become one: `"add"`, `"concat"` or `"attention"`.

    References
    ----------
    Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model*, arXiv 2312.14220: a Wide-ResNet U-Net of
    half the width, as in Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, appendix B.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.networks import Conditions, EmbeddingConditions
    >>> denoiser = UNet1d(30, EmbeddingConditions([3], n_hidden=32), n_hidden=(16, 32))
    >>> denoiser(torch.randn(5, 30), torch.full((5,), 999), Conditions(torch.full((5, 1), -1))).shape
    torch.Size([5, 30])
    """

    def __init__(
        self,
        n_features: int,
        condition_encoder: ConditionEncoder,
        n_hidden: Sequence[int] = (64, 128, 128),
        n_timesteps: int = 1000,
        dropout: float = 0.1,
        fusion: str = "add",
    ) -> None:
        if not isinstance(n_hidden, Sequence) or not n_hidden or any(n % _GROUP for n in n_hidden):
            raise ValueError(
                f"denoiser_hidden must hold channels that {_GROUP} divides, e.g. (64, 128, 128); got {n_hidden!r}."
            )
        n_context = condition_encoder.n_hidden
        super().__init__(condition_encoder, TimestepEncoder(n_context, n_timesteps), fusion)
        # Positions must halve evenly at each further resolution.
        self.n_padding = -n_features % 2 ** (len(n_hidden) - 1)
        self.position = nn.Parameter(0.1 * torch.randn(n_hidden[0], n_features + self.n_padding))
        self.input = nn.Conv1d(1, n_hidden[0], 3, padding=1)
        steps = list(pairwise(n_hidden))
        self.down = nn.ModuleList(_Block(n, n, n_context, dropout) for n in n_hidden)
        self.shrink = nn.ModuleList(nn.Conv1d(a, b, 3, stride=2, padding=1) for a, b in steps)
        self.middle = _Block(n_hidden[-1], n_hidden[-1], n_context, dropout)
        self.up = nn.ModuleList(_Block(2 * n, n, n_context, dropout) for n in reversed(n_hidden))
        self.grow = nn.ModuleList(nn.ConvTranspose1d(b, a, 2, stride=2) for a, b in reversed(steps))
        self.output = nn.Sequential(
            nn.GroupNorm(_GROUP, n_hidden[0]), nn.SiLU(), nn.Conv1d(n_hidden[0], 1, 3, padding=1)
        )
        nn.init.zeros_(self.output[-1].weight)
        nn.init.zeros_(self.output[-1].bias)

    def denoise(self, x_t: Tensor, context: Context) -> Tensor:
        h = self.input(F.pad(x_t, (0, self.n_padding))[:, None]) + self.position  # (n_cells, n_channels, n_positions)
        outputs = []
        for level, block in enumerate(self.down):
            h = block(self.shrink[level - 1](h) if level else h, context)
            outputs.append(h)
        h = self.middle(h, context)
        for level, (block, skip) in enumerate(zip(self.up, reversed(outputs), strict=True)):
            h = block(torch.cat([self.grow[level - 1](h) if level else h, skip], dim=1), context)
        return self.output(h)[:, 0, : x_t.shape[1]]
