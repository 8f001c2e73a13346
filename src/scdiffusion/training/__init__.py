"""Training: one Lightning module per stage, and what feeds and runs them."""

from ._fit import auto_precision, fit_stage
from ._loaders import ExpressionLoader, FixedLatents, LabelledLoader, LatentLoader
from ._scorer_stage import ScorerStage
from ._stages import LR_DECAYS, AutoencoderStage, ClassifierStage, DiffusionStage, Stage

__all__ = [
    "LR_DECAYS",
    "AutoencoderStage",
    "ClassifierStage",
    "DiffusionStage",
    "ExpressionLoader",
    "FixedLatents",
    "LabelledLoader",
    "LatentLoader",
    "ScorerStage",
    "Stage",
    "auto_precision",
    "fit_stage",
]
