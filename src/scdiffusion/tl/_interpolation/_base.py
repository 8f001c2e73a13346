"""What every method of interpolation is given, and what it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion._registry import Registry
from scdiffusion.diffusion import LinearSchedule, NoiseSchedule
from scdiffusion.networks import Conditions

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion

interpolations = Registry("interpolation method")


@dataclass(frozen=True)
class Leg:
    """Cells on their way from one state to the next; every attribute but the first has a row for each of them.

    Parameters
    ----------
    model
        The trained model.
    key
        Position of the condition key that differs between the states.
    source, target
        Conditions of the cells at either end.
    start, end
        Counts of real cells of both states, `(n_cells, n_genes)`, paired row by row. `end` is None for methods that do
        not need it.
    start_features, end_features
        The same cells as the diffusion sees them: standardised latents and log library size, `(n_cells, n_latent + 1)`.
    denoise
        `denoise(origin, level, conditions, guide=None)` noises features to a level and denoises them, with the same
        noise at each call, so that a cell can be followed.
    """

    model: SCDiffusion
    key: int
    source: Conditions
    target: Conditions
    start: sp.csr_matrix
    end: sp.csr_matrix | None
    start_features: Tensor
    end_features: Tensor | None
    denoise: Callable[..., Tensor]


class Interpolation(ABC):
    """A method of :func:`~scdiffusion.tl.interpolate`; a subclass is registered, or passed as an instance.

    Attributes
    ----------
    needs_target
        Whether real cells of the target are needed.
    needs_classifier
        Whether a classifier of the condition key must be trained.
    needs_conditions
        Whether the denoiser must see conditions.
    """

    needs_target: bool = True
    needs_classifier: bool = False
    needs_conditions: bool = False

    @abstractmethod
    def counts(
        self, leg: Leg, weight: float, covariates: Tensor | None, generator: torch.Generator
    ) -> tuple[sp.csr_matrix, Tensor | None]:
        """Cells between source and target.

        Parameters
        ----------
        leg
            Where they come from and go to.
        weight
            0 at the source, 1 at the target.
        covariates
            What the decoder is told of the cells, as :class:`~scdiffusion.autoencoders.Autoencoder` takes it.
        generator
            Source of randomness.

        Returns
        -------
        Counts, `(n_cells, n_genes)`, and the features they were drawn from, `(n_cells, n_latent + 1)`, if any.
        """


class FeatureInterpolation(Interpolation):
    """A method that gives latents, from which counts are drawn; a subclass brings :meth:`features`."""

    @abstractmethod
    def features(self, leg: Leg, weight: float) -> Tensor:
        """Latents and log library size at a weight, standardised, `(n_cells, n_latent + 1)`."""

    def counts(
        self, leg: Leg, weight: float, covariates: Tensor | None, generator: torch.Generator
    ) -> tuple[sp.csr_matrix, Tensor]:
        """Draw counts of the features at a weight; parameters as for :meth:`Interpolation.counts`."""
        features = self.features(leg, weight)
        return leg.model._draw_expression(features, covariates, generator), features


def check_level(start_level: float | None) -> None:
    """Raise where a level is not a share of the process."""
    if start_level is not None and not 0 < start_level <= 1:
        raise ValueError(
            f"start_level must be above 0 (clean) and at most 1 (pure noise), e.g. 0.6; got {start_level!r}."
        )


def published_level(schedule: NoiseSchedule) -> float:
    """The level at which a schedule is as noisy as scDiffusion's start, step 600 of 1000 of the linear schedule."""
    published = LinearSchedule().alpha_bar[LinearSchedule().level_to_timestep(0.6)]
    nearest = (schedule.alpha_bar - published.to(schedule.alpha_bar.device)).abs().argmin()
    return (int(nearest) + 1) / schedule.n_timesteps
