"""Plots that put generated beside real cells, in scanpy's idiom."""

from ._confusion import confusion
from ._evaluation import evaluation
from ._history import history
from ._interpolation import interpolation
from ._lfc import lfc
from ._markers import markers
from ._mean_variance import mean_variance
from ._overlay import overlay
from ._qq import qq
from ._report import report

__all__ = [
    "confusion",
    "evaluation",
    "history",
    "interpolation",
    "lfc",
    "markers",
    "mean_variance",
    "overlay",
    "qq",
    "report",
]
