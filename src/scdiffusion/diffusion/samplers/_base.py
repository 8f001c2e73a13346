"""What every sampler shares: choosing the timesteps, and walking along them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from scdiffusion._registry import Registry
from scdiffusion.diffusion.schedules import NoiseSchedule

samplers = Registry("sampler")


class Sampler(ABC):
    """Turns noise into samples with a denoiser; a subclass brings :meth:`integrate`, its paper's algorithm.

    Attributes
    ----------
    default_n_steps
        Number of denoiser calls when the caller does not say.
    """

    default_n_steps: int

    @torch.no_grad()
    def sample(
        self,
        denoise: Callable[[Tensor, Tensor], Tensor],
        x: Tensor,
        schedule: NoiseSchedule,
        n_steps: int | None = None,
        *,
        generator: torch.Generator | None = None,
        start: int | None = None,
    ) -> Tensor:
        """Carry ``x`` back to clean samples.

        Parameters
        ----------
        denoise
            ``denoise(x_t, t)`` estimates x_0, (n, d), from ``x_t`` (n, d) and integer timesteps ``t`` (n,).
            Conditions and guidance are already inside.
        x
            Where to start, (n, d): standard normal noise, or samples noised to timestep ``start``.
        schedule
            The noise schedule that the denoiser was trained with.
        n_steps
            Number of denoiser calls, 1 to ``start + 1``. Default: ``default_n_steps``, or as many as there are.
        generator
            Source of the samplers' own noise; the same seed gives the same samples.
        start
            Timestep of ``x``. Default: the last one, pure noise.

        Returns
        -------
        Samples, (n, d), of the dtype and on the device of ``x``.

        Raises
        ------
        ValueError
            If ``n_steps`` or ``start`` is out of range.
        """
        timesteps = self.timesteps(n_steps, start, schedule)
        alpha, sigma = schedule.coefficients(timesteps)

        def denoise_at_step(x: Tensor, step: int) -> Tensor:
            return denoise(x, torch.full((len(x),), timesteps[step], dtype=torch.long, device=x.device))

        # every path ends at clean data: alpha = 1, sigma = 0
        return self.integrate(denoise_at_step, x, [*alpha.tolist(), 1.0], [*sigma.tolist(), 0.0], generator)

    @abstractmethod
    def integrate(
        self,
        denoise: Callable[[Tensor, int], Tensor],
        x: Tensor,
        alpha: list[float],
        sigma: list[float],
        generator: torch.Generator | None,
    ) -> Tensor:
        """Carry ``x`` along the path ``alpha``, ``sigma`` of ``n_steps + 1`` points, the last one clean.

        ``denoise(x, i)`` estimates x_0 at point ``i``. The coefficients are numbers, not tensors,
        so that the loop never waits for the device.
        """

    def timesteps(self, n_steps: int | None, start: int | None, schedule: NoiseSchedule) -> list[int]:
        """Return ``n_steps`` timesteps of ``schedule``, strictly descending from ``start``.

        Raises
        ------
        ValueError
            If ``n_steps`` or ``start`` is out of range.
        """
        last = schedule.n_timesteps - 1
        start = last if start is None else start
        if start != int(start) or not 0 <= start <= last:
            raise ValueError(f"start must be a timestep between 0 and {last}, or None for pure noise; got {start!r}.")
        n_steps = min(self.default_n_steps, start + 1) if n_steps is None else n_steps
        if n_steps != int(n_steps) or not 1 <= n_steps <= start + 1:
            raise ValueError(
                f"n_steps must be a whole number between 1 and {start + 1}, the timesteps that there are "
                f"from timestep {start} down; got {n_steps!r}. {self.default_n_steps} is the default of "
                f"{type(self).__name__}."
            )
        n_steps, start = int(n_steps), int(start)
        values, clean = self.clock(schedule)
        targets = torch.linspace(float(values[start]), clean, n_steps + 1, dtype=torch.float64)[:-1]  # (n_steps,)
        nearest = torch.bucketize(targets, (values[:start] + values[1 : start + 1]) / 2)
        # two targets may share their nearest timestep, and near 0 there may be none left to move down to
        rank = torch.arange(n_steps)
        distinct = torch.cummin(nearest + rank, dim=0).values - rank
        return torch.maximum(distinct, rank.flip(0)).tolist()

    def clock(self, schedule: NoiseSchedule) -> tuple[Tensor, float]:
        """Return the quantity in which steps are equally long: the timestep, unless a subclass knows better.

        Returns
        -------
        Its value at each timestep, ascending, float64 of shape (n_timesteps,), and its value for clean data.
        """
        return torch.arange(1, schedule.n_timesteps + 1, dtype=torch.float64), 0.0
