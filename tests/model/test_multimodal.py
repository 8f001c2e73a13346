"""Models of several modalities, from setup to what is saved."""

import mudata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scipy.stats import spearmanr

import scdiffusion as scd
from scdiffusion._compat import without_pulling
from scdiffusion.autoencoders import NegativeBinomialMixture

SMALL = {"n_hidden": 32, "denoiser_hidden": 64, "denoiser_layers": 2, "condition_hidden": 32}
NAMES = {"rna_layer": "rna", "protein_layer": "prot", "atac_layer": "peaks"}


def simulate(n_cells: int = 400, seed: int = 0) -> MuData:
    """Simulated cells of two types: genes, proteins of which the first follow the first genes, and sparse peaks."""
    rng = np.random.default_rng(seed)
    is_b = rng.integers(2, size=n_cells)
    signal = rng.normal(size=(n_cells, 1)) + 2.0 * is_b[:, None]
    genes = rng.poisson(rng.lognormal(0, 0.3, (n_cells, 1)) * np.exp(1 + 0.5 * signal * (np.arange(60) < 10)))
    proteins = rng.poisson(np.exp(3 + rng.normal(0, 0.3, (n_cells, 5)) + signal * (np.arange(5) < 2)))
    peaks = rng.poisson(rng.lognormal(0, 0.5, (n_cells, 1)) * np.exp(-2.5 + signal * (np.arange(80) < 8)))
    peaks[:, 0] += peaks.sum(1) == 0
    obs = pd.DataFrame(
        {"type": pd.Categorical(np.array(["A", "B"])[is_b]), "site": rng.choice(["x", "y"], n_cells)},
        index=[f"cell{i}" for i in range(n_cells)],
    )
    with without_pulling():
        mdata = MuData(
            {
                name: AnnData(sp.csr_matrix(X.astype(np.float32)), obs[[]], pd.DataFrame({"n": 1}, index=names))
                for name, X, names in (
                    ("rna", genes, [f"gene{i}" for i in range(60)]),
                    ("prot", proteins, [f"protein{i}" for i in range(5)]),
                    ("peaks", peaks, [f"chr1:{i}-{i + 1}" for i in range(80)]),
                )
            }
        )
    mdata.obs = obs
    return mdata


def setup(mdata: MuData, **kwargs) -> None:
    scd.SCDiffusion.setup_mudata(mdata, **{"modalities": NAMES, "condition_keys": "type", "batch_key": "site"} | kwargs)


@pytest.fixture(scope="module")
def trained() -> scd.SCDiffusion:
    mdata = simulate(800)
    setup(mdata)
    model = scd.SCDiffusion(mdata, **SMALL)
    model.train(max_epochs={"autoencoder": 8, "diffusion": 40}, progress=False)
    return model


@pytest.fixture(scope="module")
def generated(trained) -> MuData:
    return trained.generate(600, "observed", rng=0)


def test_generated_cells_are_a_mudata_like_the_one_trained_on(trained, generated):
    real = trained.adata
    assert isinstance(generated, MuData) and list(generated.mod) == list(real.mod)
    for name, part in generated.mod.items():
        assert part.X.dtype == np.int32 and part.X.format == "csr" and part.X.data.min() > 0
        pd.testing.assert_frame_equal(part.var, real[name].var)
        pd.testing.assert_frame_equal(part.obs, generated.obs)
        assert part.obs_names.equals(generated.obs_names)
    assert list(generated.obs) == ["type", "site"]
    assert generated.obs["type"].dtype == real.obs["type"].dtype
    assert generated.obsm["X_scdiffusion"].shape == (600, trained.module.autoencoder.n_latent)
    assert generated.uns["scdiffusion"]["values"] == "counts"


def test_generated_cells_are_written_and_read(generated, tmp_path):
    generated.write_h5mu(tmp_path / "cells.h5mu")
    read = mudata.read_h5mu(tmp_path / "cells.h5mu")
    assert (read["peaks"].X != generated["peaks"].X).nnz == 0
    assert read.uns["scdiffusion"]["library_size"] == "drawn"


def test_modalities_have_their_depth_and_belong_together(trained, generated):
    real = trained.adata
    for name in real.mod:
        totals = [np.log1p(np.asarray(m[name].X.sum(1)).ravel()) for m in (real, generated)]
        assert np.median(totals[1]) == pytest.approx(np.median(totals[0]), abs=0.15)
        assert totals[1].std() == pytest.approx(totals[0].std(), rel=0.3)

    def of_signal(mdata):
        parts = [np.asarray(mdata["rna"].X[:, :10].sum(1) / mdata["rna"].X[:, 10:].sum(1)).ravel()]
        parts += [mdata["prot"].X.toarray()[:, 0], np.asarray(mdata["peaks"].X[:, :8].sum(1)).ravel()]
        return spearmanr(np.column_stack(parts)).statistic[np.triu_indices(3, 1)]

    assert of_signal(real).min() > 0.5
    np.testing.assert_allclose(of_signal(generated), of_signal(real), atol=0.15)
    by_type = generated["prot"].X.toarray()[:, 0]
    is_b = (generated.obs["type"] == "B").to_numpy()
    assert np.median(by_type[is_b]) > 3 * np.median(by_type[~is_b])


def test_library_sizes_are_asked_for_by_modality(trained):
    cells = trained.generate(300, library_size={"rna": 1000, "peaks": np.repeat([20, 80], 150)}, rng=0)
    assert np.mean(cells["rna"].X.sum(1)) == pytest.approx(1000, rel=0.05)
    peaks = np.asarray(cells["peaks"].X.sum(1)).ravel()
    assert peaks[:150].mean() == pytest.approx(20, rel=0.1) and peaks[150:].mean() == pytest.approx(80, rel=0.1)
    other = trained.generate(300, library_size={"rna": 1000}, rng=0)
    assert np.asarray(other["peaks"].X.sum(1)).std() > 3
    for wrong, message in (
        (500, r"dict by modality, e.g. library_size=\{'rna': 2000, 'peaks': 2000\}"),
        ({"prot": 5}, "'prot' is no modality with a library size"),
        ({"rna": -1}, r"library_size\['rna'\] must hold positive"),
    ):
        with pytest.raises(ValueError, match=message):
            trained.generate(3, library_size=wrong)


def test_latents_are_joint_and_decoding_is_by_modality(trained):
    mdata = trained.adata
    latents = trained.get_latent_representation(indices=range(50))
    assert latents.shape == (50, trained.module.autoencoder.n_latent)
    expected = trained.decode(latents, library_size={"rna": 500}, batch="x")
    assert {name: x.shape for name, x in expected.items()} == {"rna": (50, 60), "prot": (50, 5), "peaks": (50, 80)}
    np.testing.assert_allclose(expected["rna"].sum(1), 500, rtol=1e-3)
    assert spearmanr(expected["prot"][:, 0], mdata["prot"].X.toarray()[:50, 0]).statistic > 0.8
    draws = trained.posterior_predictive_sample(n_samples=2, indices=range(50))
    assert {name: x.shape for name, x in draws.items()} == {
        "rna": (50, 60, 2),
        "prot": (50, 5, 2),
        "peaks": (50, 80, 2),
    }
    scd.tl.latent(mdata, trained)
    assert mdata.obsm["X_scdiffusion"].shape[0] == mdata.n_obs


@pytest.mark.slow  # the sparse package compiles its code
def test_posterior_draws_are_by_modality(trained):
    draws = trained.posterior_predictive_sample(n_samples=2, indices=range(50))
    assert {name: x.shape for name, x in draws.items()} == {
        "rna": (50, 60, 2),
        "prot": (50, 5, 2),
        "peaks": (50, 80, 2),
    }
    real = trained.adata["prot"].X.toarray()[:50, 0]
    assert spearmanr(draws["prot"].todense()[:, 0, 0], real).statistic > 0.8


def test_refined_cells_keep_what_they_are(trained):
    mdata = trained.adata[:60].copy()
    refined = trained.refine(mdata, 0.1, rng=0)
    assert isinstance(refined, MuData) and refined.obs_names.equals(mdata.obs_names)
    for name in ("prot", "rna"):
        before, after = (x[name].X.toarray()[:, 0] for x in (mdata, refined))
        assert spearmanr(before, after).statistic > 0.5
    shuffled = MuData({name: part[:, ::-1].copy() for name, part in mdata.mod.items()})
    shuffled.obs = mdata.obs
    again = trained.refine(shuffled, 0.1, rng=0)
    assert (again["prot"].X != refined["prot"].X).nnz == 0
    with pytest.raises(ValueError, match=r"mdata.mod has no 'peaks'"):
        trained.refine(MuData({"rna": mdata["rna"], "prot": mdata["prot"]}))
    with pytest.raises(TypeError, match="set up with a MuData; got AnnData"):
        trained.refine(mdata["rna"])


def test_a_saved_model_generates_the_same_cells(trained, generated, tmp_path):
    trained.save(tmp_path / "model", save_anndata=True)
    (tmp_path / "model" / "mdata.h5mu").rename(tmp_path / "mdata.h5mu")
    loaded = scd.SCDiffusion.load(tmp_path / "model")
    assert loaded.adata is None
    cells = loaded.generate(600, "observed", rng=0)
    for name in cells.mod:
        assert (cells[name].X != generated[name].X).nnz == 0
        pd.testing.assert_frame_equal(cells[name].var, generated[name].var)
    mdata = mudata.read_h5mu(tmp_path / "mdata.h5mu")
    with_data = scd.SCDiffusion.load(tmp_path / "model", mdata)
    np.testing.assert_array_equal(with_data.get_latent_representation(), trained.get_latent_representation())
    without = MuData({"rna": mdata["rna"], "prot": mdata["prot"]})
    with pytest.raises(ValueError, match="80 of the model's 145 genes are missing"):
        scd.SCDiffusion.load(tmp_path / "model", without)


def test_states_between_conditions_are_a_mudata(trained):
    states = scd.tl.interpolate(trained, trained.adata, "type", "A", "B", n_states=3, n_cells=40, rng=0)
    assert isinstance(states, MuData)
    medians = states["prot"].obs.assign(x=states["prot"].X.toarray()[:, 0]).groupby("state")["x"].median()
    assert medians.is_monotonic_increasing


@pytest.mark.parametrize("as_frame", [True, False])
def test_proteins_in_obsm_come_back_as_they_were_given(as_frame, tmp_path):
    mdata = simulate()
    adata = mdata["rna"].copy()
    adata.obs = mdata.obs.copy()
    proteins = mdata["prot"].to_df()
    adata.obsm["adt"] = proteins if as_frame else proteins.to_numpy()
    before = adata.obsm["adt"].copy()
    scd.SCDiffusion.setup_anndata(adata, condition_keys="type", protein_obsm_key="adt")
    model = scd.SCDiffusion(adata, **SMALL, likelihood={"adt": "nb_mixture"}, n_latent={"rna": 6})
    assert isinstance(model.module.autoencoder.likelihood.members[1][1], NegativeBinomialMixture)
    assert model.module.autoencoder.n_latent == 6 + 5
    model.train(max_epochs=1, progress=False)
    np.testing.assert_array_equal(np.asarray(adata.obsm["adt"]), np.asarray(before))
    model.save(tmp_path / "model")
    for each in (model, scd.SCDiffusion.load(tmp_path / "model")):
        cells = each.generate(20, {"type": "A"}, rng=0)
        assert isinstance(cells, AnnData) and cells.shape == (20, 60)
        made = cells.obsm["adt"]
        assert isinstance(made, pd.DataFrame if as_frame else np.ndarray)
        assert np.asarray(made).dtype == np.int32 and made.shape == (20, 5)
        if as_frame:
            assert list(made.columns) == list(proteins.columns) and made.index.equals(cells.obs_names)
    assert sorted(model.decode(model.get_latent_representation(indices=range(5)))) == ["adt", "rna"]
    assert model.refine(adata[:5].copy(), 0.1).obsm["adt"].shape == (5, 5)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    del adata.obsm["adt"]
    with pytest.raises(ValueError, match="adata.obsm has no 'adt'"):
        model.refine(adata)


def test_binary_peaks_stay_binary():
    mdata = simulate()
    mdata["peaks"].X.data[:] = 1
    setup(mdata, modalities={"atac_layer": "peaks"})
    model = scd.SCDiffusion(mdata, **SMALL, likelihood={"peaks": "bernoulli"})
    model.train(max_epochs=1, progress=False)
    cells = model.generate(200, rng=0)
    assert set(cells["peaks"].X.data) == {1}
    real = (
        mdata["peaks"].X.mean(0).A1 if hasattr(mdata["peaks"].X.mean(0), "A1") else np.ravel(mdata["peaks"].X.mean(0))
    )
    np.testing.assert_allclose(np.ravel(cells["peaks"].X.mean(0)), real, atol=0.15)


def broken(change) -> MuData:
    mdata = simulate()
    return change(mdata) or mdata


def put(name: str, value: float):
    def change(mdata):
        X = mdata[name].X.toarray()
        X[3, 1] = value
        mdata[name].X = X

    return change


def without_cells(mdata):
    with without_pulling():
        return MuData({"rna": mdata["rna"].copy(), "prot": mdata["prot"][30:].copy(), "peaks": mdata["peaks"].copy()})


def reordered(mdata):
    with without_pulling():
        return MuData({"rna": mdata["rna"], "prot": mdata["prot"][::-1].copy(), "peaks": mdata["peaks"]})


def moved_conditions(mdata):
    mdata["rna"].obs["kind"] = mdata.obs["type"].to_numpy()


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (without_cells, {}, r"30 of 400 cells are not in all modalities \(rna 400, prot 370, peaks 400; shared 370\)"),
        (reordered, {}, "cells in different orders"),
        (put("prot", -1), {}, r"mdata\['prot'\].X holds negative values.*pass protein_layer='counts'"),
        (put("prot", np.nan), {}, r"mdata\['prot'\].X holds NaN"),
        (put("prot", 0.5), {}, r"mdata\['prot'\].X holds non-integers"),
        (put("rna", 0.5), {}, r"mdata\['rna'\].X holds non-integers"),
        (None, {"modalities": None}, r"modalities must say which .* e.g. modalities=\{'rna_layer': 'rna'\}"),
        (None, {"modalities": {"rna_layer": "RNA"}}, "no modality 'RNA'. Did you mean 'rna'"),
        (None, {"modalities": {"rna_layer": "rna", "adt_layer": "prot"}}, "modalities has no 'adt_layer'"),
        (None, {"modalities": {"rna_layer": "rna", "protein_layer": "rna"}}, "the same modality twice"),
        (None, {"modalities": {"rna_layer": "rna"}, "protein_layer": "counts"}, "protein_layer is given, but"),
        (None, {"protein_layer": "raw"}, r"mdata\['prot'\].layers has no 'raw'"),
        (None, {"condition_keys": "typ"}, "mdata.obs has no column 'typ'. Did you mean 'type'"),
        (
            moved_conditions,
            {"condition_keys": "kind"},
            r"but mdata\['rna'\].obs has: pass modalities=.*'condition_keys'",
        ),
    ],
)
def test_bad_mudata_is_refused_with_what_to_type_instead(change, kwargs, message):
    mdata = broken(change) if change else simulate()
    with pytest.raises(ValueError, match=message):
        setup(mdata, **kwargs)


def test_the_remedy_for_cells_that_are_not_shared_works():
    mdata = without_cells(simulate())
    mdata.obs[["type", "site"]] = simulate().obs
    shared = [cell for cell in mdata.obs_names if cell in set(mdata["prot"].obs_names)]
    mdata = mdata[shared].copy()
    setup(mdata)


def test_conditions_may_be_in_a_modality():
    mdata = simulate()
    moved_conditions(mdata)
    names = {**NAMES, "condition_keys": "rna"}
    scd.SCDiffusion.setup_mudata(mdata, modalities=names, condition_keys="kind")
    model = scd.SCDiffusion(mdata, **SMALL)
    assert list(model.composition.categories["kind"]) == ["A", "B"]


@pytest.mark.parametrize(
    ("value", "message"),
    [(-1, "negative"), (np.nan, "NaN"), (0.5, "non-integers"), (None, r"adata.obsm has no 'adt'.*'protein'")],
)
def test_bad_proteins_in_obsm_are_refused(value, message):
    mdata = simulate()
    adata = mdata["rna"].copy()
    adata.obsm["protein"] = mdata["prot"].X.toarray()
    if value is not None:
        adata.obsm["protein"][2, 2] = value
        message = rf"adata.obsm\['protein'\] holds {message}"
    with pytest.raises(ValueError, match=message):
        scd.SCDiffusion.setup_anndata(adata, protein_obsm_key="protein" if value is not None else "adt")


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"preset": "scld"}, "preset='scld' is for models of RNA alone"),
        ({"autoencoder": "linear"}, "autoencoder='linear' is for models of RNA alone"),
        ({"condition_encoder": "mean_expression"}, "mean log-normalised RNA.*or set up an AnnData of the RNA alone"),
        (
            {"n_latent": 10},
            r"n_latent must be a dict by modality, e.g. n_latent=\{'rna': 10, 'prot': 10, 'peaks': 10\}",
        ),
        ({"likelihood": {"adt": "nb"}}, "likelihood names 'adt', which is no modality"),
    ],
)
def test_settings_of_rna_alone_are_refused(kwargs, message):
    mdata = simulate()
    setup(mdata)
    with pytest.raises(ValueError, match=message):
        scd.SCDiffusion(mdata, **kwargs)


def test_several_modalities_are_asked_of_data_that_has_one(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    with pytest.raises(ValueError, match="'multimodal' is for several modalities: .*setup_mudata"):
        scd.SCDiffusion(adata, autoencoder="multimodal")
    with pytest.raises(TypeError, match="mdata must be a MuData, not AnnData"):
        scd.SCDiffusion.setup_mudata(adata, modalities={"rna_layer": "rna"})
