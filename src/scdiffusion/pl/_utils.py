"""What the plots share: expression in one space, groups and their colours, axes to draw on, and how a plot ends."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scanpy import settings
from scanpy.pl import palettes
from scipy import sparse

from scdiffusion._compat import named_layers
from scdiffusion.metrics import log_normalise
from scdiffusion.metrics._checks import MAX_NUMERIC_CATEGORIES, as_matrix, category_name
from scdiffusion.model._messages import did_you_mean, name_some

# Colours of Okabe and Ito, which colour-blind readers tell apart; the first two differ in lightness as well.
REAL, GENERATED = "#0072B2", "#E69F00"
MODELS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY, BACKGROUND = "#999999", "#D9D9D9"

COMPACT = {"frameon": False, "handletextpad": 0.5, "columnspacing": 1.2, "borderpad": 0.2}  # of legends

LARGEST_LOGARITHM = 20  # log2(1 + 1e6): no log-normalised value exceeds it


def read_pair(
    real: AnnData,
    generated: AnnData,
    layer: str | None = None,
    key: str | None = None,
    *,
    counts: bool = False,
    names: tuple[str, str] = ("real", "generated"),
) -> tuple[AnnData, AnnData]:
    """Return both sides as new objects with the genes they share, ``X`` in one space and, of ``obs``, the key.

    ``X`` is log-normalised, or raw with ``counts``. The key is categorical with the same categories on both sides.
    Messages call the sides by their ``names``.
    """
    sides = dict(zip(names, (real, generated), strict=True))
    for name, adata in sides.items():
        if not isinstance(adata, AnnData):
            raise TypeError(f"{name} must be an AnnData, not {type(adata).__name__}.")
        if not adata.var_names.is_unique:
            raise ValueError(f"{name}.var_names are not unique. Call {name}.var_names_make_unique() first.")
    layers = dict.fromkeys(name for adata in sides.values() for name in named_layers(adata))
    if layer is not None and layer not in layers:
        raise ValueError(f"Neither side has a layer {layer!r}.{did_you_mean(layer, layers)}")
    genes = _shared_genes(sides)
    obs = {name: pd.DataFrame(index=pd.RangeIndex(adata.n_obs).astype(str)) for name, adata in sides.items()}
    for name, labels in ({} if key is None else read_labels(sides, key)).items():
        obs[name][key] = labels
    var = pd.DataFrame(index=genes)
    return tuple(
        AnnData(_expression(adata[:, genes], name, layer, counts), obs=obs[name], var=var)
        for name, adata in sides.items()
    )


def read_labels(sides: Mapping[str, AnnData], key: str) -> dict[str, pd.Categorical]:
    """Return the key's values of each side, with the same categories on all sides."""
    labels = {}
    for name, adata in sides.items():
        if key not in adata.obs:
            raise ValueError(f"{name}.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
        column = adata.obs[key]
        if pd.api.types.is_numeric_dtype(column) and column.nunique() > MAX_NUMERIC_CATEGORIES:
            raise ValueError(f"{name}.obs[{key!r}] holds numbers, not categories. Bin it first, with pd.cut.")
        labels[name] = column.astype("category").cat.remove_unused_categories().cat.rename_categories(category_name)
    categories = dict.fromkeys(c for column in labels.values() for c in column.cat.categories)
    # in the order of the real data, also where a category was not generated
    return {name: column.cat.set_categories(list(categories)).array for name, column in labels.items()}


def pick_groups(
    real: AnnData, generated: AnnData, key: str, groups: str | Sequence[str] | None = None, *, min_cells: int = 1
) -> list[str]:
    """Return the groups to draw: those asked for, or all that have enough cells on both sides."""
    sizes = {name: adata.obs[key].value_counts() for name, adata in (("real", real), ("generated", generated))}
    categories = list(real.obs[key].cat.categories)
    lacking = {c: side for c in categories for side, size in sizes.items() if size[c] < min_cells}
    if groups is None:
        if lacking:
            warnings.warn(
                f"Left out, for want of {min_cells} cell(s) on both sides: {name_some(lacking)}.", stacklevel=3
            )
        groups = [c for c in categories if c not in lacking]
        if not groups:
            raise ValueError(f"No category of {key!r} has {min_cells} cell(s) on both sides.")
        return groups
    groups = [groups] if isinstance(groups, str) else [str(group) for group in groups]
    for group in groups:
        if group not in categories:
            raise ValueError(f"{key!r} has no category {group!r}.{did_you_mean(group, categories)}")
        if group in lacking:
            raise ValueError(f"{group!r} has fewer than {min_cells} cell(s) in {lacking[group]}.")
    return groups


def pick_genes(adata: AnnData, genes: str | Sequence[str]) -> list[str]:
    """Return the genes as a list, if both sides have them all."""
    genes = [genes] if isinstance(genes, str) else list(genes)
    if not genes:
        raise ValueError("genes is empty: name at least one.")
    for gene in genes:
        if gene not in adata.var_names:
            raise ValueError(f"Gene {gene!r} is not in real and generated.{did_you_mean(gene, adata.var_names)}")
    return genes


def values_of(adata: AnnData, gene: str) -> np.ndarray:
    """Return one gene's values, (n_cells,)."""
    column = adata.X[:, [adata.var_names.get_loc(gene)]]
    return (column.toarray() if sparse.issparse(column) else column).ravel()


def colors_of(categories: Sequence[str], key: str, *sources: AnnData) -> dict[str, str]:
    """Return a colour per category, from ``uns["<key>_colors"]`` of the first source that has it, else scanpy's."""
    cycle = rcParams["axes.prop_cycle"].by_key()["color"]
    in_turn = (cycle, palettes.default_20, palettes.default_28, palettes.default_102, [GREY] * len(categories))
    default = next(palette for palette in in_turn if len(palette) >= len(categories))
    colors = dict(zip(categories, default, strict=False))
    for adata in reversed(sources):
        own = adata.obs[key].astype("category").cat.categories.map(category_name)
        stored = adata.uns.get(f"{key}_colors", ())
        if len(stored) >= len(own):
            colors |= {c: color for c, color in zip(own, stored, strict=False) if c in colors}
    return colors


def make_axes(
    ax: Axes | Iterable[Axes] | None, n_panels: int, size: tuple[float, float], *, n_columns: int = 4, **kwargs: Any
) -> list[Axes]:
    """Return the given axes if they are as many as the panels, else those of a new figure with panels of ``size``."""
    if ax is not None:
        given = list(np.ravel(np.array(ax, dtype=object)))
        if len(given) != n_panels:
            raise ValueError(f"This plot has {n_panels} panel(s), but ax holds {len(given)} Axes.")
        return given
    n_rows = -(-n_panels // n_columns)
    n_columns = -(-n_panels // n_rows)
    kwargs = {"figsize": (size[0] * n_columns, size[1] * n_rows), "layout": "constrained", "squeeze": False} | kwargs
    _, grid = plt.subplots(n_rows, n_columns, **kwargs)
    for unused in grid.flat[n_panels:]:
        unused.remove()
    panels = list(grid.flat[:n_panels])
    for panel in panels[-n_columns:]:
        panel.tick_params(labelbottom=True)  # of shared axes only the last row has labels, even where it has a gap
    return panels


def label_axes(axes: Sequence[Axes], x: str, y: str, *, own_figure: bool) -> None:
    """Label the axes: once for a figure of several panels, one by one where the figure is somebody else's."""
    if own_figure and len(axes) > 1:
        axes[0].figure.supxlabel(x, fontsize="medium")
        axes[0].figure.supylabel(y, fontsize="medium")
    else:
        for ax in axes:
            ax.set(xlabel=x, ylabel=y)


def add_legend(axes: Sequence[Axes], handles: Sequence[Any], *, own_figure: bool, **kwargs: Any) -> None:
    """Put a legend at the right: of the last axes, or of our own figure, which grows by as much."""
    kwargs = {"handles": handles, "fontsize": "small", "alignment": "left"} | COMPACT | kwargs
    if own_figure:
        figure = axes[0].figure
        legend = figure.legend(loc="outside right center", **kwargs)
        figure.set_figwidth(figure.get_figwidth() + legend.get_window_extent().width / figure.dpi)
    else:
        last = axes[-1]
        earlier = last.get_legend()
        last.legend(loc="center left", bbox_to_anchor=(1, 0.5), **kwargs)
        if earlier is not None:
            last.add_artist(earlier)  # Axes hold one legend; another one takes its place


def dots(colors: Mapping[str, str]) -> list[Any]:
    """Legend entries of colours."""
    return [Line2D([], [], color=color, marker="o", ls="", label=label) for label, color in colors.items()]


def finish(axes: Axes | list[Axes], show: bool | None, return_fig: bool) -> Axes | list[Axes] | Figure | None:
    """Return what scanpy's plots return: the figure if asked for, nothing when shown, else the axes."""
    if return_fig:
        return (axes[0] if isinstance(axes, list) else axes).figure
    if settings.autoshow if show is None else show:
        plt.show()
        return None
    return axes


def _shared_genes(sides: Mapping[str, AnnData]) -> pd.Index:
    (a, real), (b, generated) = sides.items()
    genes = real.var_names[real.var_names.isin(generated.var_names)]
    if not len(genes):
        raise ValueError(
            f"{a} and {b} share no gene: {name_some(real.var_names[:3])} against {name_some(generated.var_names[:3])}."
        )
    if len(genes) < max(real.n_vars, generated.n_vars):
        warnings.warn(
            f"Drawn from the {len(genes)} genes that {a} ({real.n_vars}) and {b} ({generated.n_vars}) share.",
            stacklevel=4,
        )
    return genes


def _expression(adata: AnnData, name: str, layer: str | None, counts: bool) -> np.ndarray | sparse.csr_matrix:
    adata = adata.to_memory() if adata.isbacked else adata
    layers = named_layers(adata)
    where, X = (f"{name}.layers[{layer!r}]", layers[layer]) if layer in layers else (f"{name}.X", adata.X)
    X = as_matrix(X, where, min_cells=1, allow_sparse=True)
    problem = _problem(X, counts)
    if problem:
        others = [other for other, X in layers.items() if other != layer and _is_integer(X)]
        hint = f" Pass layer={others[0]!r}." if others else ""
        raise ValueError(f"{where} holds {problem}.{hint}")
    return log_normalise(X) if not counts and _is_integer(X) else X


def _problem(X: np.ndarray | sparse.csr_matrix, counts: bool) -> str | None:
    low, high = X.min(), X.max()
    if low < 0:
        return f"negative values (e.g. {low:.3g}), so it is neither counts nor log-normalised"
    if _is_integer(X):
        return None
    if counts:
        return "non-integers, and this plot is of counts"
    if high > LARGEST_LOGARITHM:
        return f"non-integers up to {high:.4g}, so it is neither counts nor log-normalised"
    return None


def _is_integer(X: Any) -> bool:
    values = X.data if sparse.issparse(X) else np.asarray(X)
    return bool((values == np.floor(values)).all())
