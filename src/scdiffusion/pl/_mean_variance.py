"""Whether counts vary as much as real ones of the same mean."""

from __future__ import annotations

import numpy as np
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import sparse

from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import COMPACT, GENERATED, GREY, REAL, dots, finish, make_axes, read_pair


@shared_docs
def mean_variance(
    real: AnnData,
    generated: AnnData,
    *,
    layer: str | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure | None:
    """Variance of each gene's counts against its mean, real and generated.

    Both clouds should coincide. Poisson counts lie on the dashed line, where variance and mean are equal; the distance
    above it is what the biology and the library size add.

    Parameters
    ----------
    real, generated
        Counts. Genes without any are left out.
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
        If a side does not hold counts.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> ax = scd.pl.mean_variance(a, b, layer="counts", show=False)
    >>> ax.get_xscale()
    'log'
    >>> plt.close(ax.figure)
    """
    sides = read_pair(real, generated, layer, counts=True)
    (ax,) = make_axes(ax, 1, (4, 3.6))
    moments = np.hstack([gene_moments(side.X) for side in sides])  # (2, 2 * n_genes)
    colors = np.repeat([REAL, GENERATED], sides[0].n_vars)
    # in random order, so that neither side hides the other
    order = np.random.default_rng(0).permutation(np.flatnonzero((moments > 0).all(axis=0)))
    ax.scatter(*moments[:, order], s=8, lw=0, c=colors[order], alpha=0.7, rasterized=True)
    ax.set(xscale="log", yscale="log", xlabel="Mean count", ylabel="Variance of counts")
    poisson = ax.axline((1, 1), (10, 10), color=GREY, ls="--", lw=1, label="Poisson", zorder=0)
    ax.legend(handles=[*dots({"Real": REAL, "Generated": GENERATED}), poisson], loc="upper left", **COMPACT)
    return finish(ax, show, return_fig)


def gene_moments(X: np.ndarray | sparse.csr_matrix) -> np.ndarray:
    """Mean and variance of the columns, (2, n_genes), without making a sparse matrix dense."""
    X = X.astype(np.float64)
    square = X.multiply(X) if sparse.issparse(X) else X**2
    mean, mean_square = (np.asarray(x.mean(axis=0)).ravel() for x in (X, square))
    return np.stack([mean, mean_square - mean**2])
