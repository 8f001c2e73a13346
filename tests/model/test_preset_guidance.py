"""How conditions come into the papers' models: by classifiers, by the denoiser, by profiles and numbers."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import scdiffusion as scd
from scdiffusion import metrics

from .conftest import SMALL

#: Faster learning than the papers', for a model of seconds.
FAST = {
    "autoencoder_kwargs": {"lr": 3e-3},
    "diffusion_kwargs": {"lr": 3e-3, "ema_decay": 0.99},
    "classifier_kwargs": {"n_hidden": 64, "lr": 3e-3, "ema_decay": 0.99},
}
BOTH = {"condition_keys": ["bulk_labels", "phase"]}


@pytest.fixture(scope="module")
def published():
    """A small model with the settings of scDiffusion, trained for long enough to know types."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    sizes = {"n_latent": 16, "n_hidden": (64, 64), "denoiser_hidden": (128, 64), "condition_hidden": 64}
    model = scd.SCDiffusion(adata, "scdiffusion", **sizes)
    model.train({"autoencoder": 30, "diffusion": 20, "classifier": 8}, **FAST, progress=False)
    return model


@pytest.fixture(scope="module")
def accuracy():
    """Share of cells, log-normalised, of the type they were asked to be, told by a classifier of real cells."""
    adata = scd.datasets.pbmc68k_reduced()
    real, labels = metrics.log_normalise(adata.layers["counts"]), adata.obs["bulk_labels"].astype(str).to_numpy()
    return lambda cells: metrics.label_accuracy(real, labels, cells.X, cells.obs["bulk_labels"].astype(str).to_numpy())


def train(preset, setup, max_epochs=1, **overrides):
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", **setup)
    model = scd.SCDiffusion(adata, preset, **{**SMALL[preset], **overrides})
    model.train(max_epochs, progress=False)
    return model


def latents(model, *args, **kwargs):
    return model.generate(*args, n_steps=5, rng=0, **kwargs).obsm["X_scdiffusion"]


def test_training_scdiffusion_trains_its_classifiers(published):
    stages = published.history["classifier_bulk_labels_accuracy"].iloc[-1]
    assert stages["0.0-0.1"] > 0.6 and list(published.classifiers_) == ["bulk_labels"]


def test_real_cells_become_what_classifiers_guide_them_to(published, accuracy):
    monocytes = published.adata[published.adata.obs["bulk_labels"] == "CD14+ Monocyte"].copy()
    how = {"level": 0.5, "sampler": "dpmpp_2m", "rng": 0}
    asked = "observed", None, {"bulk_labels": "CD19+ B"}
    same, free, become = (published.refine(monocytes, obs_conditions=conditions, **how) for conditions in asked)
    free.obs["bulk_labels"] = become.obs["bulk_labels"]
    assert accuracy(become) > accuracy(free) + 0.3
    assert become.uns["scdiffusion"]["guidance"] == "classifier" and free.uns["scdiffusion"]["guidance"] == "none"
    assert not np.allclose(same.obsm["X_scdiffusion"], free.obsm["X_scdiffusion"])
    with pytest.raises(ValueError, match="sees no conditions, and nothing else brings in 'bulk_labels'"):
        published.refine(monocytes, guidance="none")


def test_classifiers_bring_in_what_the_unconditional_denoiser_does_not_see(published, accuracy):
    x, t = torch.randn(3, 16), torch.full((3,), 400)
    seen = [
        published.module.estimate(x, t, published.module.conditions(torch.full((3, 1), code), torch.empty(3, 0)))
        for code in (-1, 0, 5)
    ]
    assert torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    cells = published.generate(obs_conditions="observed", n_steps=50, rng=0)
    assert accuracy(cells) > 0.6  # by chance 0.23
    assert cells.uns["scdiffusion"]["guidance"] == "classifier"
    assert cells.uns["scdiffusion"]["guidance_scale"] == 2.0
    assert cells.uns["scdiffusion"]["guidance_interval"] == [0.0, 0.5]
    named = published.generate(obs_conditions="observed", guidance="classifier", n_steps=50, rng=0)
    assert np.array_equal(named.X.data, cells.X.data)


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m", "euler"])
def test_classifiers_guide_with_every_sampler(published, accuracy, sampler):
    cells = published.generate(obs_conditions="observed", sampler=sampler, n_steps=30, rng=0)
    assert accuracy(cells) > 0.5


def test_nothing_asked_is_unconditional(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cells = published.generate(5, n_steps=5, rng=0)
    assert cells.uns["scdiffusion"]["guidance"] == "none"
    np.testing.assert_allclose(
        latents(published, 5, {"bulk_labels": "CD34+"}, guidance_scale=0), cells.obsm["X_scdiffusion"], atol=1e-5
    )


@pytest.mark.parametrize("guidance", ["none", "classifier_free"])
def test_conditions_that_nothing_brings_in_are_refused(published, guidance):
    with pytest.raises(ValueError, match=r"sees no conditions.*'bulk_labels'.*guidance='classifier'"):
        published.generate(5, {"bulk_labels": "CD34+"}, guidance=guidance)


def test_a_profile_is_refused_by_a_model_of_classifiers(published):
    with pytest.raises(ValueError, match="condition_encoder='mean_expression'"):
        published.generate(5, {"bulk_labels": published.adata[:10].copy()})


def test_classifiers_that_are_missing_are_trained_by_name_or_by_training_on(tmp_path):
    model = train("scdiffusion", BOTH, {"autoencoder": 1, "diffusion": 1, "classifier": 0})
    request = {"n_cells": 4, "obs_conditions": {"bulk_labels": "CD34+", "phase": "S"}}
    assert not model.classifiers_ and model.generate(3, n_steps=5, rng=0).n_obs == 3
    with pytest.raises(ValueError, match=r"no classifier of 'bulk_labels', 'phase'.*model\.train_classifier\(\)"):
        model.generate(**request)
    model.train_classifier("phase", max_epochs=1, progress=False)
    before = model.module.classifiers["1"].output.weight.clone()
    with pytest.raises(ValueError, match="no classifier of 'bulk_labels' to"):
        model.generate(**request)
    model.train({"autoencoder": 0, "diffusion": 1, "classifier": 1}, progress=False)
    assert set(model.classifiers_) == {"bulk_labels", "phase"}
    assert torch.equal(before, model.module.classifiers["1"].output.weight)
    with pytest.raises(ValueError, match="nothing else brings in 'phase'"):
        model.generate(**request, guidance_scale={"bulk_labels": 3})
    expected = latents(model, **request)
    model.save(tmp_path / "model")
    assert np.array_equal(latents(scd.SCDiffusion.load(tmp_path / "model"), **request), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # they are made anew, and nothing is lost
        model.train(1, progress=False)
    assert set(model.classifiers_) == {"bulk_labels", "phase"}


def test_numbers_guide_scdiffusion_too():
    model = train("scdiffusion", {"continuous_condition_keys": "percent_mito", "condition_keys": "phase"}, 2)
    assert "classifier_percent_mito_r2" in model.history
    values = np.repeat([0.01, 0.03], 2)
    cells = model.generate(obs_conditions={"percent_mito": values}, n_steps=5, rng=0)
    np.testing.assert_array_equal(cells.obs["percent_mito"], values)
    assert np.abs(cells.obsm["X_scdiffusion"] - latents(model, 4)).max() > 1e-3


def test_scdiffusion_with_conditions_embedded():
    model = train("scdiffusion", BOTH, condition_encoder="embedding", condition_hidden=32, guidance="none")
    assert not model.classifiers_ and "classifier_phase_loss" not in model.history
    request = {"n_cells": 20, "obs_conditions": {"bulk_labels": "CD34+"}}
    for parameter in model.module.denoiser.condition_encoder.parameters():
        torch.nn.init.normal_(parameter)
    assert model.generate(**request, n_steps=5, rng=0).uns["scdiffusion"]["guidance"] == "none"
    assert np.abs(latents(model, **request) - latents(model, 20)).max() > 1e-3
    without = latents(model, **request, guidance="classifier_free", guidance_scale=-1, guidance_interval=(0, 1))
    np.testing.assert_allclose(without, latents(model, 20), atol=1e-4)


@pytest.fixture(scope="module", params=[None, "scld"])
def model_with_classifiers(request):
    """With a library size among the features, and without one."""
    model = train(request.param, {"condition_keys": "bulk_labels"}, 2)
    model.train_classifier(max_epochs=1, progress=False)
    return model


@pytest.mark.parametrize("guidance", ["classifier_free", "classifier", {"classifier_free": 0.5, "classifier": 1}])
def test_every_guidance_works_with_every_preset(model_with_classifiers, guidance):
    model = model_with_classifiers
    request = {"n_cells": 6, "obs_conditions": {"bulk_labels": ["CD34+", None, "Dendritic"] * 2}}
    guided, plain = latents(model, **request, guidance=guidance), latents(model, **request)
    assert np.isfinite(guided).all() and np.abs(guided - plain)[::3].max() > 1e-4
    np.testing.assert_allclose(guided[1::3], plain[1::3], atol=1e-4)  # of cells that are left to the model


def test_any_model_can_be_guided_by_classifiers_alone():
    model = train(None, BOTH, condition_encoder="none", guidance="classifier")
    cells = model.generate(6, {"phase": "S"}, rng=0)
    assert cells.uns["scdiffusion"]["guidance_interval"] == [0.0, 1.0] and cells.X.dtype == np.int32
    assert set(model.classifiers_) == {"bulk_labels", "phase"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_epochs": {"classifier": 3}}, ValueError, "The stages are 'autoencoder', 'diffusion'"),
        ({"classifier_kwargs": {"lr": 1e-3}}, ValueError, r"model\.train_classifier"),
    ],
)
def test_classifiers_are_no_stage_of_other_models(small_preset, arguments, error, message):
    with pytest.raises(error, match=message):
        small_preset("scld").train(**arguments, progress=False)


def test_unknown_settings_of_classifiers_and_guidance(small_preset, adata):
    with pytest.raises(TypeError, match="classifier_kwargs has no 'hidden'.*'n_hidden'"):
        small_preset("scdiffusion").train(classifier_kwargs={"hidden": 3}, progress=False)
    with pytest.raises(TypeError, match="classifier_kwargs has no 'hidden'"):
        small_preset("scld").train_classifier(classifier_kwargs={"hidden": 3}, progress=False)
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    with pytest.raises(ValueError, match="Did you mean 'classifier'"):
        scd.SCDiffusion(adata, "scdiffusion", guidance="clasifier")


def test_a_batch_that_the_denoiser_does_not_see(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels", batch_key="phase")
    with pytest.warns(UserWarning, match="will not differ by 'phase'.*condition_keys"):
        scd.SCDiffusion(adata, "scdiffusion", **SMALL["scdiffusion"])


class TestProfilesAndNumbers:
    """Mean expression as conditions, beside a second category and a number."""

    @pytest.fixture(scope="class")
    def model(self):
        model = train(
            None,
            {**BOTH, "continuous_condition_keys": "percent_mito"},
            {"autoencoder": 10, "diffusion": 15},
            condition_encoder="mean_expression",
            condition_hidden=32,
            denoiser_hidden=64,
        )
        model.train_classifier(max_epochs=2, classifier_kwargs={"n_hidden": 32}, progress=False)
        return model

    @pytest.fixture
    def profile(self, adata):
        return adata[adata.obs["bulk_labels"] == "CD14+ Monocyte"].copy()

    def test_a_profile_goes_with_other_conditions(self, model, profile):
        rest = {"phase": "G1", "percent_mito": [0.01, None, 0.03]}
        given = model.generate(obs_conditions={"bulk_labels": profile, **rest}, rng=0)
        named = model.generate(obs_conditions={"bulk_labels": "CD14+ Monocyte", **rest}, rng=0)
        np.testing.assert_allclose(given.obsm["X_scdiffusion"], named.obsm["X_scdiffusion"], atol=1e-3)
        np.testing.assert_array_equal(given.obs["percent_mito"], [0.01, np.nan, 0.03])
        assert given.obs["bulk_labels"].isna().all() and (given.obs["phase"] == "G1").all()

    @pytest.mark.parametrize("compose", ["joint", "sum"])
    @pytest.mark.parametrize("scale", [1.0, {"bulk_labels": 1}, {"phase": 2, "bulk_labels": -1}])
    def test_classifier_free_guidance_hides_a_profile_as_it_hides_its_category(self, model, profile, compose, scale):
        by_profile, by_name = (
            {"bulk_labels": of_type, "phase": "S", "percent_mito": 0.02} for of_type in (profile, "CD14+ Monocyte")
        )
        guidance = {"guidance": "classifier_free", "guidance_scale": scale, "compose": compose}
        guided = latents(model, 10, by_profile, **guidance)
        np.testing.assert_allclose(guided, latents(model, 10, by_name, **guidance), atol=1e-3)
        assert np.abs(guided - latents(model, 10, by_profile, compose=compose)).max() > 0.1

    def test_minus_one_hides_a_profile_altogether(self, model, profile):
        hidden = latents(model, 10, {"bulk_labels": profile}, guidance="classifier_free", guidance_scale=-1)
        np.testing.assert_allclose(hidden, latents(model, 10), atol=1e-4)

    def test_classifiers_guide_by_the_other_keys_of_a_profile(self, model, profile):
        def guided(of_type, **kwargs):
            return latents(model, 10, {"bulk_labels": of_type, "phase": "S"}, guidance="classifier", **kwargs)

        with pytest.raises(ValueError, match="cannot guide by the profile of 'bulk_labels'"):
            guided(profile)
        by_phase = guided(profile, guidance_scale={"phase": 2})
        np.testing.assert_allclose(by_phase, guided("CD14+ Monocyte", guidance_scale={"phase": 2}), atol=1e-3)
        assert np.abs(by_phase - latents(model, 10, {"phase": "S"}, guidance="classifier")).max() > 0.1

    def test_a_number_has_no_profile(self, model, profile):
        with pytest.raises(ValueError, match="'percent_mito' is continuous"):
            model.generate(5, {"percent_mito": profile})
        numbers = pd.Series([0.01, 0.02], index=["cell_1", "cell_2"])
        assert model.generate(obs_conditions={"percent_mito": numbers}, rng=0).obs["percent_mito"].tolist() == [
            0.01,
            0.02,
        ]

    def test_a_series_of_other_genes_is_told_so(self, model):
        foreign = pd.Series([0.5, 0.0, 1.7], index=["Actb", "Gapdh", "Cd3e"])
        with pytest.raises(
            ValueError, match="shares no genes with the model: it has 'Actb', 'Gapdh', 'Cd3e', .* 'HES4'"
        ):
            model.generate(5, {"bulk_labels": foreign})

    def test_saved_model_knows_all_of_it(self, model, profile, tmp_path):
        model.save(tmp_path / "model")
        loaded = scd.SCDiffusion.load(tmp_path / "model")
        request = {"n_cells": 5, "obs_conditions": {"bulk_labels": profile, "phase": "S", "percent_mito": 0.02}}
        guidance = {"classifier_free": {"bulk_labels": 1}, "classifier": {"percent_mito": 2}}
        assert np.array_equal(
            latents(loaded, **request, guidance=guidance), latents(model, **request, guidance=guidance)
        )


def test_numeric_categories_by_cell_are_no_profile(adata):
    adata.obs["leiden"] = pd.Categorical((np.arange(700) % 3).astype(str))
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="leiden")
    model = scd.SCDiffusion(adata, n_latent=4, condition_encoder="mean_expression", denoiser_hidden=16)
    model.train(1, progress=False)
    for asked in (pd.Series([0, 2]), pd.Series([0.0, 2.0], index=["a", "b"])):
        assert model.generate(obs_conditions={"leiden": asked}, rng=0).obs["leiden"].tolist() == ["0", "2"]
    missing = model.generate(obs_conditions={"leiden": pd.Series([1, np.nan])}, rng=0).obs["leiden"]
    assert missing.isna().tolist() == [False, True]
    with pytest.raises(ValueError, match="'leiden' has no category 7"):
        model.generate(obs_conditions={"leiden": pd.Series([1, 7])})
    with pytest.raises(ValueError, match="shares no genes with the model"):
        model.generate(obs_conditions={"leiden": pd.Series([0.0, 0.4], index=["Actb", "Gapdh"])})
