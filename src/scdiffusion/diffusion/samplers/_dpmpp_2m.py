from __future__ import annotations

import math

import torch

from ._base import Sampler, samplers

# Plain log-SNR spends up to half of the denoiser calls where there is next to no signal, or next to no noise.
# 0.05 did best of 0.02 to 0.1 on mixtures whose clusters have 0.1 to 0.9 of the data's standard deviation.
SOFTENING = 0.05


@samplers.register("dpmpp_2m")
class DPMPP2MSampler(Sampler):
    """DPM-Solver++(2M): deterministic, second order with one denoiser call per step.

    How the denoiser's estimate changed since the step before tells where it is heading,
    so that 20 steps come about as near to the exact solution as DDIM does in 100.

    Parameters
    ----------
    spacing
        In what the steps are equally long. ``"log_snr"``: ``log((alpha + c) / (sigma + c))`` with c = 0.05,
        which is half the log signal-to-noise ratio where signal and noise are comparable, and bounded
        where there is next to none of either. ``"timestep"``: the timestep; with few steps,
        narrow clusters come out too narrow.

    References
    ----------
    Lu et al., *DPM-Solver++: Fast Solver for Guided Sampling of Diffusion Probabilistic Models*, 2022, algorithm 2.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.diffusion import CosineSchedule
    >>> schedule = CosineSchedule()
    >>> denoise = lambda x, t: schedule.alpha[t, None] * x  # exact for standard normal data
    >>> DPMPP2MSampler().sample(denoise, torch.randn(5, 2), schedule, n_steps=20).shape
    torch.Size([5, 2])
    """

    default_n_steps = 20

    def __init__(self, spacing: str = "log_snr") -> None:
        if spacing not in ("log_snr", "timestep"):
            raise ValueError(f"spacing must be 'log_snr' or 'timestep'; got {spacing!r}.")
        self.spacing = spacing

    def integrate(self, denoise, x, alpha, sigma, generator):
        """Follow Lu et al.'s algorithm 2."""
        n_steps = len(alpha) - 1
        half_log_snr = [math.log(alpha[i] / sigma[i]) for i in range(n_steps)]  # lambda; infinite at the clean end
        h = [b - a for a, b in zip(half_log_snr[:-1], half_log_snr[1:], strict=True)]
        previous_x0 = None
        for i in range(n_steps):
            x0 = denoise(x, i)
            if 0 < i < n_steps - 1:
                r = h[i - 1] / h[i]
                D = (1 + 1 / (2 * r)) * x0 - 1 / (2 * r) * previous_x0  # algorithm 2, D_i
            else:
                D = x0  # first order: no step before, or an infinite one ahead
            # algorithm 2, x_i; alpha' exp(-h) is written as sigma' alpha / sigma, which an infinite h does not disturb
            x = sigma[i + 1] / sigma[i] * x + (alpha[i + 1] - sigma[i + 1] * alpha[i] / sigma[i]) * D
            previous_x0 = x0
        return x

    def clock(self, schedule):
        """Return the timestep, or minus the softened half log-SNR."""
        if self.spacing == "timestep":
            return super().clock(schedule)
        alpha, sigma = schedule.coefficients(range(schedule.n_timesteps))
        return torch.log((sigma + SOFTENING) / (alpha + SOFTENING)), math.log(SOFTENING / (1 + SOFTENING))
