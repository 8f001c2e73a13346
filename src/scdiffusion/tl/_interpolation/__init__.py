"""Interpolation between states of cells: one file per method, all in a registry."""

from . import _condition, _expression, _gradient, _latent, _refined
from ._base import FeatureInterpolation, Interpolation, Leg, interpolations
from ._interpolate import interpolate

__all__ = ["FeatureInterpolation", "Interpolation", "Leg", "interpolate", "interpolations"]
