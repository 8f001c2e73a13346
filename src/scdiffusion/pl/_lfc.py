"""Whether differences between types survive generation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdiffusion.metrics import log_fold_changes
from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import GREY, REAL, finish, label_axes, make_axes, pick_groups, read_pair

MIN_CELLS = 3


@shared_docs
def lfc(
    real: AnnData,
    generated: AnnData,
    groupby: str,
    *,
    groups: str | Sequence[str] | None = None,
    layer: str | None = None,
    ax: Axes | Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Generated against real log2 fold changes of all genes, each type against all other cells; one panel per type.

    The number is the slope of the line through the points: below 1, generated types differ less than real ones. Noise
    in the real fold changes lowers it as well, for types of few cells the most. Fold changes depend on the mixture of
    all other cells, so generate cells with ``obs_conditions="observed"`` for this plot.

    Parameters
    ----------
    $sides
    groupby
        Categorical ``obs`` column.
    groups
        Categories to draw; by default all. Only those with three cells or more on both sides take part.
    $layer
    ax
        As many Axes as types.
    $shown

    Returns
    -------
    One Axes per type $returned

    Raises
    ------
    ValueError
        If a category is unknown, there are fewer than two, or the expression is neither counts nor log-normalised.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> axes = scd.pl.lfc(a, b, "phase", layer="counts", show=False)
    >>> [ax.get_title() for ax in axes]
    ['G1', 'G2M', 'S']
    >>> plt.close(axes[0].figure)
    """
    sides = read_pair(real, generated, layer, groupby)
    taking_part = pick_groups(*sides, groupby, min_cells=MIN_CELLS)
    drawn = taking_part if groups is None else pick_groups(*sides, groupby, groups, min_cells=MIN_CELLS)
    changes = []
    for side in sides:
        side = side[side.obs[groupby].isin(taking_part)]
        changes.append(log_fold_changes(side.X, side.obs[groupby].astype(str), groups=drawn))  # (n_groups, n_genes)

    panels = make_axes(ax, len(drawn), (2.5, 2.6), sharex=True, sharey=True)
    limit = 1.1 * max(np.abs(x).max() for x in changes)
    for panel, group, x, y in zip(panels, drawn, *changes, strict=True):
        slope, intercept = np.polyfit(x, y, 1)
        panel.axline((0, 0), slope=1, color=GREY, ls="--", lw=1)
        panel.scatter(x, y, s=6, lw=0, c=REAL, alpha=0.5, rasterized=True)
        panel.axline((0, intercept), slope=slope, color="black", lw=1)
        note = f"slope {slope:.2f}\n{(sides[0].obs[groupby] == group).sum()} real cells"
        panel.text(0.05, 0.95, note, transform=panel.transAxes, va="top", fontsize="small")
        panel.set(xlim=(-limit, limit), ylim=(-limit, limit), box_aspect=1)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panel.set_title(group, fontsize="small")
    label_axes(panels, "Real log2 fold change", "Generated log2 fold change", own_figure=ax is None)
    return finish(panels, show, return_fig)
