"""Marker genes of one type: real, generated, and all other cells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import (
    COMPACT,
    GENERATED,
    GREY,
    REAL,
    finish,
    make_axes,
    pick_genes,
    pick_groups,
    read_pair,
    values_of,
)

WIDTH = 0.26  # of a violin; three and a gap make 1


@shared_docs
def markers(
    real: AnnData,
    generated: AnnData,
    genes: str | Sequence[str],
    key: str,
    group: str,
    *,
    layer: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Expression of marker genes in real cells of a type, generated cells of it, and real cells of all other types.

    The first two violins of a gene should be alike, and differ from the third where the gene is a marker.

    Parameters
    ----------
    $sides
    genes
        One gene or several.
    key
        Categorical ``obs`` column.
    group
        Category of it.
    $layer
    ax
        Axes to draw on.
    $shown

    Returns
    -------
    The Axes $returned

    Raises
    ------
    ValueError
        If a gene or the category is unknown, or the expression is neither counts nor log-normalised.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518, Fig. 4.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> ax = scd.pl.markers(a, b, ["CD79A", "NKG7"], "bulk_labels", "CD19+ B", layer="counts", show=False)
    >>> [label.get_text() for label in ax.get_xticklabels()]
    ['CD79A', 'NKG7']
    >>> plt.close(ax.figure)
    """
    real_cells, generated_cells = read_pair(real, generated, layer, key)
    genes = pick_genes(real_cells, genes)
    (group,) = pick_groups(real_cells, generated_cells, key, group)
    others = real_cells.obs[key].notna() & (real_cells.obs[key] != group)
    if not others.any():
        raise ValueError(f"real has no cells but those of {group!r} to compare with.")
    sides = {
        "Real": (real_cells[real_cells.obs[key] == group], REAL),
        "Generated": (generated_cells[generated_cells.obs[key] == group], GENERATED),
        "Real, other types": (real_cells[others], GREY),
    }

    (ax,) = make_axes(ax, 1, (2.6 + 0.9 * len(genes), 3.2))
    positions = np.arange(len(genes))
    for shift, (cells, color) in zip((-WIDTH, 0, WIDTH), sides.values(), strict=True):
        values = [values_of(cells, gene) for gene in genes]
        violins = ax.violinplot(values, positions + shift, widths=WIDTH, showextrema=False)
        for body in violins["bodies"]:
            body.set(facecolor=color, edgecolor=color, alpha=0.75)
        # a median is often 0
        means = [v.mean() for v in values]
        ax.plot(positions + shift, means, "o", ms=4, mfc="white", mec="black", mew=0.8)
    ax.set(ylabel="Expression (log-normalised)", xlim=(-0.6, len(genes) - 0.4))
    ax.set_ylim(bottom=0)
    ax.set_xticks(positions, genes)
    if len(genes) > 5:
        ax.tick_params(axis="x", rotation=90)
    handles = [Patch(color=color, label=f"{name} ({cells.n_obs})") for name, (cells, color) in sides.items()]
    handles.append(Line2D([], [], color="white", marker="o", mec="black", ls="", label="mean"))
    ax.set_title(group)
    ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", **COMPACT)
    return finish(ax, show, return_fig)
