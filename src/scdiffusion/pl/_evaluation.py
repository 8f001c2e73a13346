"""The score card: how far generated cells are from real ones, in every metric at once."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import BACKGROUND, COMPACT, GREY, MODELS, finish, make_axes
from scdiffusion.tl._verdicts import shortfall

FIGURES = ["generated", "generated_sd", "floor", "floor_sd", "baseline"]
NEEDED = ["metric", "group", *FIGURES, "better", "verdict"]
# by shape as well, for readers who see no colours, and where colours are those of models
VERDICTS = {"within floor": ("#009E73", "o"), "between": ("#E69F00", "D"), "worse than baseline": ("#D55E00", "X")}
LEFT, RIGHT = -0.75, 1.75
ROW, COLUMN = 0.24, 58  # height in inches, width in points


@shared_docs
def evaluation(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    group: str = "all",
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Score card of one model or several: each metric on a scale from the floor, 0, to the baseline, 1.

    The floor is what real cells score against real cells: nothing can be better, other than by chance. The baseline
    draws every gene on its own. Where there is a value to hit, the scale is of distances from it. Bars are standard deviations, of the generated figure and, in grey, of the floor; a
    grey bar that reaches the baseline means that so few cells cannot tell the two apart. What lies beyond the frame is
    drawn at its edge, with its value.

    Parameters
    ----------
    tables
        Table of :func:`scdiffusion.tl.evaluate`, or a table per name of a model. Modalities are drawn as models are.
    group
        Group of cells whose rows are drawn.
    ax
        Axes to draw on.
    $shown

    Returns
    -------
    The Axes $returned

    Raises
    ------
    ValueError
        If a table lacks a column, the group or the baseline.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import pandas as pd
    >>> import scdiffusion as scd
    >>> row = {"metric": "knn_auc", "group": "all", "better": 0.5, "verdict": "between"}
    >>> row |= {"generated": 0.6, "generated_sd": 0.03, "floor": 0.5, "floor_sd": 0.02, "baseline": 0.9}
    >>> ax = scd.pl.evaluation(pd.DataFrame([row]), show=False)
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['knn auc']
    >>> plt.close(ax.figure)
    """
    if isinstance(tables, pd.DataFrame) and "modality" in tables:
        tables = dict(list(tables.groupby("modality", sort=False)))
    single = isinstance(tables, pd.DataFrame)
    cards = {name: _card(table, group) for name, table in ({"": tables} if single else tables).items()}
    if not cards:
        raise ValueError("tables is empty: give at least one table of scd.tl.evaluate.")
    metrics = list(dict.fromkeys(metric for card in cards.values() for metric in card.index))
    colors = dict(zip(cards, MODELS * len(cards), strict=False))

    (ax,) = make_axes(ax, 1, (7.2 if single else 5.2, 1.3 + ROW * len(metrics) * (1 + len(cards)) / 2))
    _draw_scale(ax, metrics, group)
    for metric in {metric for card in cards.values() for metric in card.index[card["x"].isna()]}:
        style = {"color": GREY, "ha": "center", "va": "center", "fontsize": "x-small", "backgroundcolor": "white"}
        ax.text(0.5, metrics.index(metric), "baseline no worse than floor", **style)
    offsets = np.linspace(-0.5, 0.5, len(cards) + 2)[1:-1]  # of the models within a row
    for offset, (name, card) in zip(offsets, cards.items(), strict=True):
        for metric, row in card.dropna(subset="x").iterrows():
            color = None if single else colors[name]
            _draw_figure(ax, row, metrics.index(metric) + offset, color, thickness=0.7 / len(cards))
    if single:
        _write_figures(ax, cards[""])
    # a constant distance below the tick labels, whatever the height
    handles = _handles(None if single else colors)
    ax.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=4.5, ncols=2, fontsize="small", **COMPACT
    )  # fmt: skip
    return finish(ax, show, return_fig)


def check_table(table: pd.DataFrame) -> None:
    """Raise unless the table is one of :func:`scdiffusion.tl.evaluate`."""
    missing = [column for column in NEEDED if column not in table]
    if missing:
        raise ValueError(
            f"The table has no column {name_some(missing)}. Make it with scd.tl.evaluate(real, generated)."
        )


def _card(table: pd.DataFrame, group: str) -> pd.DataFrame:
    """Rows of the group by metric, with the figures rescaled so that the floor is 0 and the baseline is 1."""
    check_table(table)
    if group not in set(table["group"]):
        raise ValueError(f"The table has no group {group!r}.{did_you_mean(group, table['group'].unique())}")
    card = table[table["group"] == group].set_index("metric", drop=False)
    if card["baseline"].isna().all() and card["generated"].notna().any():
        raise ValueError("The table has no baseline, which sets the scale. Use scd.tl.evaluate(..., baseline=True).")
    card = card[card[["generated", "floor", "baseline"]].notna().all(axis=1)]
    if card.empty:
        verdicts = table.loc[table["group"] == group, "verdict"]
        raise ValueError(f"There are no figures of {group!r} to draw: {name_some(verdicts.unique())}.")
    gaps = {side: shortfall(card, side) - shortfall(card, "floor") for side in ("generated", "baseline")}
    unit = gaps["baseline"].where(gaps["baseline"] > 0)
    scaled = {"x": gaps["generated"] / unit, "x_sd": card["generated_sd"] / unit, "floor_sd": card["floor_sd"] / unit}
    return card.assign(**scaled)


def _draw_scale(ax: Axes, metrics: list[str], group: str) -> None:
    for x in (0, 1):
        ax.axvline(x, color=GREY, lw=1, zorder=0.5)
    ax.set(xlim=(LEFT, RIGHT), ylim=(len(metrics) - 0.5, -0.5), title="" if group == "all" else group)
    ax.set_xticks([0, 1], ["Floor\n(real cells)", "Baseline\n(independent genes)"], fontsize="small")
    ax.set_yticks(range(len(metrics)), [metric.replace("_", " ") for metric in metrics])
    ax.tick_params(axis="y", length=0)
    for y in range(1, len(metrics)):
        ax.axhline(y - 0.5, color=BACKGROUND, lw=0.5, zorder=0.5)


def _draw_figure(ax: Axes, row: pd.Series, y: float, color: str | None, thickness: float) -> None:
    own_color, marker = VERDICTS.get(row["verdict"], (GREY, "o"))
    color = color or own_color
    ax.barh(y, 2 * row["floor_sd"], thickness, left=-row["floor_sd"], color=BACKGROUND, lw=0, zorder=0.4)
    x = row["x"]
    if LEFT <= x <= RIGHT:
        ax.errorbar(x, y, xerr=row["x_sd"], fmt=marker, color=color, ms=6, elinewidth=1)
        return
    edge, inwards, note, align = (RIGHT, -1, f"{x:.1f} →", "right") if x > 0 else (LEFT, 1, f"← {x:.1f}", "left")
    ax.plot(edge + 0.06 * inwards, y, marker, color=color, ms=6)
    ax.text(edge + 0.13 * inwards, y, note, color=color, ha=align, va="center", fontsize="x-small")


def _write_figures(ax: Axes, card: pd.DataFrame) -> None:
    """The numbers themselves, in columns at the right."""
    for column, name in enumerate(("generated", "floor", "baseline"), start=1):
        style = {"textcoords": "offset points", "ha": "right", "fontsize": "small", "annotation_clip": False}
        ax.annotate(name.capitalize(), (1, 1), (COLUMN * column, 6), xycoords="axes fraction", va="bottom", **style)
        for y, value in enumerate(card[name]):
            xycoords = ax.get_yaxis_transform()
            ax.annotate(f"{value:.3g}", (1, y), (COLUMN * column, 0), xycoords=xycoords, va="center", **style)


def _handles(models: Mapping[str, str] | None) -> list[Line2D | Patch]:
    shapes = [
        Line2D([], [], color=color if models is None else "black", marker=marker, ls="", label=verdict)
        for verdict, (color, marker) in VERDICTS.items()
    ]
    colors = [Patch(color=color, label=name) for name, color in (models or {}).items()]
    return [*colors, *shapes, Patch(color=BACKGROUND, label="floor, 1 sd")]
