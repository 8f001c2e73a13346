import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import scdiffusion as scd
from scdiffusion import metrics

HELD_OUT = "CD56+ NK"


@pytest.fixture(scope="module")
def cells_of():
    """Cells of a type, with counts in a layer."""
    adata = scd.datasets.pbmc68k_reduced()
    return lambda name: adata[adata.obs["bulk_labels"] == name].copy()


@pytest.fixture(scope="module")
def model():
    """Knows categories by their mean expression, and never saw one of the types."""
    adata = scd.datasets.pbmc68k_reduced()
    adata = adata[adata.obs["bulk_labels"] != HELD_OUT].copy()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
    model = scd.SCDiffusion(
        adata, n_latent=8, denoiser_hidden=64, condition_encoder="mean_expression", condition_hidden=32
    )
    model.train(max_epochs={"autoencoder": 20, "diffusion": 15}, progress=False)
    return model


def mean_of(cells: AnnData) -> np.ndarray:
    counts = cells.layers["counts"] if "counts" in cells.layers else cells.X
    return np.asarray(metrics.log_normalise(sp.csr_matrix(counts)).mean(0)).ravel()


def distance(a: AnnData, b: AnnData) -> float:
    return float(np.linalg.norm(mean_of(a) - mean_of(b)))


def test_profiles_are_the_means_of_the_cells(model):
    encoder, adata = model.module.denoiser.condition_encoder, model.adata
    np.testing.assert_allclose(encoder.overall, mean_of(adata), rtol=1e-4, atol=1e-5)
    types = model.composition.categories["bulk_labels"]
    means = np.stack([mean_of(adata[adata.obs["bulk_labels"] == name]) for name in types])
    seen = encoder.inputs_of(torch.from_numpy(means).float())
    np.testing.assert_allclose(encoder.profiles_0, seen, rtol=1e-3, atol=1e-3)


def test_cells_follow_their_category(model, cells_of):
    """Between the categories' means, generated cells are nearest to the one they were asked to be."""
    names = ("CD19+ B", "CD14+ Monocyte", "Dendritic")
    for name in names:
        generated = model.generate(80, {"bulk_labels": name}, rng=0)
        assert min(names, key=lambda other: distance(generated, cells_of(other))) == name


@pytest.mark.parametrize("form", ["cells", "examples", "series", "shuffled series with further genes"])
def test_profile_of_a_trained_type_gives_that_type(model, cells_of, form):
    profile = cells_of("CD14+ Monocyte")
    if form.endswith("series") or form.startswith("shuffled"):
        profile = pd.Series(mean_of(profile), index=profile.var_names)
    if form.startswith("shuffled"):
        profile = pd.concat([profile.sample(frac=1, random_state=0), pd.Series({"elsewhere": 3.0})])
    compose = "shift" if form == "examples" else "joint"
    given = model.generate(60, {"bulk_labels": profile, "phase": "G1"}, compose=compose, rng=0)
    named = model.generate(60, {"bulk_labels": "CD14+ Monocyte", "phase": "G1"}, rng=0)
    np.testing.assert_allclose(given.obsm["X_scdiffusion"], named.obsm["X_scdiffusion"], atol=0.05)
    assert given.obs["bulk_labels"].isna().all() and (given.obs["phase"] == "G1").all()
    assert given.uns["scdiffusion"]["profiles"] == ["bulk_labels"] and "profiles" not in named.uns["scdiffusion"]


def test_profile_of_an_unseen_type_moves_cells_towards_it(model, cells_of):
    """Ten cells of the type that was held out say more than nothing does."""
    unseen = cells_of(HELD_OUT)
    few = model.generate(100, {"bulk_labels": unseen[:10].copy()}, compose="joint", rng=0)
    rest = unseen[10:].copy()
    assert distance(few, rest) < 0.9 * distance(model.generate(100, rng=0), rest)


def test_cells_are_refined_towards_a_profile(model, cells_of):
    start, profile = cells_of("CD14+ Monocyte")[:40].copy(), cells_of("CD19+ B")
    given = model.refine(start, 1.0, obs_conditions={"bulk_labels": profile}, rng=0)
    named = model.refine(start, 1.0, obs_conditions={"bulk_labels": "CD19+ B"}, rng=0)
    np.testing.assert_allclose(given.obsm["X_scdiffusion"], named.obsm["X_scdiffusion"], atol=0.05)


def test_profiles_are_forgotten_after_the_call(model, cells_of):
    before = model.generate(20, {"phase": "S"}, rng=0)
    model.generate(5, {"bulk_labels": cells_of(HELD_OUT)}, rng=0)
    assert np.array_equal(model.generate(20, {"phase": "S"}, rng=0).X.data, before.X.data)


def test_saved_model_knows_its_profiles_and_reads_new_ones(model, cells_of, tmp_path):
    model.save(tmp_path / "model")
    loaded = scd.SCDiffusion.load(tmp_path / "model")
    for request in ({"bulk_labels": "CD34+"}, {"bulk_labels": cells_of(HELD_OUT)}):
        expected = model.generate(20, request, rng=0)
        assert (loaded.generate(20, request, rng=0).X != expected.X).nnz == 0


def test_loading_with_cells_of_one_type_keeps_the_profiles(model, cells_of, tmp_path):
    model.save(tmp_path / "model")
    loaded = scd.SCDiffusion.load(tmp_path / "model", cells_of("Dendritic"))
    expected = model.generate(20, {"bulk_labels": "CD34+"}, rng=0)
    assert (loaded.generate(20, {"bulk_labels": "CD34+"}, rng=0).X != expected.X).nnz == 0


def test_guidance_takes_a_profile(model, cells_of):
    request = {"bulk_labels": cells_of("CD19+ B")}
    plain = model.generate(60, request, rng=0)
    strong = model.generate(60, request, guidance="classifier_free", guidance_scale=2, rng=0)
    centre = model.generate(60, rng=0).obsm["X_scdiffusion"].mean(0)
    assert np.linalg.norm(strong.obsm["X_scdiffusion"].mean(0) - centre) > np.linalg.norm(
        plain.obsm["X_scdiffusion"].mean(0) - centre
    )


def test_a_series_of_categories_is_no_profile(model):
    asked = pd.Series(["CD34+", "Dendritic"], index=["cell_1", "cell_2"])
    assert model.generate(obs_conditions={"bulk_labels": asked}, rng=0).obs["bulk_labels"].tolist() == asked.tolist()


def series(cells):
    return pd.Series(mean_of(cells), index=cells.var_names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cells: cells[:, 5:].copy(), "lacks 5 of the model's 765 genes: 'HES4'"),
        (lambda cells: series(cells)[:-1], "lacks 1 of the model's 765 genes"),
        (lambda cells: pd.concat([series(cells), series(cells)[:2]]), "names genes twice: 'HES4', 'TNFRSF4'"),
        (lambda cells: series(cells) - 1, "NaN, infinite or negative"),
        (lambda cells: series(cells).replace(0.0, np.nan).mask(lambda x: x > 1), "NaN, infinite or negative"),
        (lambda cells: series(cells) * 100, "ones above 30"),
        (lambda cells: AnnData(cells.X, cells.obs, cells.var), "has no 'counts'"),
        (lambda cells: AnnData(cells.X, cells.obs, cells.var, layers={"counts": cells.X}), "needs raw counts"),
    ],
)
def test_what_is_no_profile_of_the_models_genes(model, cells_of, change, message):
    with pytest.raises(ValueError, match=message):
        model.generate(5, {"bulk_labels": change(cells_of(HELD_OUT))})


def test_profile_of_no_condition(model, cells_of):
    with pytest.raises(ValueError, match="no condition 'organ'"):
        model.generate(5, {"organ": cells_of(HELD_OUT)})


def test_model_that_knows_names_only(trained, cells_of):
    cells = cells_of(HELD_OUT)
    for request in (cells, pd.Series(mean_of(cells), index=cells.var_names)):
        with pytest.raises(ValueError, match=r"compose='shift'.*condition_encoder='mean_expression'"):
            trained.generate(5, {"bulk_labels": request}, compose="joint")


def test_profile_of_the_batch(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels", batch_key="phase")
    model = scd.SCDiffusion(adata, n_latent=4, condition_encoder="mean_expression", denoiser_hidden=16)
    model.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="'phase' is the batch.*no profile"):
        model.generate(5, {"phase": adata})


def test_a_category_without_cells_has_no_mean(adata):
    adata.obs["bulk_labels"] = adata.obs["bulk_labels"].cat.add_categories("Platelet")
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    with pytest.raises(ValueError, match=r"'Platelet' of 'bulk_labels'.*remove_unused_categories"):
        scd.SCDiffusion(adata, n_latent=4, condition_encoder="mean_expression")
