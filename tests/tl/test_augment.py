import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp

import scdiffusion as scd


@pytest.fixture(scope="module")
def model():
    adata = scd.datasets.pbmc68k_reduced()
    adata.obs["depth"] = np.log10(adata.obs["n_counts"].astype(float))
    scd.SCDiffusion.setup_anndata(
        adata, layer="counts", condition_keys=["bulk_labels", "phase"], continuous_condition_keys="depth"
    )
    model = scd.SCDiffusion(adata, n_latent=5, n_hidden=32, denoiser_hidden=32, condition_hidden=32)
    model.train(max_epochs=1, progress=False)
    return model


@pytest.fixture
def real(model):
    """Cells with log-normalised expression in X and many kinds of columns."""
    adata = model.adata.copy()
    adata.layers["scaled"] = adata.X
    adata.X = sp.csr_matrix(adata.layers["counts"], dtype=np.float32)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    adata.obs["flag"], adata.obs["number"], adata.obs["text"] = [True, False] * 350, 3, adata.obs_names
    adata.obs["long"] = 2**60 + np.arange(700)  # more digits than a float holds
    adata.raw = adata.copy()
    adata.obs["grade"] = pd.Categorical(["low", "high"] * 350, ["low", "high"], ordered=True)
    return adata


def test_real_cells_are_as_they_were(model, real, tmp_path):
    before = real.copy()
    both = scd.tl.augment(real, model, "bulk_labels", target={"CD34+": 40, "Dendritic": 250}, rng=0)
    assert set(real.obs) == set(before.obs) and set(real.uns) == set(before.uns)
    kept = both[: real.n_obs]
    assert not kept.obs["synthetic"].any() and both.obs["synthetic"].sum() == both.n_obs - real.n_obs == 27 + 10
    assert list(kept.obs_names) == list(real.obs_names) and both.obs_names.is_unique
    assert both.obs[["flag", "number", "long"]].dtypes.astype(str).tolist() == ["boolean", "Int64", "Int64"]
    for name in real.obs:
        assert (kept.obs[name] == real.obs[name]).all(), name
    assert kept.obs["grade"].cat.ordered and isinstance(both.obs["bulk_labels"].dtype, pd.CategoricalDtype)
    assert list(both.obs["bulk_labels"].cat.categories) == list(real.obs["bulk_labels"].cat.categories)
    for name in ("counts", "scaled"):
        assert np.array_equal(_dense(kept.layers[name]), _dense(real.layers[name]))
    assert (kept.X != real.X).nnz == 0 and kept.var.equals(real.var)
    assert np.array_equal(kept.obsm["X_pca"], real.obsm["X_pca"]) and "pca" in both.uns
    assert set(both.obsp) == set(real.obsp) == {"connectivities", "distances"}
    for name, edges in real.obsp.items():
        assert (kept.obsp[name] != edges).nnz == 0 and both.obsp[name][real.n_obs :].nnz == 0
    assert both.raw is None and real.raw is not None
    both.write_h5ad(tmp_path / "both.h5ad")
    read = ad.read_h5ad(tmp_path / "both.h5ad")
    assert read.obs["synthetic"].sum() == 37 and read.obs["long"].equals(both.obs["long"])


def test_synthetic_cells_have_expression_conditions_and_gaps(model, real):
    both = scd.tl.augment(real, model, "bulk_labels", target={"CD34+": 40}, rng=0)
    new = both[both.obs["synthetic"].to_numpy()]
    assert (new.obs["bulk_labels"] == "CD34+").all()
    assert new.obs[["flag", "number", "text", "grade", "louvain"]].isna().all(axis=None)
    assert np.isnan(new.layers["scaled"]).all() and np.isnan(new.obsm["X_pca"]).all()
    counts = new.layers["counts"]
    assert sp.issparse(counts) == sp.issparse(real.layers["counts"]) and counts.dtype == real.layers["counts"].dtype
    assert counts.sum() > 0 and (_dense(counts) % 1 == 0).all()
    expected = ad.AnnData(sp.csr_matrix(counts, dtype=np.float32))
    sc.pp.normalize_total(expected, target_sum=real.X.expm1().sum(1).mean())
    sc.pp.log1p(expected)
    np.testing.assert_allclose(_dense(new.X), _dense(expected.X), atol=1e-3)


def test_other_conditions_are_those_of_training_cells_of_the_category(model, real):
    real.obs["bulk_labels"] = real.obs["bulk_labels"].astype(str)
    both = scd.tl.augment(real[:300], model, "bulk_labels", target={"CD34+": 200}, rng=0)
    new = both.obs[both.obs["synthetic"]]
    trained = model.adata.obs[model.adata.obs["bulk_labels"] == "CD34+"]
    assert set(zip(new["phase"], new["depth"], strict=True)) <= set(
        zip(trained["phase"], trained["depth"], strict=True)
    )
    shares = (frame["phase"].astype(str).value_counts(normalize=True) for frame in (new, trained))
    pd.testing.assert_series_equal(*shares, check_names=False, atol=0.03)
    without = scd.tl.augment(real[:300, :].copy(), model, "phase", rng=0)
    del real.obs["phase"]
    assert "phase" not in scd.tl.augment(real[:300], model, "bulk_labels", target={"CD34+": 9}, rng=0).obs
    assert without.obs["phase"].value_counts().nunique() == 1


@pytest.mark.parametrize("target", ["max", 240])
def test_all_categories_grow(model, real, target):
    both = scd.tl.augment(real, model, "bulk_labels", target=target, n_steps=2, rng=0)
    assert set(both.obs["bulk_labels"].value_counts()) == {240}
    again = scd.tl.augment(both, model, "bulk_labels", target={"CD34+": 241}, n_steps=2, rng=0)
    assert again.obs["synthetic"].sum() == both.obs["synthetic"].sum() + 1 and again.obs_names.is_unique
    assert again.uns["scdiffusion"]["n_steps"] == 2
    assert scd.tl.augment(both, model, "bulk_labels", target=target).n_obs == both.n_obs


@pytest.mark.parametrize("kind", ["category", "bool", "int64", "object"])
def test_categories_that_are_no_strings(real, kind):
    real.obs["treated"] = pd.Series(np.arange(700) % 3 == 0, real.obs_names).astype(
        "int64" if kind == "int64" else "bool"
    )
    real.obs["treated"] = real.obs["treated"].astype(kind)
    scd.SCDiffusion.setup_anndata(real, layer="counts", condition_keys=["bulk_labels", "treated"])
    model = scd.SCDiffusion(real, n_latent=3, n_hidden=16, denoiser_hidden=16, condition_hidden=16)
    model.train(max_epochs=1, progress=False)
    before = real.obs["treated"]
    both = scd.tl.augment(real, model, "bulk_labels", target={"CD34+": 60}, n_steps=2, rng=0)
    assert both.obs["treated"].dtype == before.dtype and both.obs["treated"][:700].equals(before)
    assert set(both.obs["treated"][700:].map(type)) == set(before.map(type))
    assert set(both.obs["treated"][700:]) == {True, False}


def test_unlabelled_cells_stay_and_repeats(model, real):
    real.obs.iloc[:50, real.obs.columns.get_loc("bulk_labels")] = np.nan
    a, b = (scd.tl.augment(real, model, "bulk_labels", target={"CD34+": 30}, rng=1) for _ in range(2))
    assert a.obs["bulk_labels"].isna().sum() == 50 and (a.X != b.X).nnz == 0


def test_counts_alone_in_another_order(model, real):
    cells = ad.AnnData(real.layers["counts"], obs=real.obs[["bulk_labels"]], var=real.var)[:, ::-1].copy()
    cells.layers["counts"] = cells.X
    both = scd.tl.augment(cells, model, "bulk_labels", target={"CD34+": 60}, rng=0)
    straight = scd.tl.augment(real, model, "bulk_labels", target={"CD34+": 60}, rng=0)
    assert np.array_equal(_dense(both.X[-40:]), _dense(straight.layers["counts"])[-40:, ::-1])
    assert set(both.obs) == {"bulk_labels", "synthetic"}


def test_a_model_of_log_normalised_expression_fills_what_is_log_normalised(real):
    scd.SCDiffusion.setup_anndata(real, layer="counts", condition_keys="phase")
    sizes = {"n_latent": 8, "n_hidden": 16, "denoiser_hidden": (8,), "condition_hidden": 16, "keep_top": "none"}
    model = scd.SCDiffusion(real, "scld", **sizes)
    model.train(max_epochs=1, progress=False)
    new = scd.tl.augment(real, model, "phase", target={"S": 200}, n_steps=3, rng=0)[real.n_obs :]
    assert np.isnan(_dense(new.layers["counts"])).all() and np.isfinite(_dense(new.X)).all()
    real.X = real.layers["counts"]
    with pytest.raises(ValueError, match=r"log-normalised.*sc\.pp\.log1p"):
        scd.tl.augment(real, model, "phase", target={"S": 200})


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"key": "bulk_label"}, "Did you mean 'bulk_labels'"),
        (None, {"key": "depth"}, "categorical condition 'depth'"),
        (None, {"target": {"cd34+": 100}}, r"Did you mean 'CD34\+'"),
        (None, {"target": {"Dendritic": 10}}, "10 cells of 'Dendritic', but adata has 240.*240 or more"),
        (None, {"target": 100}, "100 cells of 'CD14"),
        (None, {"target": "largest"}, "target must be 'max'"),
        (None, {"target": {"CD34+": 20.5}}, "target must be"),
        (lambda a: a[:, :50].copy(), {}, r"50 genes.*adata\[:, model.var_.index\]"),
        (lambda a: a.obs.rename(columns={"bulk_labels": "type"}), {}, "no column 'bulk_labels'"),
    ],
)
def test_mistakes_say_what_to_type(model, real, change, arguments, message):
    changed = real if change is None else change(real)
    if isinstance(changed, pd.DataFrame):
        real.obs = changed
        changed = real
    with pytest.raises(ValueError, match=message):
        scd.tl.augment(changed, model, **{"key": "bulk_labels", **arguments})


def test_an_unknown_category_among_the_cells(model, real):
    real.obs["bulk_labels"] = real.obs["bulk_labels"].cat.rename_categories({"Dendritic": "Dendritic cell"})
    with pytest.raises(ValueError, match="Did you mean 'Dendritic'"):
        scd.tl.augment(real, model, "bulk_labels")


def _dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
