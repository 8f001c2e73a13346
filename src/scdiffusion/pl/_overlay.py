"""Real and generated cells in one embedding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from scipy.ndimage import gaussian_filter

from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._embedding import check_basis, components, draw_dots, embed, frame, sample
from scdiffusion.pl._utils import (
    BACKGROUND,
    COMPACT,
    GENERATED,
    REAL,
    add_legend,
    colors_of,
    dots,
    finish,
    make_axes,
    pick_groups,
    read_pair,
)

SIDES = {"Real": REAL, "Generated": GENERATED}
MAX_LEGEND_ROWS = 16

MANY_CELLS = 2_000  # from here on overlaid dots hide each other
MASSES = (0.9, 0.7, 0.5, 0.3, 0.1)
N_BINS, BANDWIDTH = 128, 0.02  # of the density, the second as a share of the width


@shared_docs
def overlay(
    real: AnnData,
    generated: AnnData,
    *,
    basis: Literal["umap", "tsne", "pca"] = "umap",
    color: str | None = None,
    groups: str | Sequence[str] | None = None,
    layer: str | None = None,
    n_cells: int = 5000,
    contours: bool | None = None,
    size: float | None = None,
    rng: int | np.random.Generator | None = 0,
    ax: Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Real cells, generated cells, and both on top of each other, in one embedding.

    The embedding is fitted on the real cells, and generated cells are projected into it: log-normalised expression,
    principal components, then UMAP. An embedding that ``real`` may hold already is not used, as no new cell can be
    placed in it. A UMAP puts every cell near real ones, whatever it is like, and a few between the clusters, real ones of
    another sample too: it shows which kinds of cells are missing, not whether those that are there are good. For that
    see :func:`scdiffusion.tl.evaluate`. The first UMAP of a session takes longer, as umap-learn compiles its code.

    Parameters
    ----------
    $sides
    basis
        ``"umap"``; ``"pca"``, the first two components of the real cells; or ``"tsne"``, which knows no projection
        and is therefore fitted on real and generated cells together.
    color
        Categorical ``obs`` column to colour the first two panels by. Its colours are those of
        ``uns["<color>_colors"]``, else scanpy's.
    groups
        Categories to colour; cells of all others are grey.
    $layer
    n_cells
        Most cells of either side to embed and draw; of more, as many are drawn at random.
    contours
        Whether the third panel has contours, which hold 10, 30, 50, 70 and 90 % of the cells, in place of dots. By
        default where either side has more than 2,000 cells.
    size
        Area of a dot, in square points.
    rng
        Seed or generator of the sample and the embedding.
    ax
        Three Axes to draw on.
    $shown

    Returns
    -------
    Three Axes $returned

    Raises
    ------
    ValueError
        If the two sides share no gene, hold neither counts nor log-normalised expression, or lack ``color``.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518, Figs. 2 and 3; Wang et al. (2023), SCLD, Fig. 5.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> axes = scd.pl.overlay(a, b, layer="counts", basis="pca", color="bulk_labels", show=False)
    >>> [ax.get_title() for ax in axes]
    ['Real', 'Generated', '']
    >>> plt.close(axes[0].figure)
    """
    check_basis(basis)
    if groups is not None and color is None:
        raise ValueError("groups are categories of a column: name it too, color=...")
    rng = np.random.default_rng(rng)
    cells = read_pair(sample(real, n_cells, rng), sample(generated, n_cells, rng), layer, color)
    points = embed(*components(*cells, basis, rng), basis, rng)
    n_most = max(map(len, points))
    size = np.clip(8_000 / n_most, 1.5, 20) if size is None else size

    chosen = [np.ones(len(xy), dtype=bool) for xy in points]
    dot_colors = [np.full(len(xy), c) for xy, c in zip(points, SIDES.values(), strict=True)]
    legend = {}
    if color is not None:
        drawn = pick_groups(*cells, color, groups, min_cells=0)
        colors = colors_of(cells[0].obs[color].cat.categories, color, real, generated)
        legend = {group: colors[group] for group in drawn}
        chosen = [side.obs[color].isin(drawn).to_numpy() for side in cells]
        dot_colors = [side.obs[color].astype(object).map(legend).fillna(BACKGROUND).to_numpy() for side in cells]

    panels = make_axes(ax, 3, (3.2, 3.2))
    for panel, title, xy, c, top in zip(panels, SIDES, points, dot_colors, chosen, strict=False):
        draw_dots(panel, xy, c, size, rng, on_top=top)
        panel.set_title(title)
    if contours is None:
        contours = n_most > MANY_CELLS
    _draw_both(panels[2], points, chosen, contours, size, rng)
    frame(panels, np.concatenate(points), basis)
    if legend:
        columns = 1 + (len(legend) - 1) // MAX_LEGEND_ROWS
        add_legend(panels, dots(legend), own_figure=ax is None, title=color, ncols=columns)
    return finish(panels, show, return_fig)


def _draw_both(
    ax: Axes,
    points: Sequence[np.ndarray],
    chosen: Sequence[np.ndarray],
    contours: bool,
    size: float,
    rng: np.random.Generator,
) -> None:
    xy, top = np.concatenate(points), np.concatenate(chosen)
    if contours:
        ax.scatter(*xy[~top].T, c=BACKGROUND, s=size, lw=0, rasterized=True)
        _draw_contours(ax, points[0][chosen[0]], xy, REAL, filled=True)
        _draw_contours(ax, points[1][chosen[1]], xy, GENERATED, filled=False)
        handles = [Patch(color=REAL, label="Real"), Line2D([], [], color=GENERATED, label="Generated")]
    else:
        side = np.repeat(list(SIDES.values()), [len(side) for side in points])
        draw_dots(ax, xy, np.where(top, side, BACKGROUND), size, rng, on_top=top)
        handles = dots(SIDES)
    # in the place of a title, where it covers no cell
    ax.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, **COMPACT)


def _draw_contours(ax: Axes, xy: np.ndarray, extent: np.ndarray, color: str, *, filled: bool) -> None:
    if not len(xy):
        return
    low, high = extent.min(axis=0), extent.max(axis=0)
    margin = 0.1 * (high - low)
    edges = np.linspace(low - margin, high + margin, N_BINS + 1)  # (n_edges, 2)
    density, _, _ = np.histogram2d(*xy.T, bins=edges.T)
    density = gaussian_filter(density, BANDWIDTH * N_BINS)
    x, y = ((edges[1:] + edges[:-1]) / 2).T
    # the highest level above which lies each share of the cells
    descending = np.sort(density, axis=None)[::-1]
    held = descending.cumsum() / descending.sum()
    levels = np.unique(descending[np.searchsorted(held, MASSES)])
    if filled:
        shades = LinearSegmentedColormap.from_list("", ["white", color])(np.linspace(0.25, 0.85, len(levels)))
        ax.contourf(x, y, density.T, levels=[*levels, density.max() * 1.01], colors=shades)
    else:
        ax.contour(x, y, density.T, levels=levels, colors=color, linewidths=1)
