"""The metrics of :func:`scdiffusion.tl.evaluate`: one line each."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scdiffusion import metrics as m
from scdiffusion.model._messages import did_you_mean

# weaker regularisation overfits the few hundred cells of a small type
_TYPE_C = 0.1
_MANY_CELLS = 2000
CROSS_CORRELATION = "cross_correlation_error"
CHANCE = 0.5  # of classifiers that tell two sides apart


class Side(NamedTuple):
    """One side of a comparison, in the metric's space."""

    X: Any  # (n_cells, n_features), dense or CSR
    labels: np.ndarray | None  # (n_cells,)


@dataclass(frozen=True)
class Context:
    """Real cells that are on neither side of a comparison, and what is learned from them."""

    name: str  # whose cells they are
    reference: Side  # in principal components
    reference_log: Any  # (n_reference, n_genes)
    train: np.ndarray | None  # all training cells in principal components, (n_train, n_components)
    genes: pd.Index
    train_donors: np.ndarray | None = None  # (n_train,)

    @functools.cached_property
    def celltypist_model(self) -> Any:
        """CellTypist's classifier, trained on the reference cells."""
        import celltypist

        # the default solver passes an argument that scikit-learn 1.8 removed
        with _quiet(celltypist.logger):
            return celltypist.train(
                self.reference_log, self.reference.labels, self.genes, check_expression=False, use_SGD=True
            )


@dataclass(frozen=True)
class Metric:
    """How a figure is computed, what of, and which way it is better."""

    name: str
    compute: Callable[[Side, Side, Context], float]
    # an attribute of Cells, or "joint": principal components of the two sides together
    space: str
    # "lower", "higher", a target, or "floor": the figure of real cells is the target
    better: str | float
    # "all" cells; "types": as many of each type on both sides; "held out": cells that were not trained on; "donors":
    # the same, whole donors on each side, which are then the labels
    scope: str = "all"
    by_group: bool = False
    optional: bool = False
    max_cells: int = 50_000
    min_cells: int = 30
    is_share: bool = False  # of cells on one side, so that its deviation is at least that of a binomial
    sd: Callable[[Side, Context], float] | None = None  # in place of that of random halves

    @property
    def needs(self) -> list[str]:
        """Arguments of :func:`evaluate` without which there is no such figure."""
        needs = ["groupby"] if self.scope == "types" else []
        needs += ["train"] if self.scope in ("held out", "donors") or self.optional else []
        return [*needs, "donor_key"] if self.scope == "donors" else needs


def _on(function: Callable, **kwargs: Any) -> Callable:
    return lambda real, other, _: function(real.X, other.X, **kwargs)


def _ks(per_cell: Callable) -> Callable:
    return lambda real, other, _: m.ks_distance(per_cell(real.X), per_cell(other.X))


def _auc(function: Callable, n_splits: int, **kwargs: Any) -> Callable:
    # the split into training and test cells is the largest part of an AUC's noise, but for many cells there is little
    def mean_over_splits(real: Side, other: Side, _: Context) -> float:
        splits = range(n_splits if real.X.shape[0] < _MANY_CELLS else 1)
        return float(np.mean([function(real.X, other.X, rng=split, **kwargs) for split in splits]))

    return mean_over_splits


def _zero_fraction(real: Side, other: Side, _: Context) -> float:
    # gene by gene, because cell by cell it would repeat n_genes
    return float(np.abs(m.zero_fraction(real.X.T) - m.zero_fraction(other.X.T)).mean())


def _lisi(real: Side, other: Side, _: Context) -> float:
    return m.lisi(np.concatenate([real.X, other.X]), np.repeat(["real", "other"], [len(real.X), len(other.X)]))


def _celltypist_accuracy(_: Side, other: Side, context: Context) -> float:
    import celltypist

    cells = AnnData(other.X, var=pd.DataFrame(index=context.genes))
    model = context.celltypist_model
    with _quiet(celltypist.logger):
        predicted = celltypist.annotate(cells, model=model).predicted_labels["predicted_labels"]
    return float((predicted.to_numpy().astype(str) == other.labels.astype(str)).mean())


def _membership_donors(real: Side, other: Side, context: Context) -> float:
    donors = {"train_donors": context.train_donors, "heldout_donors": real.labels}
    return m.membership_auc(context.train, real.X, other.X, **donors)


def _auc_sd_by_donor(real: Side, context: Context) -> float:
    # halves of the cells hold the same donors and tell nothing of others: the variance of the rank-sum statistic, half of
    # it for the generated cells and half for the floor, because both meet the same donors
    a, b = len(set(context.train_donors)), len(set(real.labels))
    return float(np.sqrt((a + b + 1) / (24 * a * b)))


_PAIRS = {"max_cells": 5000}  # time grows with the square of the cells
_SHARES = _PAIRS | {"is_share": True}
_CUBIC = {"max_cells": 2000}
_forest = _auc(m.random_forest_auc, 3, n_estimators=200)
_markers = lambda a, b, _: m.marker_overlap(*a, *b, n_top=min(50, a.X.shape[1] // 5))
_label_accuracy = lambda _, b, context: m.label_accuracy(*context.reference, *b, C=_TYPE_C)
_synthetic_f1 = lambda a, b, _: m.train_on_synthetic_f1(*b, *a, C=_TYPE_C)
_nearest_training = lambda a, b, context: m.nearest_training_ratio(b.X, context.train, a.X)
_membership = lambda a, b, context: m.membership_auc(context.train, a.X, b.X)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("library_size", _ks(m.library_size), "counts", "lower", by_group=True),
        Metric("n_genes", _ks(m.n_genes), "native", "lower", by_group=True),
        Metric("zero_fraction", _zero_fraction, "native", "lower", by_group=True),
        Metric("gene_mean_spearman", _on(m.gene_mean_correlation), "log", "higher"),
        Metric("gene_mean_pearson", _on(m.gene_mean_correlation, method="pearson"), "log", "higher"),
        Metric("gene_mean_error", _on(m.gene_mean_error), "native", "lower", by_group=True),
        Metric("gene_variance_error", _on(m.gene_variance_error), "native", "lower", by_group=True),
        Metric("gene_correlation_error", _on(m.gene_correlation_error), "log", "lower", by_group=True),
        Metric("gene_correlation_similarity", _on(m.gene_correlation_similarity), "log", "higher"),
        Metric("mmd_scdiffusion", _on(m.mmd_scdiffusion), "joint", "lower", **_PAIRS),
        Metric("mmd_scld", _on(m.mmd_scld), "pcs", "lower", min_cells=60, **_PAIRS),
        Metric("mmd_unbiased", _on(m.mmd_unbiased), "pcs", "lower", **_PAIRS),
        Metric("energy_distance", _on(m.energy_distance, unbiased=True), "pcs", "lower", by_group=True, **_PAIRS),
        Metric("wasserstein", _on(m.wasserstein), "pcs", "lower", **_CUBIC),
        Metric("lisi", _lisi, "pcs", "higher", min_cells=100, **_PAIRS),
        Metric("density", lambda a, b, _: m.density_coverage(a.X, b.X).density, "pcs", 1.0, **_PAIRS),
        Metric("coverage", lambda a, b, _: m.density_coverage(a.X, b.X).coverage, "pcs", "higher", **_SHARES),
        Metric("precision", lambda a, b, _: m.precision_recall(a.X, b.X).precision, "pcs", "higher", **_SHARES),
        Metric("recall", lambda a, b, _: m.precision_recall(a.X, b.X).recall, "pcs", "higher", **_SHARES),
        Metric("one_nn_accuracy", _on(m.one_nn_accuracy), "pcs", CHANCE, **_PAIRS),
        Metric("knn_auc", _auc(m.knn_auc, 5), "pcs", CHANCE, by_group=True, **_PAIRS),
        Metric("logistic_auc", _auc(m.logistic_auc, 3), "log", CHANCE, **_PAIRS),
        Metric("random_forest_auc", _forest, "joint", CHANCE, max_cells=3000),
        Metric("random_forest_auc_genes", _forest, "log", CHANCE, max_cells=3000),
        Metric("lfc_slope", lambda a, b, _: m.lfc_slope(*a, *b), "log", 1.0, scope="types"),
        Metric("lfc_correlation", lambda a, b, _: m.lfc_correlation(*a, *b), "log", "higher", scope="types"),
        Metric("marker_overlap", _markers, "log", "higher", scope="types"),
        Metric("label_accuracy", _label_accuracy, "pcs", "floor", scope="types", **_SHARES),
        Metric("train_on_synthetic_f1", _synthetic_f1, "pcs", "higher", scope="types", **_SHARES),
        Metric("celltypist_accuracy", _celltypist_accuracy, "log", "floor", scope="types", optional=True, **_SHARES),
        Metric("nearest_training_ratio", _nearest_training, "pcs", 1.0, scope="held out", **_PAIRS),
        Metric("membership_auc", _membership, "pcs", "lower", scope="held out", **_PAIRS),
        Metric(
            "membership_auc_donors",
            _membership_donors,
            "pcs",
            "lower",
            scope="donors",
            sd=_auc_sd_by_donor,
            **_PAIRS,
        ),
    )
}


def choose(names: Sequence[str] | None, given: Mapping[str, bool], *, counts: bool) -> list[Metric]:
    """Return the metrics of these names, or all that the given arguments allow; without counts those that need none."""
    if names is None:
        chosen = [x for x in METRICS.values() if not x.optional and all(given[need] for need in x.needs)]
    else:
        chosen = []
        for name in dict.fromkeys([names] if isinstance(names, str) else names):
            if name not in METRICS:
                raise ValueError(f"There is no metric {name!r}.{did_you_mean(name, METRICS)}")
            chosen.append(METRICS[name])
            missing = [need for need in chosen[-1].needs if not given[need]]
            if missing:
                raise ValueError(
                    f"The metric {name!r} needs {' and '.join(missing)}: pass {'=..., '.join(missing)}=..."
                )
    computable = [x for x in chosen if counts or x.space != "counts"]
    if not computable:
        why = f"{chosen[0].name!r} needs counts on all sides" if chosen else "metrics is empty"
        raise ValueError(f"There is nothing to compute: {why}. Available: {', '.join(METRICS)}.")
    return computable


def cross_correlation(n_first: int, pairs: Sequence[tuple[int, int]] | None) -> Metric:
    """The metric of two modalities side by side, the first of so many features."""

    def compute(real: Side, other: Side, _: Context) -> float:
        sides = [part for X in (real.X, other.X) for part in (X[:, :n_first], X[:, n_first:])]
        return m.cross_correlation_error(*sides, pairs=pairs)

    return Metric(CROSS_CORRELATION, compute, "log", "lower")


@contextlib.contextmanager
def _quiet(log: Any) -> Iterator[None]:
    level = log.logger.level
    log.logger.setLevel("ERROR")
    try:
        yield
    finally:
        log.logger.setLevel(level)
