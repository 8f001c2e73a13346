from __future__ import annotations

from ._base import Sampler, samplers


@samplers.register("euler")
class EulerSampler(Sampler):
    """Euler steps along the straight-line flow from noise to data; deterministic.

    Divided by ``alpha + sigma``, ``x_t`` is ``z = (1 - s) x_0 + s noise`` with ``s = sigma / (alpha + sigma)``:
    a rectified flow, whose velocity at fixed estimates is ``dz/ds = noise - x_0``. The steps are equally long in s.
    An Euler step of any such flow equals the DDIM step (``eta=0``) between the same two timesteps,
    so this sampler differs from DDIM in where it steps, not in how.

    References
    ----------
    Liu et al., *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*, ICLR 2023, eq. 1.
    Karras et al., *Elucidating the Design Space of Diffusion-Based Generative Models*, NeurIPS 2022, eq. 4:
    the probability-flow ODE under a time-dependent scaling of x.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.diffusion import CosineSchedule
    >>> schedule = CosineSchedule()
    >>> denoise = lambda x, t: schedule.alpha[t, None] * x  # exact for standard normal data
    >>> EulerSampler().sample(denoise, torch.randn(5, 2), schedule, n_steps=50).shape
    torch.Size([5, 2])
    """

    default_n_steps = 100

    def integrate(self, denoise, x, alpha, sigma, generator):
        """Follow dz/ds from noise, s = 1, to data, s = 0."""
        scale = [a + b for a, b in zip(alpha, sigma, strict=True)]
        s = [b / c for b, c in zip(sigma, scale, strict=True)]
        z = x / scale[0]
        for i in range(len(s) - 1):
            x0 = denoise(z * scale[i], i)
            velocity = (z - x0) / s[i]  # noise - x_0, with the noise that z and x_0 imply
            z = z + (s[i + 1] - s[i]) * velocity
        return z  # at s = 0 the scale is 1, so z is x

    def clock(self, schedule):
        """Return the flow's own time s."""
        alpha, sigma = schedule.coefficients(range(schedule.n_timesteps))
        return sigma / (alpha + sigma), 0.0
