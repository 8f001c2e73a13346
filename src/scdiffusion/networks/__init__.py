"""Networks: denoisers, conditions and their encoders, classifiers, scorer."""

from ._classifiers import CategoryClassifier, NoiseAwareClassifier, NumberRegressor
from ._condition_encoders import ConditionEncoder, EmbeddingConditions, NoConditions, condition_encoders
from ._conditions import AS_GIVEN, LEFT_TO_MODEL, Between, Conditions
from ._denoisers import ResidualMLP, denoisers
from ._fusion import fusions
from ._mean_expression import MeanExpressionConditions
from ._scorer import Scorer
from ._skip_mlp import SkipMLP
from ._unet import UNet1d

__all__ = [
    "AS_GIVEN",
    "LEFT_TO_MODEL",
    "Between",
    "CategoryClassifier",
    "ConditionEncoder",
    "Conditions",
    "EmbeddingConditions",
    "MeanExpressionConditions",
    "NoConditions",
    "NoiseAwareClassifier",
    "NumberRegressor",
    "ResidualMLP",
    "Scorer",
    "SkipMLP",
    "UNet1d",
    "condition_encoders",
    "denoisers",
    "fusions",
]
