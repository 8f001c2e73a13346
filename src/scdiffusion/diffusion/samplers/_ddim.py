from __future__ import annotations

import math

import torch

from ._base import Sampler, samplers


@samplers.register("ddim")
class DDIMSampler(Sampler):
    """Denoising diffusion implicit model: deterministic at ``eta=0``, as noisy as DDPM at ``eta=1``.

    Parameters
    ----------
    eta
        How much fresh noise each step brings, 0 to 1.

    References
    ----------
    Song et al., *Denoising Diffusion Implicit Models*, ICLR 2021, equations 12 and 16.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.diffusion import CosineSchedule
    >>> schedule = CosineSchedule()
    >>> denoise = lambda x, t: schedule.alpha[t, None] * x  # exact for standard normal data
    >>> DDIMSampler().sample(denoise, torch.randn(5, 2), schedule, n_steps=50).shape
    torch.Size([5, 2])
    """

    default_n_steps = 100

    def __init__(self, eta: float = 0.0) -> None:
        if not 0 <= eta <= 1:
            raise ValueError(f"eta must be between 0 (deterministic) and 1 (as noisy as DDPM); got {eta!r}.")
        self.eta = eta

    def integrate(self, denoise, x, alpha, sigma, generator):
        """Follow Song et al.'s equation 12."""
        for i in range(len(alpha) - 1):
            x0 = denoise(x, i)
            epsilon = (x - alpha[i] * x0) / sigma[i]
            fresh = self.eta * sigma[i + 1] / sigma[i] * math.sqrt(1 - (alpha[i] / alpha[i + 1]) ** 2)  # eq. 16
            x = alpha[i + 1] * x0 + math.sqrt(sigma[i + 1] ** 2 - fresh**2) * epsilon  # eq. 12
            if fresh > 0:
                x = x + fresh * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)  # eq. 12
        return x
