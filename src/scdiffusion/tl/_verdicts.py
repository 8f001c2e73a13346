"""What the figures of an evaluation amount to."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy import stats

from scdiffusion.tl._metric_table import CHANCE, METRICS

# deviations err on the safe side: real cells against real cells, about one row in a hundred is a false alarm
LEVEL = 0.975


def judge(table: pd.DataFrame, n_splits: int = 5) -> pd.DataFrame:
    """Give every row its verdict, by its figures; rows without figures keep theirs.

    The table may have been stored: the columns of :func:`scdiffusion.tl.evaluate` are all that counts.
    """
    table = table.copy()
    for side in ("generated", "floor"):
        table[f"{side}_sd"] = np.maximum(table[f"{side}_sd"], _least_deviation(table, side))
    floor = shortfall(table, "floor")
    gap, baseline_gap = (shortfall(table, side) - floor for side in ("generated", "baseline"))
    tolerated = tolerance(table, n_splits)
    verdicts = np.select(
        [gap <= tolerated, baseline_gap.isna(), gap < baseline_gap],
        ["within floor", "worse than floor", "between"],
        "worse than baseline",
    )
    table["verdict"] = (
        table["verdict"].astype(object).fillna("undefined").where(~np.isfinite(gap + tolerated), verdicts)
    )
    return table


def shortfall(table: pd.DataFrame, side: str) -> pd.Series:
    """How far a side's figures are from the goal; only differences between sides mean something."""
    figures, target = table[side], pd.to_numeric(table["better"], errors="coerce")
    tells_apart = table["metric"].isin([name for name, metric in METRICS.items() if metric.better == CHANCE])
    # below chance a classifier has not told the sides apart either
    figures = figures.where(~tells_apart, figures.clip(lower=CHANCE))
    sign = table["better"].map({"lower": 1.0, "higher": -1.0}).astype(float)
    return (sign * figures).where(target.isna(), (figures - target).abs())


def tolerance(table: pd.DataFrame, n_splits: int) -> pd.Series:
    """How much worse than the floor is still within it."""
    margin = float(stats.t.ppf(LEVEL, 2 * (n_splits - 1)))
    return margin * np.hypot(table["generated_sd"], table["floor_sd"])


def _least_deviation(table: pd.DataFrame, side: str) -> pd.Series:
    """Of a share of cells that of a binomial: a sample without a single error has errors all the same elsewhere."""
    is_share = table["metric"].isin([name for name, metric in METRICS.items() if metric.is_share])
    n = table["n_cells"].where(is_share)
    p = (n * table[side] + 1) / (n + 2)  # one more cell of either kind, so that p is never 0 or 1
    return np.sqrt(p * (1 - p) / n).fillna(0)
