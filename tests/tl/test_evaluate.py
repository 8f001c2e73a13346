"""`tl.evaluate` ranks generators, tells real cells from nothing, and names what is wrong with its input."""

import doctest
import importlib

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

import scdiffusion as scd
from scdiffusion.tl import evaluate

N_GENES, TYPES = 120, np.array(["B", "NK", "T"])
FAST = ["library_size", "gene_variance_error", "gene_correlation_error", "mmd_unbiased", "energy_distance", "knn_auc"]
ONE = ["energy_distance"]


def simulate(n_cells: int, seed: int, *, shift: float = 0.0) -> AnnData:
    """NB counts of cells of three types; gene programs and the library size correlate the genes within a type."""
    population = np.random.default_rng(123)
    log_mean = population.normal(0.3, 0.8, size=N_GENES) + population.normal(0, 0.8, size=(3, N_GENES))
    loadings = population.normal(0, 0.3, size=(4, N_GENES))
    log_shift = shift * population.normal(size=N_GENES)
    rng = np.random.default_rng(seed)
    types = rng.choice(3, size=n_cells, p=[0.5, 0.3, 0.2])
    log_rate = log_mean[types] + rng.normal(size=(n_cells, 4)) @ loadings + rng.normal(0, 0.3, size=(n_cells, 1))
    counts = rng.poisson(np.exp(log_rate + log_shift) * rng.gamma(4, 1 / 4, size=log_rate.shape))
    obs = pd.DataFrame({"cell_type": TYPES[types]}, index=[f"{seed}-{i}" for i in range(n_cells)])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs, pd.DataFrame(index=gene_names()))


def gene_names() -> list[str]:
    return [f"gene{i}" for i in range(N_GENES)]


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


def log_normalised(adata: AnnData) -> AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def run(real, generated, **kwargs) -> pd.DataFrame:
    return evaluate(real, generated, **({"progress": False, "metrics": FAST} | kwargs))


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["group"] == "all"].set_index("metric")


@pytest.fixture(scope="module")
def real() -> AnnData:
    return simulate(400, seed=1)


@pytest.fixture(scope="module")
def train() -> AnnData:
    return simulate(800, seed=2)


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


def test_copies_of_training_cells_are_noticed(real, train):
    table = by_metric(
        run(real, train, train=train, metrics=["energy_distance", "nearest_training_ratio", "membership_auc"])
    )
    assert table["verdict"].to_dict() == {
        "energy_distance": "within floor",
        "nearest_training_ratio": "worse than baseline",
        "membership_auc": "worse than baseline",
    }
    assert table.loc["nearest_training_ratio", "generated"] == 0
    assert table.loc["nearest_training_ratio", "floor"] == pytest.approx(1, abs=0.05)
    assert table.loc["membership_auc", "generated"] > 0.6


def test_copies_of_the_real_cells_themselves_are_pointed_out(real):
    table = run(real, real, metrics=["one_nn_accuracy", "energy_distance"], n_cells=60)
    assert not any("copies" in note for note in table.attrs["notes"])  # few of them meet their twin
    copies = real[np.repeat(np.arange(400), 3)]
    table = run(real, copies, train=simulate(800, seed=2), metrics=["one_nn_accuracy"])
    assert table["verdict"].item() == "within floor"
    assert any("one_nn_accuracy below 0.5" in note and "held out" in note for note in table.attrs["notes"])


@pytest.fixture(scope="module")
def donors() -> list[AnnData]:
    """Held-out and training cells of twelve and of ten donors, each with some programs of its own."""
    sides = []
    for seed, names in ((31, range(12)), (32, range(20, 30))):
        cells = simulate(600, seed=seed)
        cells.obs["donor"] = rows = np.random.default_rng(seed).choice(list(names), 600)
        factors = np.exp(np.stack([np.random.default_rng(name).normal(0, 0.5, N_GENES) for name in rows]))
        cells.X = sparse.csr_matrix(np.random.default_rng(seed).poisson(cells.X.toarray() * factors).astype(np.float32))
        sides.append(cells)
    return sides


def test_membership_by_donor(donors):
    heldout, train = donors
    kwargs = {"train": train, "donor_key": "donor", "metrics": ["membership_auc", "membership_auc_donors"]}
    table = by_metric(run(heldout, train, **kwargs))
    assert table.loc["membership_auc_donors", "generated"] == 1
    assert table.loc["membership_auc_donors", "verdict"] == "worse than baseline"
    # ten against six donors
    assert table.loc["membership_auc_donors", "floor_sd"] == pytest.approx(np.sqrt(17 / 1440))
    others = simulate(600, seed=33)
    fair = by_metric(run(heldout, others, **kwargs))
    assert fair.loc["membership_auc_donors", "verdict"] == "within floor"
    without = evaluate(heldout, others, train=train, metrics=None, n_cells=60, n_splits=2, progress=False)
    assert "membership_auc_donors" not in set(without["metric"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"train": None}, "pass train= with donor_key="),
        (lambda a, b: {"train": a[300:], "real": a[:300]}, "Donors of both real and train: '0', '1'.*whole donors"),
        (lambda a, b: {"real": a[a.obs["donor"] < 3]}, "at least four held-out donors .* real has 3, train 10"),
        (lambda a, b: {"real": without_donors(a)}, "2 cells of real have no donor"),
        (lambda a, b: {"donor_key": "patient"}, "real.obs has no column 'patient'"),
    ],
)
def test_bad_donors(donors, change, message):
    real, train = donors
    arguments = {"real": real, "generated": train, "train": train, "donor_key": "donor"} | change(real, train)
    with pytest.raises(ValueError, match=message):
        run(**arguments, metrics=ONE)


def without_donors(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.obs["donor"] = adata.obs["donor"].astype(float).where(np.arange(adata.n_obs) > 1)
    return adata


def test_donor_key_is_needed_by_name(real, train):
    with pytest.raises(ValueError, match="'membership_auc_donors' needs train and donor_key"):
        run(real, train, metrics="membership_auc_donors")


def test_numbered_types_are_the_same_as_integers_floats_and_categories(real):
    generated = simulate(300, seed=3)
    as_text = run(real, generated, groupby="cell_type", metrics=ONE)
    real, generated = real.copy(), generated.copy()
    codes = {name: i for i, name in enumerate(TYPES)}
    real.obs["cell_type"] = real.obs["cell_type"].map(codes)
    for kind in (float, "category"):
        other = generated.copy()
        other.obs["cell_type"] = other.obs["cell_type"].map(codes).astype(float).astype(kind)
        table = run(real, other, groupby="cell_type", metrics=ONE)
        assert table["group"].tolist() == ["all", "0", "1", "2"]
        assert table["verdict"].tolist() == as_text["verdict"].tolist()


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


def test_inputs_are_left_alone(real, train):
    generated = simulate(200, seed=3)
    before = [side.copy() for side in (real, generated, train)]
    run(real, generated, train=train, groupby="cell_type")
    for side, copy in zip((real, generated, train), before, strict=True):
        assert (side.X != copy.X).nnz == 0
        pd.testing.assert_frame_equal(side.obs, copy.obs)
        assert not side.uns and not side.obsm and not side.layers


def test_genes_are_matched_by_name(real):
    generated = simulate(200, seed=3)
    reordered = generated[:, ::-1].copy()
    pd.testing.assert_frame_equal(run(real, reordered), run(real, generated))
    fewer = run(real, generated[:, 20:], metrics=ONE)
    assert fewer.attrs["n_genes"] == 100
    assert "100 genes" in fewer.attrs["notes"][0]
    pd.testing.assert_frame_equal(fewer, run(real[:, 20:], generated[:, 20:], metrics=ONE))


def test_dense_and_sparse_agree(real):
    generated = simulate(200, seed=3)
    dense = AnnData(generated.X.toarray().astype(int), generated.obs, generated.var)
    pd.testing.assert_frame_equal(run(real, dense), run(real, generated))


@pytest.mark.parametrize("log_side", ["real", "generated", "both"])
def test_log_normalised_input(real, train, log_side):
    generated = simulate(400, seed=3)
    sides = [
        log_normalised(side) if log_side in (name, "both") else side
        for name, side in (("real", real), ("generated", generated))
    ]
    table = run(*sides, train=log_normalised(train) if log_side == "both" else train)
    assert "library_size" not in set(table["metric"])
    assert set(table["space"]) == {"log-normalised", "30 PCs fitted on train"}
    notes = " ".join(table.attrs["notes"])
    assert "metrics that need counts are left out" in notes
    assert "baseline" in notes
    if log_side != "both":
        assert "compared log-normalised (median total 10000 per cell" in notes
    on_counts = by_metric(run(real, generated, train=train)).loc["energy_distance"]
    # float32 rounding only: the same cells in the same space
    assert by_metric(table).loc["energy_distance", "generated"] == pytest.approx(on_counts["generated"], abs=1e-3)
    assert (table["verdict"] == "within floor").all()


def test_counts_meet_log_normalised_expression_of_some_genes(real):
    """Normalised over all genes, then subset: counts must go through the same steps."""
    table = run(real, log_normalised(simulate(300, seed=3))[:, 40:], metrics=["energy_distance", "logistic_auc"])
    assert (table["verdict"] == "within floor").all()


def test_layer(real):
    generated = simulate(200, seed=3)
    layered = AnnData(np.zeros(real.shape), real.obs, real.var, layers={"counts": real.X})
    table = run(layered, generated, layer="counts")
    pd.testing.assert_frame_equal(table, run(real, generated))
    assert table.attrs["notes"] == ["generated has no layer 'counts': its X was used."]


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


def with_value(adata: AnnData, value: float) -> AnnData:
    adata = adata.copy()
    adata.X[3, 4] = value
    return adata


def renamed(adata: AnnData, n_shared: int) -> AnnData:
    adata = adata.copy()
    adata.var_names = [name if i < n_shared else f"ENSG{i}" for i, name in enumerate(adata.var_names)]
    return adata


def with_twin_genes(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.var_names = ["gene0", *adata.var_names[:-1]]
    return adata


def with_types(adata: AnnData, types) -> AnnData:
    adata = adata.copy()
    adata.obs["cell_type"] = types
    return adata


@pytest.mark.filterwarnings("ignore:Changing the sparsity structure", "ignore:Variable names are not unique")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: {"generated": with_value(x, np.nan)}, r"generated.X holds NaN or infinite values in 1 of 100 cells"),
        (lambda x: {"generated": with_value(x, -1)}, r"generated.X holds negative values \(down to -1\)"),
        (lambda x: {"generated": with_value(x, 99.5)}, "generated holds neither counts nor log-normalised"),
        (lambda x: {"generated": x[:1]}, r"Too few cells to compare \(real has 400, generated has 1\)"),
        (lambda x: {"real": x[:1]}, "at least 90 real and 30 generated"),
        (lambda x: {"train": x[:40]}, "30 real, 60 training and 30 generated"),
        (lambda x: {"generated": renamed(x, 49)}, r"49 genes are shared by name \(real 120, generated 120\)"),
        (lambda x: {"generated": x[:, :30]}, r"30 genes are shared .*at least 50 are needed"),
        (lambda x: {"generated": x[:0]}, "generated has no cells"),
        (lambda x: {"train": x[:0]}, "train has no cells"),
        (
            lambda x: {"generated": with_types(x, "all"), "groupby": "cell_type"},
            r"generated.obs\['cell_type'\].* 'all'",
        ),
        (lambda x: {"generated": with_types(x, np.arange(100) / 7), "groupby": "cell_type"}, r"numbers \(100 .*pd.cut"),
        (lambda x: {"generated": with_twin_genes(x)}, r"genes of generated are not unique .*var_names_make_unique"),
        (lambda x: {"groupby": "celltype"}, r"real.obs has no column 'celltype'. Did you mean 'cell_type'"),
        (lambda x: {"groupby": "cell_type", "generated": AnnData(x.X, var=x.var)}, "generated.obs has no column"),
        (lambda x: {"metrics": ["knn_acu"]}, r"no metric 'knn_acu'. Did you mean 'knn_auc'"),
        (lambda x: {"metrics": ["lfc_slope"]}, "'lfc_slope' needs groupby: pass groupby="),
        (lambda x: {"metrics": ["celltypist_accuracy"]}, "needs groupby and train: pass groupby=..., train=..."),
        (lambda x: {"metrics": []}, "nothing to compute: metrics is empty"),
        (lambda x: {"metrics": ["library_size"], "generated": log_normalised(x)}, "'library_size' needs counts"),
        (lambda x: {"layer": "counts"}, "real.layers has no 'counts'"),
        (lambda x: {"n_splits": 1}, "n_splits must be at least 2"),
        (lambda x: {"n_cells": 5}, "n_cells must be at least 30"),
    ],
)
def test_bad_input(real, change, message):
    arguments = {"real": real, "generated": simulate(100, seed=3)}
    with pytest.raises(ValueError, match=message):
        run(**(arguments | change(arguments["generated"])))


def test_real_cells_that_were_trained_on(real, train):
    with pytest.raises(ValueError, match="200 of the 200 real cells are also in train"):
        run(train[:200], simulate(100, seed=3), train=train)
    numbered = [AnnData(side.X, var=side.var) for side in (real, train)]  # the same names by chance
    assert len(run(numbered[0], simulate(100, seed=3), train=numbered[1], metrics=ONE)) == 1


def test_not_an_anndata(real):
    with pytest.raises(TypeError, match="generated must be an AnnData, not ndarray"):
        run(real, real.X.toarray())


def test_example():
    failed, _ = doctest.testmod(importlib.import_module("scdiffusion.tl._evaluate"))
    assert failed == 0
