"""`tl.evaluate` reads cells of any origin, and names what is wrong with them."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from simulated_cells import ONE, TYPES, by_metric, log_normalised, run, simulate


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
