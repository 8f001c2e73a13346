from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scdiffusion.networks import Between

from ._base import FeatureInterpolation, Leg, check_level, interpolations, published_level


@interpolations.register("condition")
@dataclass(frozen=True)
class ConditionInterpolation(FeatureInterpolation):
    """Real cells of the source, noised and denoised under the interpolated condition.

    Of categories the vectors that the denoiser knows them by are interpolated, of continuous conditions the numbers.

    Parameters
    ----------
    start_level
        Share of the process to noise by and denoise from, above 0 and up to 1. The less, the more of the source stays.
        By default as noisy as in scDiffusion: 0.6 of the linear schedule, 0.9 of the cosine one.
    """

    start_level: float | None = None
    needs_target = False
    needs_conditions = True

    def __post_init__(self) -> None:
        check_level(self.start_level)

    def features(self, leg: Leg, weight: float) -> Tensor:
        level = self.start_level or published_level(leg.model.module.process.schedule)
        return leg.denoise(leg.start_features, level, Between(leg.source, leg.target, weight))
