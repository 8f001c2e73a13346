"""Training: one Lightning module per stage, and what feeds and runs them."""

from ._fit import auto_precision, fit_stage
from ._loaders import CountLoader, FixedLatents, LatentLoader
from ._stages import AutoencoderStage, ClassifierStage, DiffusionStage, Stage

__all__ = [
    "AutoencoderStage",
    "ClassifierStage",
    "CountLoader",
    "DiffusionStage",
    "FixedLatents",
    "LatentLoader",
    "Stage",
    "auto_precision",
    "fit_stage",
]
