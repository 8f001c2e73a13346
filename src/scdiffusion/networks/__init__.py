"""Networks: denoisers and condition encoders."""

from ._conditions import EmbeddingConditions, condition_encoders, drop_conditions
from ._denoisers import ResidualMLP, denoisers

__all__ = ["EmbeddingConditions", "ResidualMLP", "condition_encoders", "denoisers", "drop_conditions"]
