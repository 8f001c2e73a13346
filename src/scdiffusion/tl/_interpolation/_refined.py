from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scdiffusion.networks import Between

from ._base import Leg, check_level, interpolations
from ._latent import LatentInterpolation


@interpolations.register("refined")
@dataclass(frozen=True)
class RefinedInterpolation(LatentInterpolation):
    """Latents between those of a real cell and its partner, noised and denoised under the interpolated condition.

    The path brings the cells to where they should be as a whole, the diffusion to where cells can be.

    Parameters
    ----------
    path
        `"spherical"` or `"linear"`.
    start_level
        Share of the process to noise by and denoise from, above 0 (the path decides) and up to 1 (the condition does).
    """

    start_level: float = 0.6
    needs_conditions = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_level(self.start_level)

    def features(self, leg: Leg, weight: float) -> Tensor:
        return leg.denoise(super().features(leg, weight), self.start_level, Between(leg.source, leg.target, weight))
