"""Noise schedules: how much of a cell is left, and how much noise has come in, at every timestep."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scdiffusion._registry import Registry

schedules = Registry("noise schedule")

# 1 keeps the last alpha_bar above zero, where the signal-to-noise ratio would have no logarithm
MAX_BETA = 0.999


class NoiseSchedule(nn.Module, ABC):
    """A variance-preserving schedule, ``x_t = alpha_t x_0 + sigma_t noise`` with ``alpha_t^2 + sigma_t^2 = 1``.

    A new schedule is a subclass that says what its :meth:`variances` are.
    The buffers are float32 and not saved: they follow from the class and ``n_timesteps``.

    Parameters
    ----------
    n_timesteps
        Number of timesteps T. Timestep 0 is nearly clean, timestep T - 1 nearly pure noise.

    Attributes
    ----------
    betas : Tensor of shape (n_timesteps,)
        Variance that each timestep adds.
    alpha_bar : Tensor of shape (n_timesteps,)
        Fraction of variance that is still signal, the cumulative product of ``1 - betas``.
    alpha, sigma : Tensor of shape (n_timesteps,)
        Weight of the data and of the noise, ``sqrt(alpha_bar)`` and ``sqrt(1 - alpha_bar)``.
    log_snr : Tensor of shape (n_timesteps,)
        Natural logarithm of the signal-to-noise ratio ``alpha^2 / sigma^2``.
    """

    betas: Tensor
    alpha_bar: Tensor
    alpha: Tensor
    sigma: Tensor
    log_snr: Tensor

    def __init__(self, n_timesteps: int = 1000) -> None:
        super().__init__()
        if n_timesteps != int(n_timesteps) or n_timesteps < 1:
            raise ValueError(f"n_timesteps must be a whole number of at least 1, e.g. 1000; got {n_timesteps!r}.")
        self.n_timesteps = int(n_timesteps)
        betas = self.variances(self.n_timesteps).double()
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        # a plain attribute, not a buffer: it stays on the CPU in float64 whatever happens to the module
        self._exact_alpha_bar = alpha_bar
        for name, values in {
            "betas": betas,
            "alpha_bar": alpha_bar,
            "alpha": alpha_bar.sqrt(),
            "sigma": (1 - alpha_bar).sqrt(),
            "log_snr": alpha_bar.log() - torch.log1p(-alpha_bar),
        }.items():
            self.register_buffer(name, values.float(), persistent=False)

    @abstractmethod
    def variances(self, n_timesteps: int) -> Tensor:
        """Return the variance that each timestep adds, float64 of shape (n_timesteps,), each in (0, 1)."""

    def coefficients(self, timesteps: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return ``alpha`` and ``sigma`` at ``timesteps``, in double precision and always on the CPU."""
        alpha_bar = self._exact_alpha_bar[list(timesteps)]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def level_to_timestep(self, level: float) -> int:
        """Return the timestep at which a fraction ``level`` of the noising is done.

        Parameters
        ----------
        level
            Above 0 (clean) and up to 1 (pure noise).

        Returns
        -------
        The timestep, 0 to ``n_timesteps - 1``.

        Raises
        ------
        ValueError
            If ``level`` is outside (0, 1].
        """
        if not 0 < level <= 1:
            raise ValueError(f"level must be above 0 and at most 1, e.g. 0.6; got {level!r}.")
        return max(round(level * self.n_timesteps) - 1, 0)


@schedules.register("linear")
class LinearSchedule(NoiseSchedule):
    """Variances that grow linearly, 1e-4 to 0.02 over 1000 timesteps.

    Other lengths scale the variances by ``1000 / n_timesteps``, so that the last timestep stays as noisy.

    Parameters
    ----------
    n_timesteps
        Number of timesteps.

    References
    ----------
    Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, section 4.

    Examples
    --------
    >>> schedule = LinearSchedule()
    >>> [round(beta, 4) for beta in schedule.betas[[0, -1]].tolist()]
    [0.0001, 0.02]
    """

    def variances(self, n_timesteps: int) -> Tensor:
        """Return the variances, evenly spaced."""
        scale = 1000 / n_timesteps
        betas = torch.linspace(1e-4 * scale, 0.02 * scale, n_timesteps, dtype=torch.float64)
        return betas.clamp(max=MAX_BETA)


@schedules.register("cosine")
class CosineSchedule(NoiseSchedule):
    """Signal that fades as a squared cosine, which spends more timesteps at intermediate noise.

    Parameters
    ----------
    n_timesteps
        Number of timesteps.

    References
    ----------
    Nichol & Dhariwal, *Improved Denoising Diffusion Probabilistic Models*, ICML 2021, equation 17.

    Examples
    --------
    >>> schedule = CosineSchedule(n_timesteps=100)
    >>> round(schedule.alpha_bar[schedule.level_to_timestep(0.5)].item(), 2)
    0.49
    """

    offset = 0.008

    def variances(self, n_timesteps: int) -> Tensor:
        """Return ``1 - f(t) / f(t - 1)`` for the squared cosine ``f``, at most 0.999."""
        time = torch.linspace(0, 1, n_timesteps + 1, dtype=torch.float64)
        f = torch.cos((time + self.offset) / (1 + self.offset) * math.pi / 2) ** 2  # eq. 17
        return (1 - f[1:] / f[:-1]).clamp(max=MAX_BETA)
