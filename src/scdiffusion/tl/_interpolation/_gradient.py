from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from scdiffusion.diffusion import Guidance, Guide
from scdiffusion.networks import Conditions

from ._base import FeatureInterpolation, Leg, check_level, interpolations, published_level


@dataclass(frozen=True)
class _TwoLabels(Guidance):
    """Follows the gradients of one classifier for two of its labels."""

    source: Conditions
    target: Conditions
    weight: float

    replaces_conditions = True
    needs_classifier = True

    def shift(self, step, scales):
        ((key,), scale), *_ = scales.items()

        def objective(x: Tensor) -> Tensor:
            source, target = (
                step.model.log_probability(x, step.t, conditions, key) for conditions in (self.source, self.target)
            )
            return scale * ((1 - self.weight) * source + self.weight * target)

        return step.uphill(objective)


@interpolations.register("gradient")
@dataclass(frozen=True)
class GradientInterpolation(FeatureInterpolation):
    r"""Gradient Interpolation: real cells of the source, noised, and denoised along two labels' gradients.

    .. math:: \gamma_1 \nabla_{x_t} \log p(c_1 \mid x_t) + \gamma_2 \nabla_{x_t} \log p(c_2 \mid x_t)

    guides a denoiser that is not told the condition; both gradients are of one classifier, and :math:`\gamma_1` falls
    from the total scale to 0 while :math:`\gamma_2` rises. With a total scale of 2, cells in the middle are those that
    are likely under the model and which both labels fit. Published code starts denoising at the last step of the
    process, whatever step the cells were noised to; here both are the same.

    Parameters
    ----------
    start_level
        Share of the process to noise by and denoise from, above 0 and up to 1. The less, the more of the source stays.
        By default as noisy as published: 0.6 of the linear schedule, 0.9 of the cosine one.
    total_scale
        :math:`\gamma_1 + \gamma_2`, above 0.

    References
    ----------
    Luo et al., *scDiffusion*, Bioinformatics 2024, equations 6 and 7.
    """

    start_level: float | None = None
    total_scale: float = 2.0
    needs_target = False
    needs_classifier = True

    def __post_init__(self) -> None:
        check_level(self.start_level)
        if not 0 < self.total_scale < float("inf"):
            raise ValueError(f"total_scale must be above 0, e.g. 2; got {self.total_scale!r}.")

    def features(self, leg: Leg, weight: float) -> Tensor:
        level = self.start_level or published_level(leg.model.module.process.schedule)
        method = _TwoLabels(leg.source, leg.target, weight)
        guide = Guide([(method, {frozenset({leg.key}): self.total_scale})], frozenset({leg.key}))
        return leg.denoise(leg.start_features, level, leg.source, guide)
