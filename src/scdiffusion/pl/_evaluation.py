"""The score card: how far generated cells are from real ones, in every metric at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdiffusion.model._checks import did_you_mean, name_some
from scdiffusion.pl._utils import BACKGROUND, COMPACT, GREY, MODELS, finish, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

NEEDED = ("metric", "group", "space", "generated", "floor", "baseline", "verdict")
# colour and shape, so that verdicts are read in print and where models have the colours
VERDICTS = {"within floor": ("#009E73", "o"), "between": ("#E69F00", "D"), "worse than baseline": ("#D55E00", "X")}
NOT_NEEDED = ...
LEFT, RIGHT = -0.6, 1.6
