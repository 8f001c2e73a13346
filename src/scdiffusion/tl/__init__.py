"""Tools on AnnData, in scanpy's idiom."""

from ._augment import augment
from ._counterfactual import Change, Counterfactual, counterfactual
from ._evaluate import evaluate
from ._interpolation import FeatureInterpolation, Interpolation, Leg, interpolate
from ._latent import latent
from ._pseudotime import pseudotime

__all__ = [
    "Change",
    "Counterfactual",
    "FeatureInterpolation",
    "Interpolation",
    "Leg",
    "augment",
    "counterfactual",
    "evaluate",
    "interpolate",
    "latent",
    "pseudotime",
]
