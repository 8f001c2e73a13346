from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from scdiffusion.model._checks import did_you_mean

from ._base import FeatureInterpolation, Leg, interpolations


def _spherical(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """The mean on a straight line, deviations from it on a quarter circle.

    Deviations of cells and partners that are independent, and equally large, so keep their variance, which halves in
    the middle of a straight line.
    """
    from_, to = start.mean(0), end.mean(0)
    angle = weight * math.pi / 2
    return torch.lerp(from_, to, weight) + math.cos(angle) * (start - from_) + math.sin(angle) * (end - to)


PATHS = {"linear": torch.lerp, "spherical": _spherical}


@interpolations.register("latent")
@dataclass(frozen=True)
class LatentInterpolation(FeatureInterpolation):
    """Latents between those of a real cell and its partner, decoded.

    Parameters
    ----------
    path
        `"linear"`: a straight line from cell to partner; in the middle, cells vary less than at either end.
        `"spherical"`: the mean of the cells on a straight line, their deviations from it on a quarter circle.
    """

    path: str = "spherical"

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise ValueError(f"Unknown path {self.path!r}.{did_you_mean(self.path, PATHS)}")

    def features(self, leg: Leg, weight: float) -> Tensor:
        """Where the cells are on their paths."""
        return PATHS[self.path](leg.start_features, leg.end_features, weight)
