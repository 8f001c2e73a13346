import numpy as np
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scdiffusion as scd
from scdiffusion.diffusion import LinearSchedule
from scdiffusion.model._presets import PRESETS, read_preset

PAPERS = ["scdiffusion", "scld"]
every_paper = pytest.mark.parametrize("preset", PAPERS)


@every_paper
def test_cells_are_non_negative_log_normalised_expression(small_preset, preset, adata):
    cells = small_preset(preset).generate(obs_conditions="observed", n_steps=5, rng=0)
    assert isinstance(cells.X, sp.csr_matrix) and cells.X.dtype == np.float32 and cells.X.has_sorted_indices
    assert (cells.X.data > 0).all() and np.isfinite(cells.X.data).all() and cells.X.max() < 15
    assert cells.uns["scdiffusion"]["values"] == "log-normalised"
    assert cells.uns["scdiffusion"]["library_size"] == "none"
    assert cells.obs["bulk_labels"].value_counts().to_dict() == adata.obs["bulk_labels"].value_counts().to_dict()
    assert cells.obsm["X_scdiffusion"].shape == (700, 16)


def test_cells_of_the_default_are_counts(trained):
    assert trained.generate(5, rng=0).uns["scdiffusion"]["values"] == "counts"


@every_paper
def test_saved_model_generates_the_same_and_trains_on(small_preset, preset, adata, tmp_path):
    model = small_preset(preset)
    expected = model.generate(20, {"bulk_labels": "CD34+"}, n_steps=5, rng=0)
    model.save(tmp_path / "model")
    cells = scd.SCDiffusion.load(tmp_path / "model").generate(20, {"bulk_labels": "CD34+"}, n_steps=5, rng=0)
    assert (cells.X != expected.X).nnz == 0
    loaded = scd.SCDiffusion.load(tmp_path / "model", adata)
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    loaded.train(max_epochs=1, progress=False)
    assert len(loaded.history["autoencoder_train_loss"]) == 3


@every_paper
def test_decoding_never_depends_on_batch_mates(small_preset, preset):
    model = small_preset(preset)
    latents = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    together = model.decode(latents)
    assert np.array_equal(model.decode(latents[:7]), together[:7])
    assert np.array_equal(model.decode(latents[280:281]), together[280:281])
    shuffle = np.random.default_rng(1).permutation(300)
    assert np.array_equal(model.decode(latents[shuffle]), together[shuffle])


@every_paper
def test_all_parts_are_in_evaluation_mode_after_training(small_preset, preset):
    assert not any(part.training for part in small_preset(preset).module.modules())


def test_an_untrained_autoencoder_encodes_each_cell_by_itself(adata):
    """As when it came trained and is not trained further: its batch statistics must not be those of a minibatch."""
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, "scdiffusion", n_latent=8, n_hidden=(16,), denoiser_hidden=(16, 8))
    model.train(max_epochs={"autoencoder": 0, "diffusion": 1}, progress=False)
    both = [model.get_latent_representation(indices=rows) for rows in (np.arange(700), np.arange(10))]
    np.testing.assert_allclose(both[0][:10], both[1], atol=1e-5)
    statistics = model.module.autoencoder.state_dict()
    assert not any(tensor.any() for name, tensor in statistics.items() if name.endswith("running_mean"))


def test_standardisation_moves_the_step_where_the_noise_outweighs_the_signal(small_preset):
    """With 128 latents of length one, each has variance 1/128: noise wins at step 23 of 1000, not at step 259."""
    schedule = LinearSchedule()

    def noise_wins(variance):
        return int((schedule.log_snr.exp() * variance < 1).float().argmax())

    assert noise_wins(1 / 128) == 23 and noise_wins(1.0) == 259
    for standardise, low, high in [(True, 255, 263), (False, 50, 120)]:
        model = small_preset("scdiffusion", standardise_latents=standardise)
        latents = model.get_latent_representation()[model.train_indices_]
        assert low < noise_wins(float(latents.var(0).mean())) < high
        if not standardise:
            np.testing.assert_allclose(np.linalg.norm(latents, axis=1), 1.0, atol=1e-5)


def test_published_recipe_is_the_default_of_training(adata):
    """What `model.train()` would do at full length."""
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, "scdiffusion", n_latent=8, n_hidden=(16,), denoiser_hidden=(16, 8))
    autoencoder, diffusion = (model._training_settings(stage, None) for stage in ("autoencoder", "diffusion"))
    assert (autoencoder["lr"], autoencoder["weight_decay"], autoencoder["batch_size"]) == (5e-4, 0.01, 128)
    assert (diffusion["lr"], diffusion["weight_decay"], diffusion["ema_decay"]) == (1e-4, 1e-4, 0.9999)
    assert (autoencoder["n_steps"], diffusion["n_steps"], diffusion["lr_decay"]) == (150_000, 600_000, "linear")
    assert (model.module.process.n_timesteps, type(model.module.process.schedule)) == (1000, LinearSchedule)
    sampler = model._read_sampler(None)
    assert (sampler.default_n_steps, sampler.variance_weight) == (1000, 0.5)


def test_training_takes_as_many_steps_as_are_said(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, "scdiffusion", n_latent=8, n_hidden=(16,), denoiser_hidden=(16, 8))
    model.train(
        autoencoder_kwargs={"n_steps": 15, "batch_size": 63},  # 10 minibatches an epoch
        diffusion_kwargs={"n_steps": 60, "batch_size": 32},  # 25 minibatches an epoch
        progress=False,
    )
    lengths = {metric: len(values) for metric, values in model.history.items()}
    assert lengths["autoencoder_train_loss"] == 2 and lengths["diffusion_train_loss"] == 3
    assert "autoencoder_kl" not in lengths


@every_paper
def test_published_sizes(preset):
    """The papers' own layers, on the meta device, where nothing is computed."""
    from scdiffusion.model._module import SCDiffusionModule
    from scdiffusion.model._presets import arguments_of

    settings = read_preset(preset, {})
    with torch.device("meta"):
        module = SCDiffusionModule(
            18_996, [], 0, 0, "counts",
            autoencoder_settings=arguments_of(settings["autoencoder"]), process_settings=settings["process"],
            condition_settings=arguments_of(settings["condition_encoder"]),
            denoiser_settings=arguments_of(settings["denoiser"]), **settings["latents"],
        )  # fmt: skip
    sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (module.autoencoder, module.denoiser)]
    expected = {"scdiffusion": (43.4, 3.49), "scld": (19.5, 1.14)}[preset]
    np.testing.assert_allclose(sizes, expected, rtol=0.01)


def test_log_normalised_expression_gives_the_same_model_as_its_counts(adata):
    adata.X = adata.layers["counts"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    latents = []
    for layer, values in (("counts", "counts"), (None, "log-normalised")):
        data = adata.copy()
        scd.SCDiffusion.setup_anndata(data, layer=layer, condition_keys="phase", values=values)
        model = scd.SCDiffusion(
            data, "scld", n_latent=8, n_hidden=16, denoiser_hidden=(8,), condition_hidden=16, keep_top="none"
        )
        model.train(max_epochs=1, precision="32-true", progress=False)
        latents.append(model.generate(30, {"phase": "S"}, n_steps=5, rng=0).obsm["X_scdiffusion"])
    np.testing.assert_allclose(latents[0], latents[1], atol=0.02)


def test_saved_model_of_log_normalised_expression_takes_it_again(adata, tmp_path):
    adata.X = np.log1p(adata.layers["counts"])
    scd.SCDiffusion.setup_anndata(adata, values="log-normalised")
    model = scd.SCDiffusion(
        adata, "scld", n_latent=8, n_hidden=16, denoiser_hidden=(8,), condition_hidden=16, keep_top="none"
    )
    model.train(max_epochs=1, progress=False)
    model.save(tmp_path / "model")
    loaded = scd.SCDiffusion.load(tmp_path / "model", adata)
    assert np.array_equal(loaded.get_latent_representation(), model.get_latent_representation())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X * 0 + 2, "holds counts, but values='log-normalised' was said"),
        (lambda X: X - 1, "NaN, infinite or negative"),
        (lambda X: X * np.nan, "NaN, infinite or negative"),
        (lambda X: X * 100, "above 30"),
        (lambda X: X[:, :5] * 0, "holds counts|without any count"),
    ],
)
def test_what_is_not_log_normalised_is_refused(adata, change, message):
    X = change(np.log1p(adata.layers["counts"].toarray()))
    data = adata[:, : X.shape[1]].copy()
    data.X = X
    with pytest.raises(ValueError, match=message):
        scd.SCDiffusion.setup_anndata(data, values="log-normalised")


def test_other_values_are_refused(adata):
    with pytest.raises(ValueError, match="'counts' or 'log-normalised'; got 'scaled'"):
        scd.SCDiffusion.setup_anndata(adata, layer="counts", values="scaled")


def test_count_model_refuses_log_normalised_expression(adata):
    adata.X = np.log1p(adata.layers["counts"])
    scd.SCDiffusion.setup_anndata(adata, values="log-normalised")
    with pytest.raises(ValueError, match="'scdiffusion' or 'scld'"):
        scd.SCDiffusion(adata, n_latent=4)


@every_paper
def test_library_size_is_refused(small_preset, preset):
    with pytest.raises(ValueError, match="leave library_size out"):
        small_preset(preset).generate(3, library_size=1000)
    with pytest.raises(ValueError, match="leave library_size out"):
        small_preset(preset).decode(np.zeros((1, 16)), library_size=1000)


@pytest.mark.parametrize(
    ("preset", "overrides", "error", "message"),
    [
        ("scdifusion", {}, ValueError, "Did you mean 'scdiffusion'"),
        ("scdiffusion", {"likelihood": "nb"}, TypeError, "autoencoder 'scimilarity' takes no likelihood"),
        (None, {"denoiser": "unet", "denoiser_layers": 2}, TypeError, "denoiser 'unet' takes no denoiser_layers"),
        (None, {"project_profiles": True}, TypeError, "condition encoder 'embedding' takes no project_profiles"),
        (None, {"denoiser": "transformer"}, ValueError, "Unknown denoiser"),
        ("scdiffusion", {"freeze_hidden": True}, ValueError, "pass pretrained="),
    ],
)
def test_settings_that_do_not_fit(adata, preset, overrides, error, message):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    with pytest.raises(error, match=message):
        scd.SCDiffusion(adata, preset, **{"n_latent": 4, **overrides})


def test_a_part_chosen_by_name_brings_its_own_defaults():
    settings = read_preset(None, {"denoiser": "unet", "autoencoder": "linear", "n_latent": 7})
    assert settings["denoiser"] == {"denoiser": "unet"}
    assert settings["autoencoder"] == {"autoencoder": "linear", "n_latent": 7}
    assert settings["process"] == PRESETS["default"]["process"]
    same = read_preset(None, {"denoiser": "mlp", "denoiser_hidden": 8})["denoiser"]
    assert same == {**PRESETS["default"]["denoiser"], "denoiser_hidden": 8}
    assert PRESETS["default"]["denoiser"]["denoiser_hidden"] == 256


@pytest.mark.parametrize(
    "overrides",
    [
        {"denoiser": "unet", "denoiser_hidden": (8, 16), "condition_encoder": "mean_expression", "fusion": "concat"},
        {"denoiser": "skip_mlp", "denoiser_hidden": (32, 16), "fusion": "attention"},
        {"autoencoder": "linear", "n_hidden": 16, "denoiser_hidden": 16},
    ],
)
def test_parts_of_different_presets_go_together(adata, overrides, tmp_path):
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="phase", batch_key="bulk_labels")
    model = scd.SCDiffusion(adata, n_latent=5, condition_hidden=32, **overrides)
    model.train(max_epochs=1, progress=False)
    model.save(tmp_path / "model")
    request = {"n_cells": 10, "obs_conditions": {"phase": "S"}, "rng": 0}
    cells = model.generate(**request)
    assert cells.n_obs == 10 and np.isfinite(cells.X.data).all()
    assert (scd.SCDiffusion.load(tmp_path / "model").generate(**request).X != cells.X).nnz == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"autoencoder_kwargs": {"kl_weight": 1.0}}, "autoencoder_kwargs has no 'kl_weight'"),
        ({"diffusion_kwargs": {"learning_rate": 1.0}}, "diffusion_kwargs has no 'learning_rate'.*'lr'"),
    ],
)
def test_unknown_training_settings(small_preset, arguments, message):
    with pytest.raises(TypeError, match=message):
        small_preset("scdiffusion").train(max_epochs=1, progress=False, **arguments)


def test_unknown_decay_of_the_learning_rate(small_preset):
    with pytest.raises(ValueError, match="Available: cosine, linear"):
        small_preset("scdiffusion").train(max_epochs=1, progress=False, diffusion_kwargs={"lr_decay": "exponential"})
