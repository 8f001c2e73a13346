"""Networks: denoisers, conditions and their encoders, classifiers."""

from ._classifiers import CategoryClassifier, NoiseAwareClassifier, NumberRegressor
from ._conditions import Between, Conditions, EmbeddingConditions, condition_encoders
from ._denoisers import ResidualMLP, denoisers

__all__ = [
    "Between",
    "CategoryClassifier",
    "Conditions",
    "EmbeddingConditions",
    "NoiseAwareClassifier",
    "NumberRegressor",
    "ResidualMLP",
    "condition_encoders",
    "denoisers",
]
