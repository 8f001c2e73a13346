"""What the docstrings of several plots say in the same words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from string import Template

FRAGMENTS = {
    "sides": "real, generated\n    Counts or log-normalised expression.",
    "layer": "layer\n    Layer to take; of a side without it, ``X``.",
    "shown": (
        "show\n    Show the figure; by default as ``scanpy.settings.autoshow`` says.\n"
        "return_fig\n    Return the figure instead, without showing it."
    ),
    "returned": "if ``show=False``, the figure if ``return_fig``, else None.",
}


def shared_docs(plot: Callable) -> Callable:
    """Decorator that fills in the fragments, e.g. ``$layer``."""
    # without a docstring under python -OO
    plot.__doc__ = Template(inspect.cleandoc(plot.__doc__ or "")).substitute(FRAGMENTS)
    return plot
