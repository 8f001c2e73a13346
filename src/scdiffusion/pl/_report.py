"""An evaluation as a page to read and to send to others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scdiffusion.metrics import log_fold_changes
from scdiffusion.pl._confusion import confusion
from scdiffusion.pl._docs import shared_docs
from scdiffusion.pl._embedding import check_basis
from scdiffusion.pl._evaluation import check_table, evaluation
from scdiffusion.pl._lfc import MIN_CELLS, lfc
from scdiffusion.pl._markers import markers
from scdiffusion.pl._mean_variance import gene_moments, mean_variance
from scdiffusion.pl._overlay import overlay
from scdiffusion.pl._page import READING, Section, gallery, group_table, metric_table, not_drawn, page, picture, summary
from scdiffusion.pl._qq import qq
from scdiffusion.pl._utils import pick_genes, pick_groups, read_pair

N_GENES, N_MARKERS = 8, 5
MAX_GROUPS = 12


@shared_docs
def report(
    table: pd.DataFrame,
    real: AnnData,
    generated: AnnData,
    path: str | Path,
    *,
    groupby: str | None = None,
    genes: str | Sequence[str] | None = None,
    basis: Literal["umap", "tsne", "pca"] = "umap",
    layer: str | None = None,
    rng: int | np.random.Generator | None = 0,
) -> None:
    """Write an evaluation with its figures as one HTML file, which needs no network to be read.

    The page holds the score card and the rows of the table, then :func:`overlay`, :func:`qq`, :func:`mean_variance`
    and, with ``groupby``, :func:`markers`, :func:`lfc` and :func:`confusion`, each with a word on how to read it. Where
    one cannot be drawn, as :func:`mean_variance` of log-normalised cells, the page says why.

    Parameters
    ----------
    table
        Table of :func:`scdiffusion.tl.evaluate`.
    $sides
    path
        File to write.
    groupby
        Categorical ``obs`` column with the types. Markers are drawn for the 12 largest.
    genes
        Genes of the quantile plots; by default the first marker of each of the largest types, else the genes that vary
        most.
    basis
        Embedding of the overlay.
    $layer
    rng
        Seed or generator of the overlay and the confusion.

    Raises
    ------
    FileNotFoundError
        If the folder of ``path`` does not exist.
    ValueError
        If the table lacks a column, a gene or column is unknown, or the expression is neither counts nor log-normalised.

    Examples
    --------
    >>> import tempfile
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> a, b = adata[::2], adata[1::2]  # two halves, in place of real and generated cells
    >>> table = scd.tl.evaluate(a, b, layer="counts", metrics=["library_size", "knn_auc"], progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     scd.pl.report(table, a, b, f"{folder}/report.html", layer="counts", basis="pca")
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    check_table(table)
    check_basis(basis)
    cells = read_pair(real, generated, layer, groupby)
    tops, no_violins = {}, []
    if groupby is not None:
        try:
            tops = _top_markers(*cells, groupby)
        except ValueError as error:  # there is one type only, or none on both sides
            no_violins = [not_drawn("Marker genes", error)]
    if genes is None:
        genes = list(dict.fromkeys(top[0] for top in tops.values()))[:N_GENES] or _most_variable(cells[0])
    genes = pick_genes(cells[0], genes)

    sides, kwargs = (real, generated), {"layer": layer, "return_fig": True}
    sections = [
        Section("Summary", "", summary(table)),
        Section("How to read this page", "", READING),
        Section(
            "Score card",
            "Each figure on a scale from the floor to the baseline. A grey bar that reaches the baseline means that so "
            "few cells cannot tell the two apart.",
            picture("Score card", lambda: evaluation(table, return_fig=True))
            + metric_table(table)
            + group_table(table),
        ),
        Section(
            "Real and generated cells",
            "Generated cells, projected into an embedding of the real ones. It shows which kinds of cells are missing, "
            "not whether those that are there are good.",
            picture("Overlay", lambda: overlay(*sides, basis=basis, color=groupby, rng=rng, **kwargs)),
        ),
        Section(
            "Quantiles of genes",
            "On the diagonal a gene has the same distribution on both sides.",
            picture("Quantile plots", lambda: qq(*sides, genes, groupby, **kwargs)),
        ),
        Section(
            "Mean and variance of counts",
            "Both clouds should coincide. Poisson counts would lie on the dashed line.",
            picture("Variance against mean", lambda: mean_variance(*sides, **kwargs)),
        ),
    ]
    if groupby is not None:
        violins = [
            picture(group, lambda group=group, top=top: markers(*sides, top, groupby, group, **kwargs))
            for group, top in tops.items()
        ]
        sections += [
            Section(
                "Marker genes",
                "Genes that mark a type in real cells. The first two violins of a gene should be alike, and differ from "
                "the third.",
                gallery(violins or no_violins),
            ),
            Section(
                "Differences between types",
                "Log fold changes of all genes, each type against all other cells. A slope below 1 means that generated "
                "types differ less than real ones.",
                picture("Log fold changes", lambda: lfc(*sides, groupby, **kwargs)),
            ),
            Section(
                "Types asked for and seen",
                "What a classifier takes the cells for. Types that are hard to tell apart are confused in real cells, "
                "too: the two pictures should be alike.",
                picture("Confusion", lambda: confusion(*sides, groupby, rng=rng, **kwargs)),
            ),
        ]
    sizes = f"{real.n_obs:,} real and {generated.n_obs:,} generated cells, {cells[0].n_vars:,} genes"
    path.write_text(page("Generated against real cells", sizes, sections), encoding="utf-8")


def _top_markers(real: AnnData, generated: AnnData, groupby: str) -> dict[str, list[str]]:
    """Genes by which real cells of the largest types differ most from all others."""
    groups = pick_groups(real, generated, groupby, min_cells=MIN_CELLS)
    largest = real.obs[groupby].value_counts()[groups].index[:MAX_GROUPS]
    real = real[real.obs[groupby].notna()]
    changes = log_fold_changes(real.X, real.obs[groupby].astype(str), groups=list(largest))  # (n_groups, n_genes)
    order = np.argsort(-changes, axis=1, kind="stable")[:, :N_MARKERS]
    return {group: list(real.var_names[top]) for group, top in zip(largest, order, strict=True)}


def _most_variable(real: AnnData) -> list[str]:
    _, variance = gene_moments(real.X)
    return list(real.var_names[np.argsort(-variance, kind="stable")[:N_GENES]])
