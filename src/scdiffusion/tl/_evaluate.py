from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData

from scdiffusion.tl._comparison import MIN_CELLS
from scdiffusion.tl._evaluate_modalities import compare_modalities
from scdiffusion.tl._evaluation_table import compare


def evaluate(
    real: AnnData | MuData,
    generated: AnnData | MuData,
    *,
    groupby: str | None = None,
    train: AnnData | MuData | None = None,
    baseline: bool = True,
    metrics: str | Sequence[str] | None = None,
    layer: str | None = None,
    n_cells: int | None = None,
    n_splits: int = 5,
    pairs: Sequence[tuple[str, str]] | None = None,
    rng: int | np.random.Generator | None = 0,
    progress: bool = True,
    donor_key: str | None = None,
) -> pd.DataFrame:
    r"""Compare generated with real cells, every figure beside that of real against real cells.

    No figure means much on its own: two samples of the same tissue differ too, the more the fewer the cells. So each is
    computed three times at the same number of cells: for the generated cells; for a second sample of real ones, the
    *floor*, which is as good as a generator can be; and for a *baseline* that draws each gene on its own from a negative
    binomial fitted to each type, which anything worth using must beat. Cells may come from any tool.

    Parameters
    ----------
    real
        Real cells, best those held out from training: counts or log-normalised expression. With a MuData on all sides,
        each modality that they share is compared on its own, and then how the modalities go together.
    generated
        Generated cells, likewise. Genes are matched by name; where one side holds counts and the other does not, both
        are compared log-normalised.
    groupby
        Column of ``obs`` with the cell types, on all sides. It adds a row per type to some metrics, and the metrics on
        differences between types. Cells without a type count in the rows ``"all"`` only.
    train
        Cells that the generator was trained on, none of them in ``real``. The floor, the principal components and the
        baseline are then taken from them, so that all of ``real`` takes part in every comparison, and memorisation can
        be judged. It should be a random split of the same cells as ``real``: a shift between the two, of donors for
        instance, is in the floor. Without ``train``, a third of the real cells is compared with generated ones, a third
        is the floor and a third serves for components and baseline.
    baseline
        Whether to compute the baseline. Of log-normalised expression it resamples each gene on its own.
    metrics
        Names of the metrics to compute; by default all that the other arguments allow. See Notes.
    layer
        Where the expression is; ``None`` for ``X``. ``generated`` and ``train`` may lack the layer: their ``X`` is
        then used.
    n_cells
        Most cells per side; by default as many as both sides allow.
    n_splits
        Random halves that the standard deviations are computed from; with more, time grows and verdicts sharpen.
    pairs
        Of a MuData, features to correlate between two modalities, such as genes and the proteins they code for:
        `[("CD3E", "CD3"), ("CD8A", "CD8a")]`, in the order in which the modalities are in ``real``. By default all with
        all, of the 200 most variable ones.
    rng
        Seed or generator.
    progress
        Show a progress bar.
    donor_key
        Column of ``obs`` with the donors, of ``real`` and ``train``, none of them in both. It adds the metric
        ``membership_auc_donors``; what else differs between donors is then in the floor of all other metrics.

    Returns
    -------
    One row per metric and group, with the columns below, after a column ``modality`` in the case of a MuData.

    ``metric``, ``group``
        Name of the metric; ``"all"`` or a type.
    ``space``
        What the figure was computed on: ``"counts"``, ``"log-normalised"`` or principal components, of what.
    ``n_cells``
        Cells per side: at most 5,000 for metrics on pairs of cells and logistic regression, 3,000 for forests, 2,000 for
        the Wasserstein distance, 50,000 for all others.
    ``generated``, ``floor``, ``baseline``
        Figure of generated, of further real and of baseline cells, each against the same real cells.
    ``generated_sd``, ``floor_sd``
        Standard deviation by sampling of cells, from random halves of both sides.
    ``better``
        ``"lower"``, ``"higher"``, or the value to hit; for classifiers that tell the sides apart, 0.5 or less.
    ``verdict``
        ``"within floor"``: generated cells are no worse than real ones, as far as the figures can tell.
        ``"between"``: worse than that, better than the baseline. ``"worse than baseline"``: no better than it.
        ``"worse than floor"`` takes the place of the latter two where there is no baseline. ``"too small"``: fewer than
        30 cells per side; ``"missing in generated"``, ``"missing in real"``: a type on one side only; ``"undefined"``:
        there is no such figure, ``attrs["notes"]`` says why. The figures of the last four are NaN.

    ``attrs["notes"]`` lists what a reader should know (genes shared, spaces changed, metrics left out), and
    ``attrs["n_genes"]`` is the number of genes compared.

    Raises
    ------
    TypeError
        If a side is not an AnnData, or some but not all are a MuData.
    ValueError
        If fewer than 50 genes are shared (a modality of a MuData may have fewer); if values are NaN, negative, or
        neither counts nor log-normalised; if a column, layer or metric is unknown; if ``groupby`` holds numbers that are
        no categories, or a type called ``"all"``; if a side has too few cells; or if real cells or donors are among those
        of ``train``.

    Notes
    -----
    *Depth and genes* (on counts where there are counts): ``library_size`` and ``n_genes`` (Kolmogorov-Smirnov),
    ``zero_fraction`` (mean difference of the genes' zero fractions), ``gene_mean_error``, ``gene_variance_error``,
    ``gene_mean_spearman`` and ``gene_mean_pearson`` (the papers' SCC and PCC: smoke tests), ``gene_correlation_error``,
    ``gene_correlation_similarity``.

    *Distributions* (in principal components): ``mmd_scdiffusion``, ``mmd_scld``, ``mmd_unbiased``, ``energy_distance``,
    ``wasserstein``, ``lisi``, ``density``, ``coverage``, ``precision``, ``recall``, ``one_nn_accuracy``.

    *Classifiers that tell the sides apart*: ``knn_auc`` (mean of 5 splits), ``random_forest_auc`` in joint components as
    in the papers, ``random_forest_auc_genes`` and ``logistic_auc`` on genes, the stringent variants (3 splits; forests
    of 200 trees of depth 5).

    *Types*, with ``groupby``, on equal numbers of each type: ``lfc_slope``, ``lfc_correlation``, ``marker_overlap``,
    ``label_accuracy`` (the value to hit is that of real cells), ``train_on_synthetic_f1`` and, only where it is named
    and ``train`` is given, ``celltypist_accuracy``.

    *Memorisation*, with ``train``: ``nearest_training_ratio``, ``membership_auc``; half of ``real`` is their floor.
    With ``donor_key`` also ``membership_auc_donors``, for which half of the held-out donors are the floor.

    *Between modalities*, of a MuData: ``cross_correlation_error`` for every two of them, whose baseline knows the types
    only.

    Definitions are those of :mod:`scdiffusion.metrics`. Rows per type exist for ``library_size``, ``n_genes``,
    ``zero_fraction``, ``gene_mean_error``, ``gene_variance_error``, ``gene_correlation_error``, ``energy_distance`` and
    ``knn_auc``.

    A row is within the floor if generated cells are worse than the floor by at most
    :math:`t \sqrt{\mathrm{sd}_\mathrm{generated}^2 + \mathrm{sd}_\mathrm{floor}^2}`, with the 97.5 % quantile t of
    Student's distribution on ``2 * (n_splits - 1)`` degrees of freedom. Where there is a value to hit, worse is further
    from it: what lies between it and the floor is within the floor, what lies beyond it need not be. The deviation of a
    share of cells is at least that of a binomial with one more cell of either kind, because halves without a single error
    do not differ at all. That of a figure by donor is :math:`\sqrt{(a + b + 1) / (24 a b)}`, so that the two together
    are that of an AUC of a against b donors who do not differ: few donors cannot give themselves away.

    The principal components are never fitted on cells that are then compared: real cells look unlike any others along
    axes that follow their own noise.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518. SCLD (2023), arXiv 2312.14220.
    Politis, Romano & Wolf (1999), Subsampling, Springer (random halves).

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> real, second_sample = adata[::2], adata[1::2]
    >>> table = scd.tl.evaluate(
    ...     real, second_sample, layer="counts", metrics=["library_size", "energy_distance"], progress=False
    ... )
    >>> table[["metric", "n_cells", "better", "verdict"]]
                metric  n_cells better       verdict
    0     library_size      117  lower  within floor
    1  energy_distance      117  lower  within floor
    """
    if n_splits < 2:
        raise ValueError(f"n_splits must be at least 2, because one figure has no spread, not {n_splits}.")
    if n_cells is not None and n_cells < MIN_CELLS:
        raise ValueError(f"n_cells must be at least {MIN_CELLS}, not {n_cells}: fewer tell nothing.")
    if donor_key is not None and train is None:
        raise ValueError("Membership by donor needs the donors that were trained on: pass train= with donor_key=.")
    sides = {"real": real, "generated": generated} | ({} if train is None else {"train": train})
    settings = {
        "groupby": groupby, "donor_key": donor_key, "baseline": baseline, "metrics": metrics, "layer": layer,
        "n_cells": n_cells, "n_splits": n_splits, "rng": rng, "progress": progress,
    }  # fmt: skip
    if any(isinstance(side, MuData) for side in sides.values()):
        return compare_modalities(sides, pairs=pairs, **settings)
    if pairs is not None:
        raise ValueError("pairs are of features of two modalities: pass a MuData on all sides, or leave them out.")
    return compare(sides, **settings)
