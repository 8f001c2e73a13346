"""Networks: denoisers and condition encoders."""

from ._conditions import EmbeddingConditions, condition_encoders, drop_conditions
from ._denoisers import ResidualMLP, denoisers
from ._fusion import fusions
from ._mean_expression import AS_GIVEN, MeanExpressionConditions
from ._skip_mlp import SkipMLP
from ._unet import UNet1d

__all__ = [
    "AS_GIVEN",
    "EmbeddingConditions",
    "MeanExpressionConditions",
    "ResidualMLP",
    "SkipMLP",
    "UNet1d",
    "condition_encoders",
    "denoisers",
    "drop_conditions",
    "fusions",
]
