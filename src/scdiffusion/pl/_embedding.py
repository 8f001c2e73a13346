"""A picture of the real cells, and the place of generated ones in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes

from scdiffusion.metrics import joint_pca, reference_pca
from scdiffusion.metrics._checks import to_seed
from scdiffusion.model._messages import did_you_mean

AXES = {"umap": "UMAP", "tsne": "t-SNE ", "pca": "PC"}
N_COMPONENTS = 15


def check_basis(basis: str) -> None:
    """Raise unless there is such an embedding."""
    if basis not in AXES:
        raise ValueError(f"Unknown basis {basis!r}.{did_you_mean(basis, AXES)}")


def sample(adata: AnnData, n_cells: int, rng: np.random.Generator) -> AnnData:
    """Return at most ``n_cells`` of the cells, in their order."""
    if not isinstance(adata, AnnData) or adata.n_obs <= n_cells:
        return adata
    return adata[np.sort(rng.choice(adata.n_obs, n_cells, replace=False))]


def components(
    real: AnnData, generated: AnnData, basis: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Principal components to embed, each (n_cells, n_components): of the real cells, or of both for a t-SNE."""
    n_components = min(N_COMPONENTS, *(n - 1 for n in real.shape))
    if n_components < 2:
        raise ValueError(f"An embedding needs 3 real cells and 3 shared genes, but these are {real.shape}.")
    fit = joint_pca if basis == "tsne" else reference_pca
    return fit(real.X, generated.X, n_components=n_components, rng=rng)


def embed(
    real: np.ndarray, generated: np.ndarray, basis: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of real and generated cells, each (n_cells, 2), from their components."""
    if basis == "pca":
        return real[:, :2], generated[:, :2]
    seed = to_seed(rng)
    if basis == "tsne":
        from sklearn.manifold import TSNE

        both = np.concatenate([real, generated])
        both = TSNE(perplexity=min(30, (len(both) - 1) / 3), init="pca", random_state=seed).fit_transform(both)
        return both[: len(real)], both[len(real) :]
    from umap import UMAP

    # scanpy's min_dist; with a seed umap-learn runs on one core, and warns unless told so
    umap = UMAP(n_neighbors=min(15, len(real) - 1), min_dist=0.5, random_state=seed, n_jobs=1).fit(real)
    # Its 100 epochs would push new cells to the rims of the clusters: held-out PBMCs, which should not stand out, are
    # then told from fitted ones with an AUC of 0.78, but of 0.58 after five epochs, a third of what is set here.
    umap.n_epochs = 15
    return umap.embedding_, umap.transform(generated)


def draw_dots(
    ax: Axes,
    xy: np.ndarray,
    colors: Sequence,
    size: float,
    rng: np.random.Generator,
    *,
    on_top: np.ndarray | bool = False,
) -> None:
    """Draw cells in random order, so that no kind hides another; those ``on_top`` last."""
    order = np.lexsort([rng.random(len(xy)), np.broadcast_to(on_top, len(xy))])
    ax.scatter(*xy[order].T, c=[colors[i] for i in order], s=size, lw=0, rasterized=True)


def frame(panels: Sequence[Axes], xy: np.ndarray, basis: str) -> None:
    """Same limits everywhere, no ticks: distances in an embedding have no unit."""
    low, high = xy.min(axis=0), xy.max(axis=0)
    margin = 0.05 * (high - low)
    (left, bottom), (right, top) = low - margin, high + margin
    name = AXES[basis]
    for ax in panels:
        ax.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[], xlabel=f"{name}1", box_aspect=1)
    panels[0].set_ylabel(f"{name}2")
