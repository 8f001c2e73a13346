"""`tl.evaluate` ranks generators, and tells real cells from nothing."""

import doctest
import importlib

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse
from simulated_cells import FAST, N_GENES, ONE, TYPES, by_metric, run, simulate

import scdiffusion as scd
from scdiffusion.tl import evaluate


def independent(train: AnnData, seed: int) -> AnnData:
    """Each gene shuffled among the cells of a type: right distributions, no correlation."""
    return shuffled(train, seed, within=train.obs["cell_type"].to_numpy())


def shuffled(train: AnnData, seed: int, within: np.ndarray | None = None) -> AnnData:
    rng = np.random.default_rng(seed)
    adata, X = train.copy(), train.X.toarray()
    within = np.zeros(len(X)) if within is None else within
    for group in np.unique(within):
        X[within == group] = rng.permuted(X[within == group], axis=0)
    adata.X = sparse.csr_matrix(X)
    return adata


@pytest.fixture(scope="module")
def tables(real, train) -> dict[str, pd.DataFrame]:
    """Tables of generators, from the best to the worst."""
    generators = {
        "resample": simulate(400, seed=3),
        "shifted": simulate(400, seed=4, shift=0.15),
        "independent": independent(train, seed=5),
        "shuffled": shuffled(train, seed=6),
    }
    metrics = [*FAST, "gene_mean_spearman", "lfc_slope"]
    return {
        name: run(real, cells, train=train, groupby="cell_type", metrics=metrics) for name, cells in generators.items()
    }


def test_default_table(real, train):
    table = evaluate(real, simulate(400, seed=3), train=train, groupby="cell_type", n_cells=150, n_splits=2)
    assert list(table.columns) == [
        *("metric", "group", "space", "n_cells", "generated", "generated_sd"),
        *("floor", "floor_sd", "baseline", "better", "verdict"),
    ]
    assert set(table["group"]) == {"all", *TYPES}
    assert not table.duplicated(["metric", "group"]).any()
    assert table[["generated", "generated_sd", "floor", "floor_sd", "baseline"]].notna().all(axis=None)
    assert {"random_forest_auc", "nearest_training_ratio", "train_on_synthetic_f1"} <= set(table["metric"])
    assert "celltypist_accuracy" not in set(table["metric"])
    assert set(table["space"]) == {
        *("counts", "log-normalised", "30 PCs fitted on train", "50 PCs fitted on both sides")
    }  # fmt: skip
    assert (table["n_cells"] <= 150).all()
    assert table.attrs["n_genes"] == N_GENES
    accuracy = by_metric(table).loc["label_accuracy"]
    assert accuracy["better"] == accuracy["floor"]


def test_verdicts_rank_generators(tables):
    badness = {"within floor": 0, "between": 1, "worse than baseline": 2}
    ranks = [table["verdict"].map(badness).mean() for table in tables.values()]
    assert ranks == sorted(set(ranks)), dict(zip(tables, ranks, strict=True))
    assert ranks[0] < 0.05


@pytest.mark.parametrize("metric", ["gene_correlation_error", "mmd_unbiased", "energy_distance", "knn_auc"])
def test_figures_rank_generators(tables, metric):
    rows = [by_metric(table).loc[metric] for table in tables.values()]
    figures = [row["generated"] for row in rows]
    if metric == "gene_correlation_error":  # a shift of the means leaves correlations alone
        del figures[1]
    assert figures == sorted(figures)
    assert rows[0]["verdict"] == "within floor"
    assert rows[-1]["verdict"] == "worse than baseline"


def test_gene_means_do_not_separate_shuffled_cells(tables):
    assert by_metric(tables["shuffled"]).loc["gene_mean_spearman", "generated"] > 0.98


def test_the_baseline_is_what_an_independent_generator_scores(tables):
    row = by_metric(tables["independent"]).loc["gene_correlation_error"]
    assert row["generated"] == pytest.approx(row["baseline"], rel=0.1)


@pytest.mark.parametrize("with_train", [True, False])
def test_real_cells_are_within_the_floor(with_train):
    verdicts = []
    for seed in range(6):
        cells = simulate(1200, seed=100 + seed)
        sides = (cells[:300], cells[300:600]) if with_train else (cells[:900], cells[900:])
        table = run(*sides, train=cells[600:] if with_train else None, groupby="cell_type", baseline=False, rng=seed)
        verdicts.append(table["verdict"][table["verdict"] != "too small"])
    assert (pd.concat(verdicts) == "within floor").mean() >= 0.95


def test_deviations_are_those_of_new_samples():
    """Random halves of one sample must foretell how figures differ between samples, or verdicts mean nothing."""
    metrics = ["library_size", "gene_variance_error", "energy_distance", "knn_auc"]
    tables = []
    for seed in range(12):
        cells = simulate(1000, seed=200 + seed)
        tables.append(run(cells[:250], cells[250:500], train=cells[500:], metrics=metrics, baseline=False, rng=seed))
    runs = pd.concat(tables)
    seen = (runs["generated"] - runs["floor"]).groupby(runs["metric"]).std()
    foretold = np.hypot(runs["generated_sd"], runs["floor_sd"]).groupby(runs["metric"]).mean()
    assert ((foretold / seen).between(0.6, 3)).all(), foretold / seen


def test_as_many_cells_as_all_sides_allow(real, train):
    generated = simulate(350, seed=3)
    assert run(real, generated, train=train, metrics=ONE)["n_cells"].item() == 350
    assert run(real, generated, metrics=ONE)["n_cells"].item() == 400 // 3
    assert run(real, generated, metrics=ONE, n_cells=50)["n_cells"].item() == 50


def test_same_seed_same_table_whatever_else_is_computed(real):
    generated = simulate(200, seed=3)
    first, second = (run(real, generated, groupby="cell_type", rng=7) for _ in range(2))
    pd.testing.assert_frame_equal(first, second)
    alone = run(real, generated, groupby="cell_type", rng=7, metrics="energy_distance").set_index("group")
    together = first[first["metric"] == "energy_distance"].set_index("group")
    pd.testing.assert_frame_equal(alone, together)
    assert not run(real, generated, groupby="cell_type", rng=8)["generated"].equals(first["generated"])


def test_groups_on_one_side_or_too_small(real, train):
    generated = simulate(400, seed=3)
    generated.obs.loc[generated.obs["cell_type"] == "B", "cell_type"] = "B cell"
    few = real[(real.obs["cell_type"] != "NK") | (np.arange(real.n_obs) < 60)]
    table = run(few, generated, train=train, groupby="cell_type", metrics=[*ONE, "lfc_slope"])
    rows = table[table["group"] != "all"].set_index("group")
    assert rows["verdict"].to_dict() == {
        "B": "missing in generated",
        "B cell": "missing in real",
        "NK": "too small",
        "T": "within floor",
    }
    assert rows.loc[["B", "B cell", "NK"], ["generated", "floor", "baseline"]].isna().all(axis=None)
    assert rows.loc["NK", "n_cells"] < 30
    assert by_metric(table).loc["lfc_slope", "verdict"] == "undefined"
    assert any("lfc_slope" in note for note in table.attrs["notes"])
    assert any("change type" in note for note in table.attrs["notes"])


def test_group_that_training_cells_lack_has_a_floor_all_the_same(train):
    real, generated = simulate(800, seed=1), simulate(800, seed=3)
    table = run(real, generated, train=train[train.obs["cell_type"] != "T"], groupby="cell_type", metrics=ONE)
    row = table.set_index("group").loc["T"]
    assert row["verdict"] == "within floor"
    assert row["n_cells"] == pytest.approx((real.obs["cell_type"] == "T").sum() / 2, rel=0.3)


def test_cells_without_a_type_count_as_cells(real):
    generated = simulate(200, seed=3)
    generated.obs["cell_type"] = generated.obs["cell_type"].where(np.arange(200) % 2 == 0).astype("category")
    table = run(real, generated, groupby="cell_type", metrics=ONE)
    assert by_metric(table)["n_cells"].item() == 400 // 3
    assert set(table["group"]) == {"all", *TYPES}


def test_without_baseline(real):
    table = run(real, shuffled(simulate(400, seed=3), seed=4), baseline=False, metrics=ONE)
    assert table["baseline"].isna().all()
    assert table["verdict"].item() == "worse than floor"


def test_identical_generated_cells_do_not_stop_the_evaluation(real):
    generated = AnnData(real.X[np.zeros(400, int)], var=real.var)
    table = run(real, generated, metrics=[*FAST, "density", "coverage", "recall", "lisi", "one_nn_accuracy"])
    assert (table["verdict"] != "within floor").all()


def test_celltypist_accuracy(real, train):
    generated = simulate(400, seed=3)
    kwargs = {"train": train, "groupby": "cell_type", "metrics": "celltypist_accuracy", "n_splits": 2}
    assert run(real, generated, **kwargs)["generated"].item() > 0.8
    generated.obs["cell_type"] = np.random.default_rng(0).permutation(generated.obs["cell_type"])
    assert run(real, generated, **kwargs)["generated"].item() < 0.6


def test_other_tools_cells_of_real_data():
    adata = scd.datasets.pbmc68k_reduced()
    table = run(adata[::2], adata[1::2], layer="counts", groupby="bulk_labels", metrics=FAST)
    assert (by_metric(table)["verdict"] == "within floor").mean() >= 0.8
    assert "too small" in set(table["verdict"])


def test_example():
    failed, _ = doctest.testmod(importlib.import_module("scdiffusion.tl._evaluate"))
    assert failed == 0
