"""Which type generated cells are taken for."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from scdiffusion.metrics._checks import to_seed
from scdiffusion.model._messages import name_some
from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._utils import finish, make_axes, read_pair

N_FOLDS = 5
MOST_TO_ANNOTATE = 15


@shared_docs
def confusion(
    real_train: AnnData,
    generated: AnnData,
    key: str,
    *,
    layer: str | None = None,
    n_components: int = 30,
    rng: int | np.random.Generator | None = 0,
    ax: Iterable[Axes] | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> list[Axes] | Figure | None:
    """Type that was asked for against the type a classifier sees, beside the same picture of real cells.

    Types that are hard to tell apart are confused in real cells, too, and ought to be so in generated ones: the panels
    should be alike. The classifier is a logistic regression on principal components, both fitted on real cells; real
    cells are judged by one that has not seen them (five-fold cross-validation).

    Parameters
    ----------
    real_train
        Real cells the classifier learns from: counts or log-normalised expression.
    generated
        Cells to judge, likewise.
    key
        Categorical ``obs`` column with the type, on both sides; of generated cells, the one asked for.
    $layer
    n_components
        Number of principal components.
    rng
        Seed or generator of the folds and the components.
    ax
        Two Axes to draw on.
    $shown

    Returns
    -------
    Two Axes, real and generated, $returned

    Raises
    ------
    ValueError
        If ``key`` is missing or has fewer than two types, or the expression is neither counts nor log-normalised.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> axes = scd.pl.confusion(a, b, "bulk_labels", layer="counts", show=False)
    >>> [ax.get_title() for ax in axes]
    ['Real', 'Generated']
    >>> plt.close(axes[0].figure)
    """
    real, generated = read_pair(real_train, generated, layer, key)
    tables = _tables(real, generated, key, n_components, to_seed(rng))
    n_rows, n_columns = tables["Real"].shape
    names = 0.08 * max(map(len, tables["Real"].index))  # inches
    figsize = (1.5 + names + 0.68 * n_columns, 0.8 + names + 0.34 * n_rows)
    panels = make_axes(ax, 2, figsize, sharey=True, figsize=figsize, layout="compressed")
    for panel, (title, table) in zip(panels, tables.items(), strict=True):
        image = _draw_table(panel, table)
        panel.set(title=title, xlabel="Predicted type")
    panels[0].set_ylabel("True type")
    panels[1].set_ylabel("Type asked for")
    panels[0].figure.colorbar(image, ax=panels, label="Share of row", shrink=0.6)
    return finish(panels, show, return_fig)


def _tables(real: AnnData, generated: AnnData, key: str, n_components: int, seed: int) -> dict[str, pd.DataFrame]:
    """Shares of predicted types, one row per type; NaN in the row of a type without cells."""
    real, generated = (side[side.obs[key].notna()] for side in (real, generated))
    truth, asked = (side.obs[key].astype(str).to_numpy() for side in (real, generated))
    categories = real.obs[key].cat.categories
    types = [c for c in categories if c in set(truth)]
    if len(types) < 2:
        raise ValueError(f"A classifier needs real cells of two types or more; {key!r} has {name_some(types)}.")
    smallest_fold = real.n_obs - -(-real.n_obs // N_FOLDS)
    n_components = min(n_components, smallest_fold - 1, real.n_vars - 1)
    pca = PCA(n_components, svd_solver="arpack", random_state=seed)
    classifier = make_pipeline(pca, StandardScaler(), LogisticRegression(max_iter=1000))
    folds = KFold(N_FOLDS, shuffle=True, random_state=seed)
    predictions = {
        "Real": (truth, cross_val_predict(classifier, real.X, truth, cv=folds)),
        "Generated": (asked, classifier.fit(real.X, truth).predict(generated.X)),
    }
    return {
        side: pd.crosstab(rows, columns, normalize="index").reindex(columns=types, fill_value=0).reindex(categories)
        for side, (rows, columns) in predictions.items()
    }


def _draw_table(ax: Axes, table: pd.DataFrame) -> AxesImage:
    image = ax.imshow(table, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(table.shape[1]), table.columns, rotation=90)
    ax.set_yticks(range(table.shape[0]), table.index)
    if max(table.shape) <= MOST_TO_ANNOTATE:
        for (row, column), share in np.ndenumerate(table):
            if share >= 0.005:
                color = "white" if share > 0.6 else "black"
                ax.text(column, row, f"{100 * share:.0f}", color=color, ha="center", va="center", fontsize="x-small")
    return image
