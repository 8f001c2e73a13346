"""Training: one Lightning module per stage, and what feeds and runs them."""

from ._distributed import is_distributed, synchronise
from ._expression import Expression, InMemoryExpression, OnDiskExpression, expression_source, row_blocks
from ._fit import auto_precision, fit_stage
from ._loaders import ExpressionLoader, FixedExpression, FixedLabelled, FixedLatents, LabelledLoader, LatentLoader
from ._scorer_stage import ScorerStage
from ._stages import LR_DECAYS, AutoencoderStage, ClassifierStage, DiffusionStage, Stage

__all__ = [
    "LR_DECAYS",
    "AutoencoderStage",
    "ClassifierStage",
    "DiffusionStage",
    "Expression",
    "ExpressionLoader",
    "FixedExpression",
    "FixedLabelled",
    "FixedLatents",
    "InMemoryExpression",
    "LabelledLoader",
    "LatentLoader",
    "OnDiskExpression",
    "ScorerStage",
    "Stage",
    "auto_precision",
    "expression_source",
    "fit_stage",
    "is_distributed",
    "row_blocks",
    "synchronise",
]
