import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from sklearn.decomposition import PCA

import scdiffusion as scd
from scdiffusion import metrics
from scdiffusion.diffusion import ClassifierFreeGuidance, ClassifierGuidance, Guidance, SumComposition, samplers
from scdiffusion.model._guidance import read_guidance

KEYS = {"cell_type": 0, "organ": 1, "time": 3}


def read(guidance=None, scale=None, interval=None, rescale=0.0, compose="joint", **known):
    known = {
        "defaults": {"guidance": "none", "guidance_interval": (0.0, 1.0)},
        "keys": KEYS,
        "asked": ["cell_type", "time"],
        "profiles": [],
        "classifiers": ["cell_type", "organ"],
        "sees_conditions": True,
        **known,
    }
    return read_guidance(guidance, scale, interval, rescale, compose, **known)


class TestReading:
    def test_one_number_is_for_all_that_is_asked_for_together(self):
        guide, provenance = read("classifier_free", 1.5)
        ((method, scales),) = guide.methods
        assert isinstance(method, ClassifierFreeGuidance) and scales == {frozenset({0, 3}): 1.5}
        assert guide.keys == {0, 3} and guide.hidden == set()
        assert provenance["guidance_scale"] == 1.5

    def test_a_number_per_key(self):
        ((_, scales),) = read("classifier_free", {"cell_type": 2, "time": -1})[0].methods
        assert scales == {frozenset({0}): 2.0, frozenset({3}): -1.0}

    def test_a_key_left_to_the_model_is_not_guided_by(self):
        ((_, scales),) = read("classifier_free", {"cell_type": 2, "organ": 1})[0].methods
        assert scales == {frozenset({0}): 2.0}
        with pytest.warns(UserWarning, match="Nothing to guide by"):
            assert not read("classifier_free", asked=[])[0].methods

    def test_defaults_are_the_methods_own(self):
        assert read("classifier_free")[1]["guidance_scale"] == 1.0
        assert read("classifier", asked=["organ"])[1]["guidance_scale"] == 2.0
        guide, provenance = read()
        assert not guide.methods and provenance == {"compose": "joint", "guidance": "none"}

    def test_methods_are_combined_by_a_dict(self):
        guide, provenance = read({"classifier_free": {"time": 0.5}, "classifier": {"cell_type": 2}})
        assert [type(method) for method, _ in guide.methods] == [ClassifierFreeGuidance, ClassifierGuidance]
        assert guide.hidden == {0}
        assert provenance["guidance_scale"] == {"classifier_free": {"time": 0.5}, "classifier": {"cell_type": 2}}

    def test_instances_where_names_are(self):
        method, composition = ClassifierFreeGuidance(), SumComposition()
        guide, provenance = read(method, compose=composition)
        assert guide.methods[0][0] is method and guide.composition is composition
        assert provenance["guidance"] == "ClassifierFreeGuidance" and provenance["compose"] == "SumComposition"

    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"guidance": "clasifier"}, ValueError, "Did you mean 'classifier'"),
            ({"guidance": 3}, TypeError, "'classifier_free'"),
            ({"guidance": ["classifier_free", "classifier"]}, TypeError, "guidance={'classifier_free': 0.5"),
            ({"guidance": {"classifier": 1}, "scale": 2}, ValueError, "leave guidance_scale out"),
            ({"scale": 2}, ValueError, "guidance_scale needs guidance"),
            ({"interval": (0, 0.5)}, ValueError, "guidance_interval needs guidance"),
            ({"rescale": 0.5}, ValueError, "guidance_rescale needs guidance"),
            ({"guidance": "classifier"}, ValueError, r"no classifier of 'time'.*model\.train_classifier\(\)"),
            ({"guidance": "classifier_free", "scale": {"organs": 1}}, ValueError, "Did you mean 'organ'"),
            ({"guidance": "classifier_free", "scale": {"batch": 1}}, ValueError, "names 'batch'"),
            ({"guidance": "classifier_free", "scale": -1.5}, ValueError, "-1 or more; got -1.5"),
            ({"guidance": "classifier_free", "scale": {"time": -2}}, ValueError, "-1 or more; got -2"),
            ({"guidance": "classifier_free", "scale": np.nan}, ValueError, "got nan"),
            ({"guidance": "classifier_free", "scale": "strong"}, ValueError, "got 'strong'"),
            ({"guidance": "classifier", "scale": {"cell_type": -1}}, ValueError, "0 or more; got -1"),
            ({"guidance": "classifier_free", "interval": (0.5, 0.2)}, ValueError, "the smaller first"),
            ({"guidance": "classifier_free", "interval": (0, 500)}, ValueError, r"e\.g\. \(0, 0\.5\)"),
            ({"guidance": "classifier_free", "interval": 0.5}, ValueError, "two shares"),
            ({"guidance": "classifier_free", "rescale": 1.5}, ValueError, "guidance_rescale"),
            ({"compose": "product"}, ValueError, "Available: joint, shift, sum"),
            ({"guidance": "classifier_free", "keys": {}, "asked": []}, ValueError, "condition_keys="),
        ],
    )
    def test_mistakes_say_what_to_type(self, arguments, error, message):
        with pytest.raises(error, match=message):
            read(**arguments)


@pytest.fixture(scope="module")
def programme():
    """The main axis of variation of the real cells, as a function of counts."""
    adata = scd.datasets.pbmc68k_reduced()
    pca = PCA(1, random_state=0).fit(metrics.log_normalise(sp.csr_matrix(adata.layers["counts"])).toarray())
    return lambda counts: pca.transform(metrics.log_normalise(sp.csr_matrix(counts)).toarray())[:, 0]


@pytest.fixture(scope="module")
def guided(programme):
    """A model of a categorical and a continuous condition, with classifiers of both."""
    adata = scd.datasets.pbmc68k_reduced()
    adata.obs["programme"] = programme(adata.layers["counts"])
    scd.SCDiffusion.setup_anndata(
        adata, layer="counts", condition_keys="bulk_labels", continuous_condition_keys="programme"
    )
    model = scd.SCDiffusion(adata, denoiser_hidden=128)
    model.train(max_epochs={"autoencoder": 4, "diffusion": 12}, progress=False)
    model.train_classifier(max_epochs=6, classifier_kwargs={"n_hidden": 128}, progress=False)
    return model


def test_classifiers_tell_conditions_of_clean_latents_and_guess_those_of_noise(guided):
    accuracy, r2 = (guided.history[f"classifier_{name}"].iloc[-1] for name in ("bulk_labels_accuracy", "programme_r2"))
    assert list(accuracy.index) == list(r2.index) and len(accuracy) == 10
    assert accuracy["0.0-0.1"] > 0.65 and accuracy["0.9-1.0"] < 0.4
    assert r2["0.0-0.1"] > 0.8 and abs(r2["0.9-1.0"]) < 0.2
    loss = guided.history["classifier_bulk_labels_loss"].iloc[-1]
    assert loss["0.9-1.0"] < np.log(10)  # knows the frequencies
    assert "classifier_programme_validation_loss" in guided.history


@pytest.mark.parametrize(("sampler", "n_steps"), [("dpmpp_2m", 20), ("ddpm", 60), ("ddim", 30), ("euler", 30)])
def test_classifiers_alone_draw_the_types_that_are_asked_for(guided, sampler, n_steps):
    """The denoiser is unconditional: labels of its cells are right as often as by chance."""
    adata = guided.adata
    real, labels = metrics.log_normalise(adata.layers["counts"]), adata.obs["bulk_labels"].astype(str).to_numpy()
    cells = guided.generate(
        obs_conditions={"bulk_labels": labels}, guidance="classifier", sampler=sampler, n_steps=n_steps, rng=0
    )
    assert metrics.label_accuracy(real, labels, metrics.log_normalise(cells.X), labels) > 0.6  # by chance 0.23


def test_cells_move_along_with_a_number(guided, programme):
    asked = np.linspace(-15, 12, 200)
    for guidance in (None, "classifier"):
        cells = guided.generate(obs_conditions={"programme": asked}, guidance=guidance, rng=0)
        assert np.corrcoef(asked, programme(cells.X))[0, 1] > 0.9
        np.testing.assert_array_equal(cells.obs["programme"], asked)


def test_numbers_in_every_form(guided):
    cells = guided.generate(obs_conditions={"programme": [1.5, None, np.nan, 2]}, rng=0)
    np.testing.assert_array_equal(cells.obs["programme"], [1.5, np.nan, np.nan, 2])
    frame = pd.DataFrame({"programme": [0.5, np.nan], "bulk_labels": [None, "CD34+"]})
    rows = guided.generate(obs_conditions=frame, rng=0).obs
    assert rows["programme"].isna().tolist() == [False, True] and rows["bulk_labels"].isna().tolist() == [True, False]
    assert guided.generate(obs_conditions={"programme": {-3.0: 2, 4: 1}}, rng=0).obs["programme"].tolist() == [
        -3,
        -3,
        4,
    ]
    observed = guided.generate(obs_conditions="observed", rng=0).obs
    pairs = ["bulk_labels", "programme"]
    expected = guided.adata.obs[pairs].astype({"bulk_labels": str}).sort_values(pairs).to_numpy()
    assert (observed[pairs].astype({"bulk_labels": str}).sort_values(pairs).to_numpy() == expected).all()


def test_a_number_out_of_range_is_a_warning_that_says_how_far(guided):
    with pytest.warns(UserWarning, match=r"programme=40 lies outside .* by 2 of their standard deviations"):
        guided.generate(2, {"programme": 40}, rng=0)


def test_guided_cells_stay_within_the_limits_of_training(guided):
    conditions = guided.module.conditions(torch.zeros(50, 1, dtype=torch.long), torch.full((50, 1), torch.nan))
    guide, _ = read({"classifier_free": 50, "classifier": 500}, keys={"a": 0}, asked=["a"], classifiers=["a"])
    generator = torch.Generator().manual_seed(0)
    for name in ("dpmpp_2m", "ddim"):
        features = guided.module.sample(conditions, samplers.resolve(name), 20, generator, guide)
        assert (features.abs() <= guided.module.feature_limit + 1e-4).all()


def test_a_row_left_to_the_model_is_not_guided(guided):
    plain = guided.generate(4, rng=0).obsm["X_scdiffusion"]
    labels = ["CD34+", None, "CD34+", None]
    cells = guided.generate(obs_conditions={"bulk_labels": labels}, guidance="classifier", rng=0)
    difference = np.abs(cells.obsm["X_scdiffusion"] - plain).max(1)
    assert (difference[1::2] < 1e-4).all() and (difference[::2] > 0.01).all()


def test_classifiers_are_saved_with_the_model(guided, tmp_path):
    guided.save(tmp_path / "model")
    loaded = scd.SCDiffusion.load(tmp_path / "model")
    request = {"obs_conditions": {"bulk_labels": "CD34+", "programme": 2.0}, "n_cells": 10, "rng": 0}
    request["guidance"] = {"classifier_free": {"programme": 1.0}, "classifier": {"bulk_labels": 2.0}}
    cells, expected = loaded.generate(**request), guided.generate(**request)
    assert np.array_equal(cells.obsm["X_scdiffusion"], expected.obsm["X_scdiffusion"])
    assert loaded.history["classifier_programme_r2"].equals(guided.history["classifier_programme_r2"])
    cells.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(ValueError, match="loaded without data"):
        loaded.train_classifier()
    again = scd.SCDiffusion.load(tmp_path / "model", guided.adata.copy())
    assert np.array_equal(again.composition.values, guided.composition.values)
    with pytest.warns(UserWarning, match=r"classifiers of .* are dropped"):
        again.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"model\.train_classifier\(\)"):
        again.generate(**request)
    again.train_classifier("bulk_labels", max_epochs=1, classifier_kwargs={"n_hidden": 32}, progress=False)
    assert len(again.history["classifier_bulk_labels_loss"]) == 1
    with pytest.raises(ValueError, match="Did you mean 'programme'"):
        again.train_classifier("program")


def test_a_sum_of_conditions_is_its_conditions_apart_where_there_is_one(guided):
    request = {"n_cells": 20, "rng": 0, "obs_conditions": {"bulk_labels": "CD34+"}}
    joint, summed = (guided.generate(**request, compose=name).obsm["X_scdiffusion"] for name in ("joint", "sum"))
    np.testing.assert_allclose(joint, summed, atol=1e-4)
    request["obs_conditions"]["programme"] = 5.0
    joint, summed = (guided.generate(**request, compose=name).obsm["X_scdiffusion"] for name in ("joint", "sum"))
    assert np.abs(joint - summed).max() > 0.05


def test_a_method_of_ones_own(guided):
    class Deeper(Guidance):
        """Towards larger library sizes, the last feature."""

        def shift(self, step, scales):
            (scale,) = scales.values()
            return step.uphill(lambda x: scale * x[:, -1])

    request = {"n_cells": 50, "obs_conditions": {"bulk_labels": "CD34+"}, "rng": 0}
    plain = guided.generate(**request).X.sum()
    assert guided.generate(**request, guidance=Deeper()).X.sum() > 1.5 * plain


def test_a_batch_is_drawn_from_cells_of_about_the_same_number(adata):
    """A batch per end of the programme: a number asked for brings its batch along."""
    adata.obs["score"] = np.arange(700) / 100
    adata.obs["chip"] = pd.Categorical(np.where(np.arange(700) < 350, "low", "high"))
    scd.SCDiffusion.setup_anndata(adata, layer="counts", batch_key="chip", continuous_condition_keys=["score"])
    model = scd.SCDiffusion(adata, n_latent=5, n_hidden=16, denoiser_hidden=16, denoiser_layers=1)
    model.train(max_epochs=1, progress=False)
    obs = model.generate(obs_conditions={"score": {1.0: 20, 6.0: 20}}, rng=0).obs
    assert (obs["chip"] == np.repeat(["low", "high"], 20)).all()
    assert set(model.generate(50, rng=0).obs["chip"]) == {"low", "high"}
    strong = model.generate(4, {"score": 2.0}, guidance="classifier_free", guidance_scale=-1, rng=0)
    assert strong.obs["chip"].notna().all()
    with pytest.raises(ValueError, match="names 'chip'"):
        model.generate(4, {"score": 2.0}, guidance="classifier_free", guidance_scale={"chip": 1})
    assert set(adata.obsm) - {"X_pca", "X_umap"} == {"_scvi_scdiffusion_conditions", "_scvi_scdiffusion_continuous"}


def test_untrained_and_unconditional_models_say_what_to_do(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, n_latent=4, denoiser_hidden=16)
    with pytest.raises(ValueError, match=r"model\.train\(\)"):
        model.train_classifier()
    model.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="condition_keys="):
        model.train_classifier()
    with pytest.raises(ValueError, match="condition_keys="):
        model.generate(3, guidance="classifier")
