import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
import torch

import scdiffusion as scd
from scdiffusion import metrics
from scdiffusion.diffusion import DDIMSampler
from scdiffusion.model._latents import _as_stored


def tiny(adata, **setup) -> scd.SCDiffusion:
    """A model trained just enough to be called trained."""
    scd.SCDiffusion.setup_anndata(adata, layer="counts", **setup)
    model = scd.SCDiffusion(adata, n_latent=5, n_hidden=16, denoiser_hidden=16, denoiser_layers=1)
    model.train(max_epochs=1, progress=False)
    return model


def same(a, b) -> bool:
    return (
        (a.X != b.X).nnz == 0
        and np.array_equal(a.obsm["X_scdiffusion"], b.obsm["X_scdiffusion"])
        and a.obs.equals(b.obs)
    )


def test_generated_cells_are_as_documented(trained, adata):
    cells = trained.generate(obs_conditions="observed", rng=0)
    assert isinstance(cells.X, sp.csr_matrix) and cells.X.dtype == np.int32 and cells.X.min() >= 0
    assert cells.X.has_sorted_indices and (cells.X.data > 0).all()
    pd.testing.assert_frame_equal(cells.var, adata.var)
    for key in ("bulk_labels", "phase"):
        assert list(cells.obs[key].cat.categories) == list(adata.obs[key].cat.categories)
        assert cells.obs[key].value_counts().to_dict() == adata.obs[key].value_counts().to_dict()
    assert cells.obsm["X_scdiffusion"].shape == (700, trained.module.autoencoder.n_latent)
    assert cells.uns["scdiffusion"]["sampler"] == "DPMPP2MSampler" and cells.uns["scdiffusion"]["n_steps"] == 20


def test_generated_cells_are_like_real_ones(trained, adata):
    """Means, library sizes, and the type that was asked for, against what real cells score."""
    cells = trained.generate(obs_conditions="observed", rng=0)
    real, generated = metrics.log_normalise(sp.csr_matrix(adata.layers["counts"])), metrics.log_normalise(cells.X)
    assert metrics.gene_mean_correlation(real, generated) > 0.97
    assert metrics.ks_distance(metrics.library_size(adata.layers["counts"]), metrics.library_size(cells.X)) < 0.15
    assert metrics.random_forest_auc(*metrics.joint_pca(real, generated, n_components=20), n_estimators=200) < 0.75
    shuffled = generated[np.random.default_rng(0).permutation(700)]
    labels = adata.obs["bulk_labels"].astype(str).to_numpy()
    asked = cells.obs["bulk_labels"].astype(str).to_numpy()
    accuracy = metrics.label_accuracy(real, labels, generated, asked)
    assert accuracy > 0.6 > metrics.label_accuracy(real, labels, shuffled, asked) + 0.15


def test_same_seed_same_cells_and_other_seed_others(trained):
    request = {"n_cells": 40, "obs_conditions": "observed"}
    assert same(trained.generate(**request, rng=3), trained.generate(**request, rng=3))
    assert not same(trained.generate(**request, rng=3), trained.generate(**request, rng=4))


def test_two_trainings_with_one_seed_give_identical_cells(adata):
    first, second = (tiny(scd.datasets.pbmc68k_reduced(), condition_keys="phase").generate(20, rng=0) for _ in range(2))
    assert same(first, second)


def test_global_random_state_is_left_alone(adata):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    tiny(adata).generate(5, rng=0)
    assert torch.equal(torch.rand(1), expected)


def test_decoding_never_depends_on_batch_mates(trained):
    latents = np.random.default_rng(0).normal(size=(600, trained.module.autoencoder.n_latent)).astype(np.float32)
    together = trained.decode(latents)
    assert np.array_equal(trained.decode(latents[:7]), together[:7])
    assert np.array_equal(trained.decode(latents[300:301]), together[300:301])
    shuffle = np.random.default_rng(1).permutation(600)
    assert np.array_equal(trained.decode(latents[shuffle]), together[shuffle])


def test_decoded_counts_sum_to_the_library_size(trained):
    latents = np.zeros((3, trained.module.autoencoder.n_latent))
    np.testing.assert_allclose(
        trained.decode(latents, library_size=[100, 1000, 5000]).sum(1), [100, 1000, 5000], rtol=1e-4
    )


@pytest.mark.parametrize("with_data", [True, False])
def test_saved_model_generates_the_same(trained, tmp_path, with_data):
    trained.save(tmp_path / "model")
    adata = scd.datasets.pbmc68k_reduced() if with_data else None
    loaded = scd.SCDiffusion.load(tmp_path / "model", adata)
    request = {"obs_conditions": {"bulk_labels": "CD34+"}, "n_cells": 30, "rng": 0}
    assert same(loaded.generate(**request), trained.generate(**request))
    assert loaded.history.keys() == trained.history.keys()
    if with_data:
        assert np.array_equal(loaded.get_latent_representation(), trained.get_latent_representation())
    else:
        with pytest.raises(ValueError, match="loaded without data"):
            loaded.train()


def test_model_file_holds_only_tensors_and_plain_settings(trained, tmp_path):
    trained.save(tmp_path / "model")
    contents = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    assert set(contents) == {"format", "version", "data", "model_state_dict", "var_names", "attr_dict"}


def test_save_needs_leave_to_overwrite_and_leaves_nothing_half_written(trained, tmp_path, monkeypatch):
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="overwrite=True"):
        trained.save(tmp_path / "model")
    trained.save(tmp_path / "model", overwrite=True)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        trained.save(tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_saved_data_comes_back_with_the_model(adata, tmp_path):
    tiny(adata, condition_keys="phase").save(tmp_path / "model", save_anndata=True)
    assert scd.SCDiffusion.load(tmp_path / "model").adata.n_obs == 700
    assert scd.SCDiffusion.load(tmp_path / "model", adata=False).adata is None


def test_load_refuses_other_genes_and_missing_models(trained, adata, tmp_path):
    trained.save(tmp_path / "model")
    with pytest.raises(ValueError, match="genes are missing"):
        scd.SCDiffusion.load(tmp_path / "model", adata[:, 5:].copy())
    with pytest.raises(ValueError, match="another order"):
        scd.SCDiffusion.load(tmp_path / "model", adata[:, ::-1].copy())
    with pytest.raises(ValueError, match="no model at"):
        scd.SCDiffusion.load(tmp_path / "nowhere")


def test_every_form_of_conditions_is_delivered(trained):
    by_count = trained.generate(obs_conditions={"bulk_labels": {"CD34+": 5, "Dendritic": 3}}, rng=0)
    assert by_count.obs["bulk_labels"].value_counts()["CD34+"] == 5 and by_count.n_obs == 8
    assert by_count.obs["phase"].isna().all()
    frame = pd.DataFrame({"phase": ["G1", None, "S"], "bulk_labels": [None, "CD34+", "CD34+"]})
    rows = trained.generate(obs_conditions=frame, rng=0).obs
    assert rows["phase"].tolist()[::2] == ["G1", "S"] and rows["bulk_labels"].isna().tolist() == [True, False, False]
    assert trained.generate(4, rng=0).obs.isna().all().all()
    assert trained.generate(rng=0).n_obs == 700


def test_conditions_change_the_cells(trained, adata):
    """Cells asked for by type are nearer to that type's mean than to the others'."""
    labels = adata.obs["bulk_labels"]
    real = metrics.log_normalise(sp.csr_matrix(adata.layers["counts"])).toarray()
    means = {name: real[(labels == name).to_numpy()].mean(0) for name in ("CD19+ B", "CD14+ Monocyte", "CD56+ NK")}
    for name in means:
        cells = trained.generate(60, {"bulk_labels": name}, rng=0)
        mean = metrics.log_normalise(cells.X).toarray().mean(0)
        distances = {other: np.linalg.norm(mean - m) for other, m in means.items()}
        assert min(distances, key=distances.get) == name


def test_guidance_sharpens_and_minus_one_is_unconditional(trained):
    request = {"n_cells": 200, "obs_conditions": {"bulk_labels": "CD34+"}, "rng": 0}
    plain, zero, strong, none = (
        trained.generate(**request, guidance=guidance, guidance_scale=scale).obsm["X_scdiffusion"]
        for guidance, scale in [("none", None), ("classifier_free", 0), ("classifier_free", 3), ("classifier_free", -1)]
    )
    np.testing.assert_allclose(zero, plain, atol=1e-4)
    centre = trained.generate(200, rng=0).obsm["X_scdiffusion"]
    np.testing.assert_allclose(none, centre, atol=1e-4)
    away = np.linalg.norm(strong.mean(0) - centre.mean(0)), np.linalg.norm(plain.mean(0) - centre.mean(0))
    assert away[0] > away[1]


def test_a_little_guidance_is_the_default_and_its_scale_may_be_given_alone(trained):
    request = {"n_cells": 20, "obs_conditions": {"bulk_labels": "CD34+"}, "rng": 0}
    default, explicit, strong = (
        trained.generate(**request, **settings)
        for settings in ({}, {"guidance": "classifier_free", "guidance_scale": 0.15}, {"guidance_scale": 3})
    )
    assert (default.X != explicit.X).nnz == 0 and default.uns["scdiffusion"] == explicit.uns["scdiffusion"]
    assert default.uns["scdiffusion"]["guidance_scale"] == 0.15 and strong.uns["scdiffusion"]["guidance_scale"] == 3
    assert trained.generate(20, rng=0).uns["scdiffusion"]["guidance"] == "none"  # nothing is asked for


def test_guidance_by_key_leaves_other_keys_alone(trained):
    request = {"obs_conditions": {"bulk_labels": "CD34+", "phase": "S"}, "n_cells": 20, "rng": 0}
    plain = trained.generate(**request, guidance="none").obsm["X_scdiffusion"]
    both = trained.generate(**request, guidance="classifier_free", guidance_scale={"bulk_labels": 0, "phase": 0})
    np.testing.assert_allclose(both.obsm["X_scdiffusion"], plain, atol=1e-5)
    one = trained.generate(**request, guidance="classifier_free", guidance_scale={"phase": 2})
    assert np.abs(one.obsm["X_scdiffusion"] - plain).max() > 0.01


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpmpp_2m", "euler", DDIMSampler(eta=0.5)])
def test_every_sampler_gives_the_same_kind_of_cells(trained, sampler):
    n_steps = 50 if sampler == "ddpm" else 20
    cells = trained.generate(150, {"bulk_labels": "CD19+ B"}, sampler=sampler, n_steps=n_steps, rng=0)
    reference = trained.generate(150, {"bulk_labels": "CD19+ B"}, rng=1)
    difference = cells.obsm["X_scdiffusion"].mean(0) - reference.obsm["X_scdiffusion"].mean(0)
    assert np.abs(difference).max() < 0.5


def test_library_size_can_be_given(trained):
    cells = trained.generate(200, library_size=2000, rng=0)
    assert np.asarray(cells.X.sum(1)).mean() == pytest.approx(2000, rel=0.1)
    sizes = np.linspace(200, 4000, 50)
    drawn = np.asarray(trained.generate(50, library_size=sizes, rng=0).X.sum(1)).ravel()
    assert np.corrcoef(drawn, sizes)[0, 1] > 0.9


def test_counts_beyond_int32_are_refused_and_never_negative(trained):
    with pytest.raises(ValueError, match="library_size must be below 2,147,483,648 counts; got 1e[+]10"):
        trained.generate(5, library_size=1e10)
    with pytest.raises(ValueError, match="A count of .* was drawn, .* smaller library_size"):
        _as_stored(torch.tensor([3.0, 2.0**31]), torch.int32)
    assert _as_stored(torch.tensor([3.0, 2.0**31 - 128]), torch.int32).tolist() == [3, 2**31 - 128]


def test_chunks_do_not_change_how_many_cells_of_what(trained):
    cells = trained.generate(100, {"bulk_labels": {"CD34+": 60, "Dendritic": 40}}, batch_size=30, rng=0)
    assert cells.obs["bulk_labels"].value_counts().to_dict()["CD34+"] == 60 and cells.n_obs == 100


def test_unseen_combination_is_a_warning_and_goes_on(trained, adata):
    seen = pd.crosstab(adata.obs["bulk_labels"], adata.obs["phase"])
    label, phase = next((i, c) for i in seen.index for c in seen.columns if seen.loc[i, c] == 0)
    with pytest.warns(UserWarning, match="extrapolates"):
        cells = trained.generate(3, {"bulk_labels": label, "phase": phase}, rng=0)
    assert cells.n_obs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs_conditions": {"bulk_label": "CD34+"}}, "Did you mean 'bulk_labels'"),
        ({"obs_conditions": {"bulk_labels": "CD34"}}, "Did you mean 'CD34\\+'"),
        ({"obs_conditions": {"bulk_labels": ["CD34+"] * 3}, "n_cells": 4}, "3 cells"),
        ({"obs_conditions": {"bulk_labels": {"CD34+": 5}}, "n_cells": 4}, "leave n_cells out"),
        ({"n_cells": 0}, "positive integer"),
        ({"sampler": "dpmp"}, "Unknown sampler"),
        ({"n_steps": 0}, "n_steps"),
        ({"guidance": "free"}, "Unknown guidance"),
        ({"guidance_scale": 1.0}, "needs guidance"),
        ({"guidance": "classifier_free", "guidance_scale": -2}, "-1"),
        ({"guidance": "classifier_free", "guidance_scale": {"organ": 1}}, "organ"),
        ({"library_size": -5}, "positive"),
        ({"library_size": [1, 2], "n_cells": 5}, "one per cell"),
        ({"rng": -1}, "rng"),
    ],
)
def test_bad_requests_say_what_to_type(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        trained.generate(**arguments)


def test_untrained_model_says_to_train(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, n_latent=4)
    for call in (model.generate, model.get_latent_representation, lambda: model.decode(np.zeros((1, 4)))):
        with pytest.raises(ValueError, match=r"model\.train\(\)"):
            call()


def test_setup_refuses_log_normalised_values_and_names_the_layer(adata):
    with pytest.raises(ValueError, match="layer='counts'"):
        scd.SCDiffusion.setup_anndata(adata)


def test_bad_settings_say_what_there_is(adata):
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    with pytest.raises(TypeError, match="Did you mean 'n_latent'"):
        scd.SCDiffusion(adata, n_latents=4)
    with pytest.raises(ValueError, match="Unknown preset"):
        scd.SCDiffusion(adata, preset="vae")
    with pytest.raises(ValueError, match="Available"):
        scd.SCDiffusion(adata, n_latent=4, likelihood="normal")


@pytest.mark.parametrize("condition_keys", [None, "bulk_labels", ["bulk_labels", "phase"]])
@pytest.mark.parametrize("batch_key", [None, "chip"])
def test_train_save_load_for_every_kind_of_covariates(adata, tmp_path, condition_keys, batch_key):
    adata.obs["chip"] = pd.Categorical(np.where(np.arange(700) % 3, "a", "b"))
    model = tiny(adata, condition_keys=condition_keys, batch_key=batch_key)
    cells = model.generate(12, rng=0)
    assert cells.n_obs == 12
    if batch_key:
        assert cells.obs["chip"].notna().all()
        assert model.generate(6, {"chip": "b"}, rng=0).obs["chip"].eq("b").all()
    model.save(tmp_path / "model")
    assert same(scd.SCDiffusion.load(tmp_path / "model").generate(12, rng=0), cells)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_every_likelihood_trains_and_generates(adata, likelihood, dispersion):
    scd.SCDiffusion.setup_anndata(adata, layer="counts", batch_key="phase")
    model = scd.SCDiffusion(adata, n_latent=5, likelihood=likelihood, dispersion=dispersion, denoiser_hidden=32)
    model.train(max_epochs=2, progress=False)
    cells = model.generate(100, rng=0)
    real = np.log1p(np.asarray(adata.layers["counts"].mean(0)).ravel())
    assert np.corrcoef(real, np.log1p(np.asarray(cells.X.mean(0)).ravel()))[0, 1] > 0.9


@pytest.mark.parametrize("prediction", ["v", "epsilon", "x0"])
@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_every_prediction_and_schedule_learns_the_latents(adata, prediction, schedule):
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    model = scd.SCDiffusion(adata, n_latent=5, prediction=prediction, schedule=schedule, denoiser_hidden=64)
    model.train({"autoencoder": 1, "diffusion": 12}, progress=False)
    latents = model.generate(500, rng=0).obsm["X_scdiffusion"]
    assert np.abs(latents.mean(0)).max() < 0.35
    assert (np.abs(latents.std(0) - 1) < 0.35).all()


def test_training_goes_on_and_keeps_history_by_stage(adata):
    model = tiny(adata, condition_keys="phase")
    before = model.module.denoiser.output.weight.clone()
    model.train(max_epochs={"autoencoder": 0, "diffusion": 2}, progress=False)
    assert len(model.history["diffusion_train_loss"]) == 3 and len(model.history["autoencoder_train_loss"]) == 1
    assert model.history["diffusion_train_loss"].index.tolist() == [0, 1, 2]
    assert not torch.equal(before, model.module.denoiser.output.weight)
    assert not model.module.training


def test_training_improves_on_held_out_cells(trained):
    for stage in ("autoencoder", "diffusion"):
        loss = trained.history[f"{stage}_validation_loss"].iloc[:, 0]
        assert loss.min() < loss.iloc[0]


def test_interrupted_training_keeps_the_best_weights_and_goes_on(adata):
    from lightning.pytorch import Callback

    class Interrupt(Callback):
        def on_train_epoch_end(self, trainer, stage):
            if stage.name == "diffusion" and trainer.current_epoch == 1:
                raise KeyboardInterrupt

    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, n_latent=5, denoiser_hidden=16)
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=5, progress=False, callbacks=[Interrupt()])
    assert model.generate(5, rng=0).n_obs == 5
    model.train(max_epochs={"autoencoder": 0, "diffusion": 1}, progress=False)


def test_checkpoints_resume_to_the_same_weights(adata, tmp_path):
    from lightning.pytorch import Callback

    class Crash(Callback):
        def on_train_epoch_start(self, trainer, stage):
            if stage.name == "diffusion" and trainer.current_epoch == 2:
                raise RuntimeError("power cut")

    def model():
        data = scd.datasets.pbmc68k_reduced()
        scd.SCDiffusion.setup_anndata(data, layer="counts")
        return scd.SCDiffusion(data, n_latent=5, denoiser_hidden=16)

    crashed, resumed = model(), model()
    with pytest.raises(RuntimeError, match="power cut"):
        crashed.train(max_epochs=4, progress=False, checkpoint_dir=tmp_path, callbacks=[Crash()])
    with pytest.warns(UserWarning, match="Going on with the diffusion"):
        resumed.train(max_epochs=4, progress=False, checkpoint_dir=tmp_path)
    assert resumed.history["diffusion_train_loss"].index.tolist() == [0, 1, 2, 3]
    assert np.isfinite(resumed.generate(5, rng=0).obsm["X_scdiffusion"]).all()


@pytest.mark.parametrize("form", ["dense", "csc", "view", "int64"])
def test_every_form_of_counts_gives_the_same_model(adata, form):
    expected = tiny(scd.datasets.pbmc68k_reduced()).generate(10, rng=0)
    counts = adata.layers["counts"]
    if form == "dense":
        adata.layers["counts"] = counts.toarray()
    elif form == "csc":
        adata.layers["counts"] = counts.tocsc()
    elif form == "int64":
        adata.layers["counts"] = counts.astype(np.int64)
    else:
        adata = adata[:, :].copy()
    assert same(tiny(adata).generate(10, rng=0), expected)


def test_adata_is_changed_only_where_documented(adata):
    before = adata.copy()
    tiny(adata, condition_keys="phase").generate(5, rng=0)
    added = {"obsm": {"_scvi_scdiffusion_conditions"}, "uns": {"_scvi_uuid", "_scvi_manager_uuid"}}
    for field in ("obs", "var", "obsm", "uns", "layers"):
        old, new = set(getattr(before, field)), set(getattr(adata, field))
        assert new - old <= added.get(field, set()) and old <= new
    assert (adata.layers["counts"] != before.layers["counts"]).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_another_model_on_the_same_adata_does_not_disturb(adata):
    import scvi

    model = tiny(adata, condition_keys="bulk_labels")
    expected = model.get_latent_representation()
    scvi.model.SCVI.setup_anndata(adata, layer="counts", batch_key="phase")
    other = scvi.model.SCVI(adata, n_latent=2, n_hidden=8)
    other.train(max_epochs=1, enable_progress_bar=False)
    other.get_latent_representation()
    assert np.array_equal(model.get_latent_representation(), expected)
    model.train(max_epochs={"autoencoder": 0, "diffusion": 1}, progress=False)
    assert model.composition.n_trained == 700 and len(model.composition.n_cells) == 10


def test_latents_keep_the_cell_types_apart(trained, adata):
    scd.tl.latent(adata, trained)
    latents = adata.obsm["X_scdiffusion"]
    assert np.abs(latents.mean(0)).max() < 0.2
    sc.pp.neighbors(adata, use_rep="X_scdiffusion")
    labels = adata.obs["bulk_labels"].to_numpy()
    neighbours = adata.obsp["distances"].tocoo()
    assert (labels[neighbours.row] == labels[neighbours.col]).mean() > 0.55


def test_latent_copy_leaves_the_original(trained, adata):
    copied = scd.tl.latent(adata, trained, key_added="X_new", copy=True)
    assert "X_new" in copied.obsm and "X_new" not in adata.obsm


def test_posterior_predictive_samples_follow_their_cells(trained, adata):
    draws = trained.posterior_predictive_sample(n_samples=3, rng=0)
    assert draws.shape == (700, 765, 3)
    real, drawn = np.asarray(adata.layers["counts"].sum(1)).ravel(), draws[:, :, 0].sum(1).todense()
    assert np.corrcoef(np.log(real), np.log(drawn))[0, 1] > 0.9
    assert trained.posterior_predictive_sample(indices=[3, 5]).shape == (2, 765)


def test_scvi_interface(trained, capsys):
    repr(trained)  # scvi-tools prints its summary
    assert "n_latent" in capsys.readouterr().out
    trained.view_anndata_setup()
    assert "bulk_labels" in capsys.readouterr().out
