from __future__ import annotations

import math

import torch

from ._base import Sampler, samplers


@samplers.register("ddpm")
class DDPMSampler(Sampler):
    """Ancestral sampling: the reverse Markov chain.

    With fewer steps than timesteps the chain is that of the chosen timesteps alone, with their variances
    (Nichol & Dhariwal, section 4).

    Parameters
    ----------
    variance_weight
        Where the variance of a step lies between the posterior's own, beta~ (0), and that of the forward step, beta
        (1), on a logarithmic scale: ``exp(w log beta + (1 - w) log beta~)``. scDiffusion uses 0.5. Its equation 3 is
        printed as ``exp(w beta + (1 - w) beta~)``, which is never below 1 and cannot be meant.

    References
    ----------
    Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, algorithm 2.
    Nichol & Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, ICML 2021, equations 15 and 19.
    Luo et al., *scDiffusion*, Bioinformatics 2024, equation 3.

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

    def __init__(self, variance_weight: float = 0.0) -> None:
        if not 0 <= variance_weight <= 1:
            raise ValueError(f"variance_weight must be between 0 (beta~) and 1 (beta); got {variance_weight!r}.")
        self.variance_weight = variance_weight

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
            shrinkage = (1 - a_bar_next) / (1 - a_bar)  # beta~ / beta (Ho, eq. 7)
            variance = beta * shrinkage ** (1 - self.variance_weight)  # Nichol & Dhariwal, eq. 15
            z = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = mean + math.sqrt(variance) * z  # Ho, algorithm 2, line 4
