"""Networks: denoisers, conditions and their encoders, classifiers."""

from ._classifiers import CategoryClassifier, NoiseAwareClassifier, NumberRegressor
from ._conditions import Conditions, EmbeddingConditions, condition_encoders
from ._denoisers import ResidualMLP, denoisers

__all__ = [
    "CategoryClassifier",
    "Conditions",
    "EmbeddingConditions",
    "NoiseAwareClassifier",
    "NumberRegressor",
    "ResidualMLP",
    "condition_encoders",
    "denoisers",
]
