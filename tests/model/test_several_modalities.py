"""What a model does with RNA, proteins and ATAC of the same cells that it does with RNA alone."""

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from strictness import warnings_are_errors

import scdiffusion as scd

# Where tests make or slice a MuData; generating does not warn of it.
pytestmark = pytest.mark.filterwarnings("ignore:From 0.4 .update:FutureWarning")

N_FEATURES = {"rna": 60, "adt": 10, "atac": 40}
MODALITIES = {"rna_layer": "rna", "protein_layer": "adt", "atac_layer": "atac"}
SMALL = {
    "n_latent": {"rna": 4, "adt": 4, "atac": 3},
    "n_hidden": 32,
    "denoiser_hidden": 64,
    "denoiser_layers": 2,
    "condition_hidden": 32,
}


def measure(n_cells: int = 500) -> mudata.MuData:
    """Cells of two types and two doses, which change all modalities; ATAC is ten times as deep in the second half."""
    rng = np.random.default_rng(0)
    cell_type, dose = rng.integers(2, size=(2, n_cells))
    obs = pd.DataFrame(
        {"cell_type": pd.Categorical(np.array(["T", "B"])[cell_type]), "dose": pd.Categorical(dose.astype(str))},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    depth = {"rna": 10.0, "adt": 100.0, "atac": np.where(np.arange(n_cells) < n_cells // 2, 2.0, 20.0)[:, None]}
    parts = {}
    for name, n in N_FEATURES.items():
        logs = rng.normal(0, 0.5, n) + rng.normal(0, 0.2, (n_cells, 1)) * np.linspace(-1, 1, n)
        logs[:, : n // 4] += 2.0 * cell_type[:, None]
        logs[:, n // 4 : n // 2] += 1.5 * dose[:, None]
        counts = rng.poisson(depth[name] * np.exp(logs)).astype(np.float32)
        var = pd.DataFrame(index=[f"{name}{i}" for i in range(n)])
        parts[name] = ad.AnnData(sp.csr_matrix(counts), obs[[]].copy(), var)
    mdata = mudata.MuData(parts)
    mdata.obs = obs
    return mdata


@pytest.fixture(scope="module")
def mdata():
    return measure()


@pytest.fixture(scope="module")
def model(mdata):
    """A model that has not seen the B cells of the high dose."""
    seen = ~((mdata.obs["cell_type"] == "B") & (mdata.obs["dose"] == "1"))
    cells = mdata[seen.to_numpy()].copy()
    scd.SCDiffusion.setup_mudata(cells, modalities=MODALITIES, condition_keys=["cell_type", "dose"])
    model = scd.SCDiffusion(cells, **SMALL)
    model.train(max_epochs={"autoencoder": 10, "diffusion": 15}, progress=False)
    model.train_scorer(max_epochs=2, progress=False)
    return model


@pytest.fixture(scope="module")
def with_protein(mdata):
    """A model of the same RNA and proteins, these in `obsm` of an AnnData."""
    adata = mdata["rna"].copy()
    adata.obs = mdata.obs.copy()
    adata.obsm["protein"] = mdata["adt"].to_df().astype(int)
    scd.SCDiffusion.setup_anndata(adata, condition_keys="cell_type", batch_key="dose", protein_obsm_key="protein")
    model = scd.SCDiffusion(adata, **SMALL | {"n_latent": {"rna": 4, "protein": 4}})
    model.train(max_epochs=2, progress=False)
    return model


def totals(cells: mudata.MuData, name: str) -> np.ndarray:
    return np.asarray(cells[name].X.sum(1)).ravel()


def assert_same(cells: mudata.MuData, expected: mudata.MuData) -> None:
    for name in N_FEATURES:
        assert (cells[name].X != expected[name].X).nnz == 0
    pd.testing.assert_frame_equal(cells.obs, expected.obs)


def test_every_modality_has_its_own_library_sizes(model):
    assert model.module.n_library == 2  # none of proteins
    drawn, shallow = (model.generate(200, rng=0, library_size=size) for size in (None, {"rna": 100}))
    assert np.median(totals(shallow, "rna")) == pytest.approx(100, rel=0.1)
    assert np.median(totals(drawn, "rna")) > 400
    depth = np.log(totals(shallow, "atac"))
    assert np.corrcoef(depth, np.log(totals(drawn, "atac")))[0, 1] > 0.9  # still drawn, and as before
    assert (depth < np.log(300)).any() and (depth > np.log(700)).any()


def test_generates_without_a_warning(model):
    with warnings_are_errors():
        cells = model.generate(5, rng=0)
    assert list(cells.mod) == list(N_FEATURES) and all(cells[name].X.dtype == np.int32 for name in N_FEATURES)


def test_library_sizes_reach_the_scorer_and_the_shifts(model):
    columns = {modality.name: of for modality, of in model._columns()}
    expression = model._expression().take(np.arange(20))
    features = model._scored_features(expression, None)
    assert features.shape[1] == model.module.n_features + 2 == model.module.scorer.mean.shape[0]
    for position, name in enumerate(("rna", "atac")):
        part = expression[:, columns[name]]
        detected = torch.from_numpy(np.log1p(part.getnnz(1))).float()
        torch.testing.assert_close(features[:, model.module.n_features + position], detected)
        standardised = features[:, model.module.autoencoder.n_latent + position]
        assert np.corrcoef(standardised, np.log(np.asarray(part.sum(1)).ravel()))[0, 1] > 0.999
    assert model.combination_means_["means"].shape == (3, model.module.n_features)


def test_cells_are_selected(model):
    cells = model.generate(40, {"cell_type": "T"}, keep_top=0.5, rng=0)
    assert cells.uns["scdiffusion"]["kept_fraction"] == 0.5 and cells.obs["realness"].between(0, 1).all()
    assert list(cells["adt"].obs["realness"]) == list(cells.obs["realness"])
    assert (
        cells.obs["realness"].mean() > model.generate(40, {"cell_type": "T"}, keep_top=1, rng=0).obs["realness"].mean()
    )


def test_an_unseen_combination_is_shifted_in_all_modalities(model, mdata):
    with pytest.warns(UserWarning, match="shifted by what that changes"):
        cells = model.generate(200, {"cell_type": "B", "dose": "1"}, rng=0)
    real = mdata[((mdata.obs["cell_type"] == "B") & (mdata.obs["dose"] == "1")).to_numpy()]
    for name in N_FEATURES:
        means = [part[name].X.toarray() / totals(part, name)[:, None] for part in (cells, real, model.adata)]
        generated, unseen, trained = (np.log(part.mean(0)) for part in means)
        assert np.corrcoef(generated - trained, unseen - trained)[0, 1] > 0.8


def test_refined_and_encoded_cells_stay_themselves(model, mdata):
    some = mdata[::10].copy()
    refined = model.refine(some, level=0.1, rng=0)
    assert list(refined.obs_names) == list(some.obs_names)
    for name in ("rna", "atac"):
        assert np.corrcoef(np.log(totals(refined, name)), np.log(totals(some, name)))[0, 1] > 0.9
    latents = model.get_latent_representation(some)
    decoded = model.decode(latents, library_size={"atac": 50})
    drawn = model.posterior_predictive_sample(some)
    for name, n in N_FEATURES.items():
        assert decoded[name].shape == drawn[name].shape == (50, n)
        assert np.corrcoef(decoded[name].mean(0), some[name].X.toarray().mean(0))[0, 1] > 0.9
    np.testing.assert_allclose(decoded["atac"].sum(1), 50, rtol=1e-3)


def test_a_saved_model_draws_the_same_cells(model, tmp_path):
    model.save(tmp_path / "model", save_anndata=True)
    expected = model.generate(20, rng=0, keep_top=0.5)
    for adata in (None, False):
        loaded = scd.SCDiffusion.load(tmp_path / "model", adata)
        assert_same(loaded.generate(20, rng=0, keep_top=0.5), expected)
    with pytest.raises(ValueError, match="genes"):
        scd.SCDiffusion.load(tmp_path / "model", model.adata[:, : -N_FEATURES["atac"]].copy())


def test_cells_come_under_other_conditions_in_all_modalities(model, mdata):
    low = mdata[((mdata.obs["cell_type"] == "T") & (mdata.obs["dose"] == "0")).to_numpy()].copy()
    high = scd.tl.counterfactual(model, low, {"dose": "1"}, rng=0)
    assert list(high.obs_names) == list(low.obs_names) and set(high.obs["dose"]) == {"1"}
    states = scd.tl.interpolate(model, mdata, "dose", "0", "1", n_states=3, n_cells=40, rng=0)
    last = states[(states.obs["state"] == 2).to_numpy()]
    for name, n in N_FEATURES.items():
        for cells, at_least in ((high, 1.2), (last, 1.1)):
            share = [part[name].X[:, n // 4 : n // 2].sum() / part[name].X.sum() for part in (cells, low)]
            assert share[0] > at_least * share[1]


def test_modalities_are_judged_one_by_one(model, mdata):
    cells = model.generate(200, "observed", rng=0)
    table = scd.tl.evaluate(mdata, cells, metrics=["gene_correlation_error", "mmd_unbiased"], rng=0)
    assert np.isfinite(table["generated"]).all()


def test_proteins_in_obsm_come_back_there(with_protein):
    model, adata = with_protein, with_protein.adata
    cells = model.generate(30, {"cell_type": {"T": 10, "B": 20}}, rng=0)
    assert list(cells.obsm["protein"].columns) == list(adata.obsm["protein"].columns)
    refined = model.refine(adata[:20], level=0.1, rng=0)
    before = adata[:20].obsm["protein"].to_numpy().ravel()
    assert np.corrcoef(refined.obsm["protein"].to_numpy().ravel(), before)[0, 1] > 0.8
    n_cells = adata.obs["cell_type"].value_counts().max() + 5
    more = scd.tl.augment(adata, model, "cell_type", target=n_cells, rng=0)
    assert more.n_obs == 2 * n_cells and not more.obsm["protein"].isna().any(axis=None)


def test_expression_beside_proteins_may_lie_in_a_file(with_protein, tmp_path):
    adata = with_protein.adata.copy()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    expected = with_protein.get_latent_representation(adata)
    np.testing.assert_allclose(with_protein.get_latent_representation(backed), expected, atol=1e-5)


def test_says_what_to_do_about_what_is_for_one_modality(model, with_protein, mdata, tmp_path):
    with pytest.raises(ValueError, match="rna, adt, atac. Leave output out"):
        model.generate(5, output=tmp_path / "cells.zarr")
    with pytest.raises(ValueError, match="rna, protein. Leave output out"):
        with_protein.generate(5, output=tmp_path / "cells.h5ad")
    with pytest.raises(TypeError, match="mudata.concat"):
        scd.tl.augment(mdata, model, "cell_type")
    with pytest.raises(ValueError, match=r"dict by modality.*'rna'.*'atac'"):
        model.generate(5, library_size=1000)
    with pytest.raises(ValueError, match="'adt' is no modality with a library size"):
        model.generate(5, library_size={"adt": 1000})
    with pytest.raises(TypeError, match="set up with a MuData; got AnnData"):
        model.get_latent_representation(mdata["rna"])
    halves = mdata.copy()
    halves["atac"].X = halves["atac"].X / 2
    for method in (model.get_latent_representation, model.refine):
        with pytest.raises(ValueError, match=r"mdata\['atac'\].X holds"):
            method(halves)
    with pytest.raises(ValueError, match="only a model of RNA alone"):
        model.generate(5, {"cell_type": mdata["rna"]})
