"""Whether genes are distributed alike, value by value."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import (
    GREY,
    REAL,
    add_legend,
    colors_of,
    dots,
    finish,
    label_axes,
    make_axes,
    pick_genes,
    pick_groups,
    read_pair,
    values_of,
)


@shared_docs
def qq(
    real: AnnData,
    generated: AnnData,
    genes: str | Sequence[str],
    groupby: str | None = None,
    *,
    groups: str | Sequence[str] | None = None,
    layer: str | None = None,
    n_quantiles: int = 100,
    ax: Axes | Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Quantiles of generated against those of real expression, one panel per gene.

    Points on the diagonal: the gene has the same distribution on both sides. Below it generated cells express less;
    points along the lower or the left edge mean too few or too many cells that express the gene at all.

    Parameters
    ----------
    $sides
    genes
        One gene or several.
    groupby
        Categorical ``obs`` column: one set of points per category, in the colours of ``uns["<groupby>_colors"]``.
    groups
        Categories to draw; by default all that have cells on both sides.
    $layer
    n_quantiles
        Most points per gene and category; no more than cells.
    ax
        As many Axes as genes.
    $shown

    Returns
    -------
    One Axes per gene $returned

    Raises
    ------
    ValueError
        If a gene or category is unknown, or the expression is neither counts nor log-normalised.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518, Fig. S4.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> axes = scd.pl.qq(a, b, ["CD79A", "NKG7"], layer="counts", show=False)
    >>> [ax.get_title() for ax in axes]
    ['CD79A', 'NKG7']
    >>> plt.close(axes[0].figure)
    """
    if groups is not None and groupby is None:
        raise ValueError("groups are categories of a column: name it too, groupby=...")
    sides = read_pair(real, generated, layer, groupby)
    genes = pick_genes(sides[0], genes)
    if groupby is None:
        colors = {None: REAL}
        members = {None: [np.ones(side.n_obs, dtype=bool) for side in sides]}
    else:
        drawn = pick_groups(*sides, groupby, groups)
        colors = colors_of(sides[0].obs[groupby].cat.categories, groupby, real, generated)
        members = {group: [(side.obs[groupby] == group).to_numpy() for side in sides] for group in drawn}

    panels = make_axes(ax, len(genes), (2.4, 2.4))
    for panel, gene in zip(panels, genes, strict=True):
        values = [values_of(side, gene) for side in sides]
        panel.axline((0, 0), slope=1, color=GREY, ls="--", lw=1)
        for group, rows in members.items():
            x, y = _quantiles([v[r] for v, r in zip(values, rows, strict=True)], n_quantiles)
            panel.plot(x, y, "o", color=colors[group], ms=3, mew=0, alpha=0.8, label=group)
        highest = max(1.0, *(v.max() for v in values))
        panel.set(xlim=(-0.04 * highest, 1.04 * highest), ylim=(-0.04 * highest, 1.04 * highest), box_aspect=1)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=4, integer=True))
        panel.set_title(gene, fontsize="medium")
    label_axes(panels, "Real expression", "Generated expression", own_figure=ax is None)
    if groupby is not None:
        add_legend(panels, dots({group: colors[group] for group in members}), own_figure=ax is None, title=groupby)
    return finish(panels, show, return_fig)


def _quantiles(values: Sequence[np.ndarray], n_most: int) -> list[np.ndarray]:
    n = min(n_most, *map(len, values))
    return [np.quantile(v, (np.arange(n) + 0.5) / n) for v in values]
