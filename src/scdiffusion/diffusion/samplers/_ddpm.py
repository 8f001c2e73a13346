from __future__ import annotations

import math

import torch

from ._base import Sampler, samplers


@samplers.register("ddpm")
class DDPMSampler(Sampler):
    """Ancestral sampling: the reverse Markov chain with the posterior's own variance.

    With fewer steps than timesteps the chain is that of the chosen timesteps alone, with their variances
    (Nichol & Dhariwal, section 4).

    References
    ----------
    Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, algorithm 2.
    Nichol & Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, ICML 2021, equation 19.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.diffusion import CosineSchedule
    >>> schedule = CosineSchedule()
    >>> denoise = lambda x, t: schedule.alpha[t, None] * x  # exact for standard normal data
    >>> DDPMSampler().sample(denoise, torch.randn(5, 2), schedule, n_steps=100).shape
    torch.Size([5, 2])
    """

    default_n_steps = 1000

    def integrate(self, denoise, x, alpha, sigma, generator):
        """Follow Ho et al.'s algorithm 2."""
        last = len(alpha) - 2
        for i in range(last + 1):
            a_bar, a_bar_next = alpha[i] ** 2, alpha[i + 1] ** 2
            beta = 1 - a_bar / a_bar_next  # of the chosen timesteps (Nichol & Dhariwal, eq. 19)
            x0 = denoise(x, i)
            mean = (  # Ho, eq. 7
                math.sqrt(a_bar_next) * beta / (1 - a_bar) * x0
                + math.sqrt(1 - beta) * (1 - a_bar_next) / (1 - a_bar) * x
            )
            if i == last:  # no noise in the last step (Ho, algorithm 2, line 3)
                return mean
            variance = (1 - a_bar_next) / (1 - a_bar) * beta  # Ho, eq. 7
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = mean + math.sqrt(variance) * z  # Ho, algorithm 2, line 4
