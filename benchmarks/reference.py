"""scDiffusion's published model, written out for `speed.py` to be measured against."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn

N_LATENT, WIDTHS = 128, (512, 512, 256, 128)
PUBLISHED_STEPS = {"autoencoder": 150_000, "diffusion": 600_000}


class ReferenceDenoiser(nn.Module):
    """scDiffusion's published denoiser: 3.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        context = WIDTHS[0]
        self.time = nn.Sequential(nn.Linear(context, context), nn.SiLU(), nn.Linear(context, context))
        path = [N_LATENT, *WIDTHS, *WIDTHS[-2::-1]]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(path, path[1:], strict=False))
        self.contexts = nn.ModuleList(nn.Linear(context, b) for b in path[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in path[1:])
        self.head = nn.Sequential(
            nn.Linear(context, 2 * context), nn.LayerNorm(2 * context), nn.SiLU(), nn.Linear(2 * context, N_LATENT)
        )
        self.register_buffer("frequencies", torch.exp(-torch.arange(context // 2) / (context // 2) * np.log(10_000)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        context, outputs = self.time(torch.cat([angles.cos(), angles.sin()], 1)), []
        for layer, move, norm in zip(self.layers, self.contexts, self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x) + move(context)))
            if len(outputs) >= len(WIDTHS):
                x = x + outputs[2 * len(WIDTHS) - 2 - len(outputs)]
            outputs.append(x)
        return self.head(x)


def reference_autoencoder(n_genes: int) -> nn.Module:
    sizes = [n_genes, 1024, 1024, 1024, N_LATENT, 1024, 1024, 1024]
    hidden = [
        part
        for a, b in zip(sizes, sizes[1:], strict=False)
        for part in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.PReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(1024, n_genes), nn.ReLU())


@torch.inference_mode()
def reference_generate(n_cells: int, n_genes: int, n_steps: int = 1000) -> np.ndarray:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) and dense decoding."""
    denoiser = ReferenceDenoiser().eval()
    decoder = reference_autoencoder(n_genes).eval()[12:]
    beta = torch.linspace(1e-4, 0.02, n_steps)
    alpha, alpha_bar = 1 - beta, torch.cumprod(1 - beta, 0)
    x = torch.randn(n_cells, N_LATENT)
    for t in reversed(range(n_steps)):
        noise = denoiser(x, torch.full((n_cells,), t))
        x = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * noise) / alpha[t].sqrt()
        x = x + beta[t].sqrt() * torch.randn_like(x) * (t > 0)
    return decoder(x).numpy()


def reference_step_seconds(network: nn.Module, *inputs: Tensor, n_steps: int) -> float:
    optimiser = torch.optim.AdamW(network.parameters())
    network.train()
    seconds = []
    for _ in range(n_steps):
        start = time.perf_counter()
        network(*inputs).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))
