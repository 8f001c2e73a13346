"""The way from one state of cells to another."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from sklearn.neighbors import NearestNeighbors

from scdiffusion.model._messages import did_you_mean
from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._embedding import check_basis, components, draw_dots, embed, frame, sample
from scdiffusion.pl._utils import (
    BACKGROUND,
    add_legend,
    colors_of,
    dots,
    finish,
    make_axes,
    read_labels,
    read_pair,
)

N_NEIGHBORS = 15


@shared_docs
def interpolation(
    states: AnnData,
    adata: AnnData,
    key: str | None = None,
    *,
    pseudotime: str | None = None,
    basis: Literal["umap", "tsne", "pca"] = "umap",
    layer: str | None = None,
    n_cells: int = 5000,
    n_paths: int = 0,
    size: float | None = None,
    rng: int | np.random.Generator | None = 0,
    ax: Axes | Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Generated states between two real ones: their way through the real cells, and what they resemble in turn.

    The first panel shows an embedding of the real cells, made as in :func:`overlay`, with the generated cells projected
    into it, and a line through the median of each state. With ``key`` a panel before it shows the stages of the real
    cells, and one after it which of them are nearest to the cells of each state: a path through development should pass the stages in their order, one by one, where a mixture of both
    ends goes from the first to the last without those in between. With ``pseudotime`` a panel shows how far along the
    cells of each state are. On a tree the medians may lie between the branches, where no cell is.

    Parameters
    ----------
    states
        Generated cells, as :func:`scdiffusion.tl.interpolate` returns them: counts or log-normalised expression, and
        in ``obs["state"]`` the position along the path, 0 at the source.
    adata
        Real cells, likewise.
    key
        Categorical column of ``adata.obs`` with the stages, in order. Their colours are those of
        ``uns["<key>_colors"]``, else scanpy's. Composition: share of each stage among the 15 real cells that are
        nearest in principal components, mean over the cells of a state. Large stages have more of the nearest cells.
    pseudotime
        Numeric column of ``states.obs``. A box holds half of the cells of a state, the line in it is their median.
    basis
        ``"umap"``, ``"pca"`` or ``"tsne"``, as in :func:`overlay`.
    $layer
    n_cells
        Most real cells to embed and draw; of more, as many are drawn at random.
    n_paths
        Number of cells, drawn at random, whose own way is a thin line. It needs ``states.obs["start_cell"]``, the real
        cell that each generated one started from.
    size
        Area of a dot, in square points.
    rng
        Seed or generator of the samples and the embedding.
    ax
        As many Axes as panels: one, two more with ``key``, one more with ``pseudotime``.
    $shown

    Returns
    -------
    One Axes per panel $returned

    Raises
    ------
    ValueError
        If a column is missing or holds something else, the two sides share no gene, or the expression is neither counts
        nor log-normalised.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518, Figs. 5 and S6.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> states = adata[:60].copy()  # in place of generated cells
    >>> states.obs["state"] = np.repeat([0, 1, 2], 20)
    >>> axes = scd.pl.interpolation(states, adata, "phase", layer="counts", basis="pca", show=False)
    >>> [ax.get_title() for ax in axes]
    ['Real', 'States', 'Nearest real cells']
    >>> plt.close(axes[0].figure)
    """
    check_basis(basis)
    rng = np.random.default_rng(rng)
    adata = sample(adata, n_cells, rng)
    real, generated = read_pair(adata, states, layer, names=("adata", "states"))
    state = _numbers(states, "state")
    stages = None if key is None else read_labels({"adata": adata}, key)["adata"]
    times = None if pseudotime is None else _numbers(states, pseudotime)
    ways = _ways(states, state, n_paths, rng)
    panels = make_axes(ax, 1 + 2 * (key is not None) + (pseudotime is not None), (3.3, 3.2))
    pcs = components(real, generated, basis, rng)
    points = embed(*pcs, basis, rng)

    positions = np.unique(state)
    colors = dict(zip(positions, colormaps["viridis"](np.linspace(0, 1, len(positions))), strict=True))
    size = np.clip(8_000 / max(map(len, points)), 1.5, 20) if size is None else size
    in_turn = iter(panels)
    embedded = [next(in_turn)]
    if key is not None:
        stage_colors = colors_of(stages.categories, key, adata)
        real_colors = [stage_colors.get(stage, BACKGROUND) for stage in stages]
        draw_dots(embedded[0], points[0], real_colors, size, rng)
        embedded[0].set_title("Real")
        embedded.append(next(in_turn))
        _draw_stages(next(in_turn), _nearest_stages(*pcs, stages, state), stage_colors)
    _draw_states(embedded[-1], points, state, ways, colors, size, rng)
    frame(embedded, np.concatenate(points), basis)
    if pseudotime is not None:
        _draw_times(next(in_turn), times, state, colors, pseudotime)
    if key is not None:
        add_legend(panels, dots(stage_colors), own_figure=ax is None, title=key)
    return finish(panels, show, return_fig)


def _numbers(states: AnnData, column: str) -> np.ndarray:
    if column not in states.obs:
        hint = did_you_mean(column, states.obs.columns)
        raise ValueError(f"states.obs has no column {column!r}.{hint} Make states with scd.tl.interpolate.")
    values = pd.to_numeric(states.obs[column], errors="coerce").to_numpy(float)
    if np.isnan(values).any():
        raise ValueError(f"states.obs[{column!r}] must hold a number for every cell.")
    return values


def _ways(states: AnnData, state: np.ndarray, n_paths: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Rows of the cells that started from the same real cell, in the order of their states."""
    if not n_paths:
        return []
    if "start_cell" not in states.obs:
        raise ValueError("n_paths follows single cells, for which states.obs['start_cell'] is missing.")
    starts = states.obs["start_cell"].to_numpy()
    some = rng.permutation(pd.unique(starts))[:n_paths]
    rows = [np.flatnonzero(starts == start) for start in some]
    return [r[np.argsort(state[r])] for r in rows]


def _nearest_stages(real: np.ndarray, generated: np.ndarray, stages: pd.Categorical, state: np.ndarray) -> pd.DataFrame:
    """Share of each stage among the real cells nearest to the cells of each state, (n_states, n_stages)."""
    known = np.flatnonzero(stages.codes >= 0)
    index = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(known))).fit(real[known])
    neighbors = known[index.kneighbors(generated, return_distance=False)]  # (n_cells, n_neighbors)
    codes = pd.Series(stages.codes[neighbors].ravel(), name="stage")
    table = pd.crosstab(np.repeat(state, neighbors.shape[1]), codes, normalize="index")
    return table.reindex(columns=range(len(stages.categories)), fill_value=0).set_axis(stages.categories, axis=1)


def _draw_states(
    ax: Axes,
    points: tuple[np.ndarray, np.ndarray],
    state: np.ndarray,
    ways: list[np.ndarray],
    colors: dict[float, np.ndarray],
    size: float,
    rng: np.random.Generator,
) -> None:
    real, generated = points
    ax.scatter(*real.T, c=BACKGROUND, s=size, lw=0, rasterized=True)
    draw_dots(ax, generated, [colors[s] for s in state], size, rng)
    for way in ways:
        ax.plot(*generated[way].T, color="black", lw=0.5, alpha=0.6)
    medians = np.array([np.median(generated[state == s], axis=0) for s in colors])  # (n_states, 2)
    ax.plot(*medians.T, color="black", lw=1)
    ax.scatter(*medians.T, c=list(colors.values()), s=40, ec="black", zorder=3)
    for s, median in zip((min(colors), max(colors)), medians[[0, -1]], strict=True):
        style = {"textcoords": "offset points", "ha": "center", "va": "center", "fontsize": "small", "weight": "bold"}
        ax.annotate(f"{s:g}", median, (0, 10), path_effects=[withStroke(linewidth=2, foreground="white")], **style)
    ax.set_title("States")


def _draw_stages(ax: Axes, shares: pd.DataFrame, colors: dict[str, str]) -> None:
    bottom = np.zeros(len(shares))
    for stage, share in shares.items():
        ax.bar(range(len(shares)), share, 0.85, bottom=bottom, color=colors[stage])
        bottom += share
    _label_states(ax, shares.index)
    ax.set(title="Nearest real cells", ylabel="Share", ylim=(0, 1))


def _draw_times(
    ax: Axes, times: np.ndarray, state: np.ndarray, colors: dict[float, np.ndarray], pseudotime: str
) -> None:
    finite = np.isfinite(times)  # of cells that no path reaches, diffusion pseudotime is infinite
    boxes = ax.boxplot(
        [times[finite & (state == s)] for s in colors],
        positions=range(len(colors)),
        widths=0.7,
        showfliers=False,
        patch_artist=True,
        medianprops={"color": "black"},
    )
    for box, color in zip(boxes["boxes"], colors.values(), strict=True):
        box.set_facecolor(color)
    _label_states(ax, colors)
    ax.set(title="Pseudotime", ylabel=pseudotime)


def _label_states(ax: Axes, positions: Iterable[float]) -> None:
    labels = [f"{s:g}" for s in positions]
    ax.set_xticks(range(len(labels)), labels)
    ax.set(xlabel="State", xlim=(-0.6, len(labels) - 0.4))
