"""What goes wrong quietly in models built on scvi-tools, one test for each; all on a model made from a scVI."""

import inspect
from importlib.metadata import requires
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scvi.criticism import PosteriorPredictiveCheck
from scvi.model import SCVI

import scdiffusion as scd
from scdiffusion.diffusion import DiffusionProcess
from scdiffusion.training import DiffusionStage

SMALL = {"denoiser_hidden": 16, "condition_hidden": 16}
SETUP = {"batch_key": "donor", "categorical_covariate_keys": ["phase"], "continuous_covariate_keys": ["pct"]}


@pytest.fixture
def cells(scvi_cells):
    return scvi_cells.copy()


@pytest.fixture
def scvi_model(fit_scvi, cells):
    return fit_scvi(SCVI, cells, SETUP)


@pytest.fixture
def model(scvi_model):
    return scd.SCDiffusion.from_scvi_model(scvi_model, condition_keys="bulk_labels", **SMALL)


def test_categories_reach_networks_as_integers(model):
    """scvi-tools' loaders make floats of registered categories."""
    _, _, _, covariates = model._encode(None, None)
    assert covariates.dtype == torch.float32  # beside numbers
    autoencoder = model.module.autoencoder
    for kind, n_keys in (("batch", 1), ("categorical", 1)):
        told = autoencoder._told(covariates + 1e-3, kind)  # as on a device that rounds
        assert told.dtype == torch.long and told.shape == (700, n_keys)
        np.testing.assert_array_equal(told, autoencoder._told(covariates, kind))


def test_models_that_share_an_anndata_do_not_reset_each_other(fit_scvi, cells, scvi_model, model):
    """Registered fields live in `adata.obs`, and another model's query can rewrite them."""
    codes = model._registered_conditions().codes.copy()
    before = {key: column.copy() for key, column in cells.obs.items()}
    other = fit_scvi(SCVI, cells, {"batch_key": "phase"})
    other.get_latent_representation()
    model.train(max_epochs=1, progress=False)
    np.testing.assert_array_equal(model._registered_conditions().codes, codes)
    again = scd.SCDiffusion.from_scvi_model(scvi_model, condition_keys="bulk_labels", **SMALL)
    np.testing.assert_array_equal(again._registered_conditions().codes, codes)
    assert all(cells.obs[key].equals(column) for key, column in before.items() if not key.startswith("_scvi"))


def test_frozen_parts_stay_in_evaluation_mode(model):
    """BatchNorm's statistics drift in training mode, whether or not weights require gradients."""
    kept = {name: tensor.clone() for name, tensor in model.module.autoencoder.state_dict().items()}
    for _ in range(2):
        model.module.train()
        assert not any(part.training for part in model.module.autoencoder.modules())
        model._posteriors(model._expression(), model._covariates(model._registered_conditions()))
        model.train(max_epochs=1, progress=False)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.module.autoencoder.state_dict().items())


def test_a_second_training_trains_in_training_mode(model):
    """After `train` and `load` everything is in evaluation mode, and Lightning keeps it."""
    model.train(max_epochs=1, progress=False)
    seen = []
    handle = model.module.denoiser.register_forward_pre_hook(lambda part, _: seen.append(part.training))
    model.train(max_epochs=1, progress=False)
    handle.remove()
    assert any(seen) and not model.module.denoiser.training


def test_a_saved_model_holds_no_data_and_loads_without(model, tmp_path):
    """A model or AnnData among the arguments of `__init__` is pickled."""
    model.train(max_epochs=1, progress=False)
    model.save(tmp_path / "model")
    contents = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    assert not any(len(tensor) == model.adata.n_obs for tensor in contents["model_state_dict"].values() if tensor.ndim)
    loaded = scd.SCDiffusion.load(tmp_path / "model")
    assert loaded.adata is None
    assert loaded.generate(3, rng=0).n_obs == 3
    # only attributes whose name ends in "_" are kept; the others must be found anew
    for name in ("covariate_keys", "condition_keys", "continuous_condition_keys", "batch_key"):
        assert getattr(loaded, name) == getattr(model, name)


def test_every_attribute_can_be_read(model):
    """`save` reads them all, so that a property that raises breaks it."""
    assert dict(inspect.getmembers(model))
    model.train(max_epochs=1, progress=False)
    assert dict(inspect.getmembers(model))


def test_history_of_a_later_stage_is_kept(model):
    """scvi-tools drops what appears in a second `train` for the first time."""
    model.train(max_epochs=1, progress=False)
    model.train_classifier("bulk_labels", max_epochs=1, progress=False)
    model.train(max_epochs=2, progress=False)
    assert len(model.history["diffusion_train_loss"]) == 3
    assert "classifier_bulk_labels_train_loss" in model.history


def test_optimiser_is_fit_for_diffusion(model):
    """scvi-tools' Adam has an epsilon of 0.01, which swallows small gradients."""
    settings = {"lr": 1e-3, "lr_decay": "cosine", "weight_decay": 0.0, "ema_decay": 0.9}
    stage = DiffusionStage(model.module.denoiser, DiffusionProcess(), condition_dropout=0.1, **settings)
    stage.trainer = SimpleNamespace(estimated_stepping_batches=1)
    assert all(group["eps"] <= 1e-8 for group in stage.configure_optimizers()["optimizer"].param_groups)


def test_library_sizes_and_covariates_are_generated(model):
    """scVI has no distribution of library sizes, and its decoder is told covariates that a new cell has not."""
    assert model.module.n_features == model.module.autoencoder.n_latent + 1
    model.train(max_epochs=1, progress=False)
    generated = model.generate(50, rng=0)
    assert not generated.obs[["donor", "phase", "pct"]].isna().any(axis=None)


def test_latents_on_a_simplex_are_learned_before_they_are_put_there(fit_scvi, cells):
    trained = fit_scvi(SCVI, cells, SETUP, latent_distribution="ln")
    model = scd.SCDiffusion.from_scvi_model(trained, **SMALL)
    mean = model._encode(None, None)[0]
    assert np.ptp(np.asarray(mean.sum(1))) > 0.1
    np.testing.assert_allclose(mean, trained.get_latent_representation(return_dist=True)[0], atol=1e-5)


def test_the_diffusion_learns_samples_of_the_posteriors(model):
    """Means are less spread out than the latents that the decoder knows."""
    model.train(max_epochs=1, progress=False)
    mean, log_variance, *_ = model._encode(None, None)
    train = model.train_indices_
    total = mean[train].var(0) + log_variance[train].exp().mean(0)
    np.testing.assert_allclose(model.module.feature_scale[:4] ** 2, total, rtol=1e-4)
    samples = model.get_latent_representation(give_mean=False)[train]
    assert samples.std(0) == pytest.approx(np.ones(4), abs=0.1)
    assert (model.get_latent_representation()[train].std(0) < samples.std(0)).all()


def test_criticism_finds_in_the_model_what_it_finds_in_scvi(model, scvi_model):
    model.train(max_epochs=1, progress=False)
    counts = model.adata.copy()
    counts.X = counts.layers["counts"].astype(int)
    check = PosteriorPredictiveCheck(counts, {"ours": model, "scvi": scvi_model}, n_samples=3, indices=np.arange(100))
    check.zero_fraction()
    fractions = check.metrics["zero_fraction"]
    assert (fractions["ours"] - fractions["scvi"]).abs().mean() < 0.04
    assert (fractions["ours"] - fractions["Raw"]).abs().mean() > 0.1  # that scVI is hardly trained


def test_metrics_do_not_need_jax():
    required = [line for line in requires("scdiffusion") if "extra ==" not in line]
    assert not any("scib" in line or "jax" in line for line in required)
