"""Models made from trained scvi-tools models: what they decode is what those say, and how cells are asked for."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from mudata import MuData
from scvi.model import AUTOZI, SCANVI, SCVI, TOTALVI, LinearSCVI

import scdiffusion as scd
from scdiffusion.model._constants import Key

SMALL = {"denoiser_hidden": 16, "condition_hidden": 16}
KEYS = {"batch_key": "donor", "labels_key": "bulk_labels"}
ALL_KEYS = {**KEYS, "categorical_covariate_keys": ["phase"], "continuous_covariate_keys": ["pct"]}
UNLABELLED = {"unlabeled_category": "Unknown"}


@pytest.fixture
def cells(scvi_cells):
    return scvi_cells.copy()


@pytest.fixture(scope="module")
def scvi_model(scvi_cells, fit_scvi):
    """A scVI told of everything it can be."""
    return fit_scvi(SCVI, scvi_cells.copy(), ALL_KEYS, n_epochs=20, encode_covariates=True, gene_likelihood="nb")


@pytest.fixture(scope="module")
def borrowed(scvi_model):
    """A trained model made from it; tests leave it as it is."""
    model = scd.SCDiffusion.from_scvi_model(scvi_model, denoiser_hidden=64, denoiser_layers=2)
    model.train(diffusion_kwargs={"n_steps": 250}, progress=False)
    return model


def registered(trained, key):
    return torch.from_numpy(np.asarray(trained.adata_manager.get_from_registry(key))).long()


def scvi_says(trained, latents, library, pct):
    """scvi-tools' distribution of the expression of its first cells, given latents and library sizes."""
    rows, module = slice(len(latents)), trained.module
    told = {"batch_index": registered(trained, "batch")[rows], "y": registered(trained, "labels")[rows]}
    if not isinstance(trained, LinearSCVI):
        told |= {"cat_covs": registered(trained, "extra_categorical_covs")[rows], "cont_covs": pct[rows, None]}
    z, size = module.z_encoder.z_transformation(latents), library.log()[:, None]
    if module.use_size_factor_key:  # of which our library size is a multiple
        size = size - module.generative(z, size, size_factor=0 * size, **told)["px"].mu.sum(1)[:, None].log()
    return module.generative(z, size, size_factor=size, **told)["px"]


@pytest.mark.parametrize(
    ("cls", "settings", "setup"),
    [
        *[(SCVI, {"gene_likelihood": "nb", "dispersion": d}, {}) for d in ("gene", "gene-batch", "gene-label", "gene-cell")],
        *[(SCVI, {"gene_likelihood": "zinb", "dispersion": d}, {}) for d in ("gene", "gene-batch", "gene-label", "gene-cell")],
        (SCVI, {"gene_likelihood": "poisson"}, {}),
        *[(SCVI, {"gene_likelihood": "normal", "dispersion": d}, {}) for d in ("gene", "gene-batch", "gene-label", "gene-cell")],
        (SCVI, {"use_observed_lib_size": False}, {}),
        (SCVI, {"latent_distribution": "ln"}, {}),
        (SCVI, {"encode_covariates": True, "n_layers": 2}, {}),
        (SCVI, {"encode_covariates": True, "batch_representation": "embedding"}, {}),
        (SCVI, {"gene_likelihood": "nb"}, {"size_factor_key": "size"}),
        (SCANVI, {"gene_likelihood": "nb"}, UNLABELLED),
        (SCANVI, {"dispersion": "gene-cell", "linear_classifier": True}, UNLABELLED),
        (LinearSCVI, {"use_observed_lib_size": True}, {}),
        (LinearSCVI, {"gene_likelihood": "zinb", "dispersion": "gene-batch", "n_layers": 2}, {}),
    ],
    ids=lambda value: " ".join(map(str, value.values())) if isinstance(value, dict) else value.__name__,
)  # fmt: skip
def test_encodes_decodes_and_draws_as_scvi(fit_scvi, cells, cls, settings, setup):
    cells.obs["size"] = np.asarray(cells.layers["counts"].sum(1)).ravel() / 100
    trained = fit_scvi(cls, cells, {**(KEYS if cls is LinearSCVI else ALL_KEYS), **setup}, **settings)
    model = scd.SCDiffusion.from_scvi_model(trained, **SMALL)

    mean, log_variance, log_library, covariates = model._encode(None, None)
    of_scvi = trained.get_latent_representation(return_dist=True)
    np.testing.assert_allclose(mean, of_scvi[0], atol=1e-5)
    np.testing.assert_allclose(log_variance.exp(), of_scvi[1], rtol=1e-4)
    np.testing.assert_allclose(log_library[:, 0].exp(), np.asarray(cells.layers["counts"].sum(1)).ravel(), rtol=1e-4)

    n_cells, n_draws = 5, 400
    z, library = mean[:n_cells], torch.tensor([50.0, 100.0, 200.0, 400.0, 800.0])
    px = scvi_says(trained, z, library, torch.from_numpy(cells.obs["pct"].to_numpy(np.float32)))
    decoded = model.module.autoencoder.parameters_of(z, library, covariates[:n_cells])
    torch.testing.assert_close(decoded.mean, px.mean, rtol=1e-4, atol=1e-6, check_dtype=False)

    repeated = torch.arange(n_cells).repeat_interleave(n_draws)  # not trained, the model standardises nothing
    drawn = model._draw(
        z[repeated], library.log()[repeated, None], covariates[repeated], torch.Generator().manual_seed(0)
    )
    drawn = np.concatenate([block.toarray() for block in drawn]).reshape(n_cells, n_draws, -1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sample = px.sample((n_draws,)).permute(1, 0, 2).numpy()
    if settings.get("gene_likelihood") == "normal":
        sample = sample.clip(min=0).round()
    variances = drawn.var(1), sample.var(1)
    error, spread = drawn.mean(1) - sample.mean(1), np.sqrt(sum(variances) / n_draws)
    assert np.abs(error[spread == 0]).max(initial=0) == 0
    assert np.mean((error / spread)[spread > 0] ** 2) == pytest.approx(1, abs=0.35)
    wide = variances[1] > 1
    assert np.median(variances[0][wide] / variances[1][wide]) == pytest.approx(1, abs=0.1)


def test_decode_is_scvis_normalised_expression(borrowed, scvi_model):
    asked = {"phase": "S", "pct": 11.0}
    latents = borrowed.get_latent_representation(indices=range(200))
    decoded = borrowed.decode(latents, library_size=1.0, batch="d2", covariates=asked)
    z = torch.from_numpy(scvi_model.get_latent_representation(indices=range(200)))
    tell = {"batch_index": torch.ones(200, 1).long(), "cat_covs": torch.full((200, 1), 2), "cont_covs": torch.full((200, 1), 11.0)}  # fmt: skip
    with torch.inference_mode():
        scale = scvi_model.module.generative(z, torch.zeros(200, 1), **tell)["px"].scale
    np.testing.assert_allclose(decoded, scale, rtol=1e-3, atol=1e-7)
    with pytest.raises(ValueError, match="not told 'bulk_labels'. It is told: 'donor', 'phase', 'pct'"):
        borrowed.decode(decoded[:, :4], covariates={"bulk_labels": "CD34+"})
    assert borrowed.decode(np.empty((0, 4))).shape == (0, 100)
    alone = borrowed.decode(latents[:3], library_size=1.0, batch="d2", covariates=asked)
    np.testing.assert_array_equal(alone, decoded[:3])


def test_only_the_diffusion_is_trained(scvi_model):
    model = scd.SCDiffusion.from_scvi_model(scvi_model, **SMALL)
    model.module.train()  # as Lightning would
    model.train(max_epochs=2, progress=False)
    assert set(model.history) == {"diffusion_train_loss", "diffusion_validation_loss"}
    of_scvi = scvi_model.module.state_dict()
    kept = model.module.autoencoder.scvi.state_dict()
    assert any("running_mean" in name for name in kept)
    assert all(torch.equal(tensor, of_scvi[name]) for name, tensor in kept.items())
    with pytest.raises(ValueError, match="no stage 'autoencoder'. The stages are 'diffusion'"):
        model.train({"autoencoder": 1}, progress=False)
    with pytest.raises(ValueError, match="came trained"):
        model.train(autoencoder_kwargs={"lr": 1}, progress=False)


def test_conditions_are_those_of_the_setup(borrowed):
    assert borrowed.condition_keys == ["bulk_labels", "phase"]
    assert borrowed.continuous_condition_keys == ["pct"]
    assert borrowed.batch_key == "donor"
    labels = borrowed.adata.obs["bulk_labels"].value_counts()
    generated = borrowed.generate(400, {"bulk_labels": labels.index[0], "donor": "d3", "phase": "S", "pct": 9.5}, rng=0)
    assert (generated.obs["donor"] == "d3").all() and (generated.obs["pct"] == 9.5).all()
    # what scVI was trained on comes in, and its latents separate cell types
    b_cells = borrowed.generate(200, {"bulk_labels": "CD19+ B"}, rng=0)
    real, latents = borrowed.adata.obs["bulk_labels"], borrowed.get_latent_representation()
    own, other = latents[real == "CD19+ B"], latents[real == "CD14+ Monocyte"]
    toward_other = [np.linalg.norm(b_cells.obsm["X_scdiffusion"] - group.mean(0), axis=1) for group in (own, other)]
    assert np.mean(toward_other[0] < toward_other[1]) > 0.9


def test_what_is_left_out_is_drawn_as_in_training(borrowed):
    generated = borrowed.generate(2000, rng=0)
    real = borrowed.adata.obs
    for key in ("donor", "phase"):
        shares = [frame[key].value_counts(normalize=True).sort_index() for frame in (generated.obs, real)]
        assert np.abs(shares[0] - shares[1]).max() < 0.05
    assert generated.obs["pct"].mean() == pytest.approx(real["pct"].mean(), abs=0.3)
    assert generated.obs["pct"].std() == pytest.approx(real["pct"].std(), abs=0.3)
    assert generated.obs["bulk_labels"].isna().all()
    of_b_cells = borrowed.generate(50, {"bulk_labels": "CD19+ B"}, rng=0)  # which have one donor only
    assert (of_b_cells.obs["donor"] == "d1").all()
    totals = [np.log(np.asarray(x.sum(1)).ravel()) for x in (generated.X, borrowed.adata.layers["counts"])]
    assert np.quantile(totals[0], [0.1, 0.5, 0.9]) == pytest.approx(np.quantile(totals[1], [0.1, 0.5, 0.9]), abs=0.35)


def test_guidance_leaves_what_was_not_asked_for(borrowed):
    uns = borrowed.generate(5, {"bulk_labels": "CD34+"}, guidance="classifier_free", rng=0).uns["scdiffusion"]
    assert uns["guidance"] == "classifier_free"
    with pytest.raises(ValueError, match="no classifier of 'bulk_labels' to guide"):
        borrowed.generate(5, {"bulk_labels": "CD34+"}, guidance="classifier")


def test_saved_model_needs_no_scvi_model(borrowed, tmp_path, monkeypatch):
    borrowed.save(tmp_path / "model")
    assert (tmp_path / "model" / "model.pt").stat().st_size < 4e6  # no cells in it
    contents = torch.load(tmp_path / "model" / "model.pt", weights_only=True)
    assert contents["attr_dict"]["init_params_"]["kwargs"]["overrides"]["scvi_module"] == "VAE"
    for cls in (SCVI, SCANVI):
        monkeypatch.setattr(cls, "__init__", None)
        monkeypatch.setattr(cls, "load", None)
    loaded = scd.SCDiffusion.load(tmp_path / "model")
    asked = {"bulk_labels": "CD34+", "pct": 10}
    cells = [model.generate(20, asked, n_steps=5, rng=0) for model in (borrowed, loaded)]
    assert (cells[0].X != cells[1].X).nnz == 0
    pd.testing.assert_frame_equal(cells[0].obs, cells[1].obs)
    assert not any(weights.requires_grad for weights in loaded.module.autoencoder.parameters())
    with_cells = scd.SCDiffusion.load(tmp_path / "model", borrowed.adata.copy())
    np.testing.assert_allclose(with_cells.get_latent_representation(), borrowed.get_latent_representation(), atol=1e-5)
    with_cells.train(max_epochs=1, progress=False)


def test_new_cells_are_encoded_with_their_covariates(borrowed, scvi_model, scvi_cells):
    """From the user's own AnnData, in which covariates are other columns than the latents."""
    new = scvi_cells[::3].copy()
    of_scvi = scvi_model.get_latent_representation(scvi_cells.copy())[::3]
    of_scvi = (of_scvi - borrowed.module.feature_mean.numpy()[:4]) / borrowed.module.feature_scale.numpy()[:4]
    np.testing.assert_allclose(borrowed.get_latent_representation(new), of_scvi, atol=1e-4)
    for level, agreement in ((0.01, 0.6), (1.0, 0.0)):  # of samples of wide posteriors
        refined = borrowed.refine(new, level, obs_conditions=None, rng=0).obsm["X_scdiffusion"]
        assert abs(np.corrcoef(refined.ravel(), of_scvi.ravel())[0, 1] - agreement) < 0.2, level
    states = scd.tl.interpolate(borrowed, scvi_cells, "bulk_labels", "CD19+ B", "CD34+", n_states=3, n_cells=10, rng=0)
    assert (states.obs["donor"] == "d1").all()
    with pytest.raises(ValueError, match="no condition 'phase'. Available: 'bulk_labels'"):
        scd.tl.interpolate(borrowed, scvi_cells, "phase", "S", "G1")


def test_presets_and_conditions_by_expression(borrowed, scvi_model):
    model = scd.SCDiffusion.from_scvi_model(scvi_model, condition_encoder="mean_expression", denoiser_hidden=16)
    model.train(max_epochs=1, progress=False)
    b_cells = model.adata[model.adata.obs["bulk_labels"] == "CD19+ B"]
    assert model.generate(5, {"bulk_labels": b_cells}, rng=0).n_obs == 5
    with pytest.raises(ValueError, match="'phase' is a covariate, which the decoder must know"):
        model.generate(5, {"phase": b_cells})
    of_paper = scd.SCDiffusion.from_scvi_model(
        scvi_model, preset="scdiffusion", denoiser_hidden=(16, 8), condition_hidden=16
    )
    of_paper.train(max_epochs=1, progress=False)
    assert set(of_paper.classifiers_) == {"bulk_labels", "phase", "pct"}
    # covariates that nobody asked for need nothing to bring them in
    assert of_paper.generate(5, {"bulk_labels": "CD34+"}, n_steps=5, rng=0).n_obs == 5


@pytest.mark.parametrize("encode_covariates", [True, False])
def test_scorer_and_selection(fit_scvi, cells, encode_covariates):
    cells.obs.loc[cells.obs_names[:5], "pct"] = 12.0
    trained = fit_scvi(SCVI, cells, ALL_KEYS, encode_covariates=encode_covariates)
    model = scd.SCDiffusion.from_scvi_model(trained, **SMALL)
    model.train(max_epochs=1, progress=False)
    told, posteriors = [], model._posteriors

    def spy(expression, covariates):
        told.append(covariates.clone())
        return posteriors(expression, covariates)

    model._posteriors = spy
    model.train_scorer(max_epochs=1, scorer_kwargs={"n_generated_per_real": 1}, progress=False)
    real, drawn = told  # generated cells are encoded as of the batch and covariates that they were decoded for
    assert real.shape == drawn.shape == (cells.n_obs, 3)
    assert torch.equal(real.sort(0).values, drawn.sort(0).values)
    kept = model.generate(30, {"bulk_labels": "CD34+", "donor": "d2"}, keep_top=0.5, rng=0)
    assert kept.n_obs == 30 and kept.obs["realness"].between(0, 1).all() and (kept.obs["donor"] == "d2").all()


def test_scanvi_labels_of_all_cells(fit_scvi, cells):
    truth = cells.obs["bulk_labels"].astype(str)
    hidden = np.random.default_rng(1).random(cells.n_obs) < 0.4
    cells.obs["cell_type"] = np.where(hidden, "Unknown", truth)
    trained = fit_scvi(SCANVI, cells, {"labels_key": "cell_type", **UNLABELLED}, n_epochs=15)
    model = scd.SCDiffusion.from_scvi_model(trained, condition_keys="phase", **SMALL)
    assert model.condition_keys == ["cell_type", "phase"]
    labels = model.adata.obs["cell_type"].astype(str).to_numpy()
    assert (labels[~hidden] == truth[~hidden]).all()
    assert (labels[hidden] == trained.predict()[hidden]).all()
    assert "Unknown" not in model.composition.categories["cell_type"]
    assert (cells.obs["cell_type"][hidden] == "Unknown").all()  # the user's cells are as they were
    model.train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match="no category 'Unknown'"):
        model.generate(5, {"cell_type": "Unknown"})


def test_scvi_without_any_covariate_and_values_in_x(fit_scvi, cells):
    trained = fit_scvi(SCVI, cells, {})
    model = scd.SCDiffusion.from_scvi_model(trained, condition_keys=["bulk_labels"], **SMALL)
    assert (model.covariate_keys, model.condition_keys, model.batch_key) == ([], ["bulk_labels"], None)
    model.train(max_epochs=1, progress=False)
    assert list(model.generate(3, rng=0).obs) == ["bulk_labels"]
    in_x = cells.copy()
    in_x.X = np.log1p(in_x.layers["counts"].toarray())
    SCVI.setup_anndata(in_x)
    normal = SCVI(in_x, n_hidden=8, gene_likelihood="normal")
    normal.train(1, enable_progress_bar=False, logger=None)
    model = scd.SCDiffusion.from_scvi_model(normal, **SMALL)
    model.train(max_epochs=1, progress=False)
    generated = model.generate(50, rng=0)
    assert generated.uns["scdiffusion"]["values"] == "log-normalised"
    assert generated.X.dtype == np.float32 and generated.X.data.min() > 0
    assert not np.array_equal(generated.X.data, np.round(generated.X.data))


@pytest.mark.parametrize("keeps_counts", [True, False])
def test_minified_data(fit_scvi, cells, tmp_path, keeps_counts):
    trained = fit_scvi(SCANVI, cells, {**ALL_KEYS, "unlabeled_category": "CD34+"}, n_epochs=2)
    posteriors = encoded(scd.SCDiffusion.from_scvi_model(trained, **SMALL))
    cells.obsm["X_latent_qzm"], cells.obsm["X_latent_qzv"] = trained.get_latent_representation(return_dist=True)
    kind = "latent_posterior_parameters" + ("_with_counts" if keeps_counts else "")
    trained.minify_adata(minified_data_type=kind)
    trained.save(tmp_path / "minified", save_anndata=True)
    for source in (trained, tmp_path / "minified"):
        model = scd.SCDiffusion.from_scvi_model(source, **SMALL)
        for found, known in zip(encoded(model), posteriors, strict=True):
            np.testing.assert_allclose(found, known, atol=1e-4)
    model.train(max_epochs=1, progress=False)
    assert model.generate(20, {"bulk_labels": "CD14+ Monocyte"}, rng=0).X.sum() > 20 * 10
    if not keeps_counts:
        with pytest.raises(ValueError, match="without any count"):
            model.refine()
        with pytest.raises(ValueError, match="only the latents"):
            model.train_scorer()
    model.save(tmp_path / "model", save_anndata=True)
    scd.SCDiffusion.load(tmp_path / "model").train(max_epochs=1, progress=False)
    with pytest.raises(ValueError, match=r"leave adata out, or load it with them, SCANVI.load\(dir"):
        scd.SCDiffusion.from_scvi_model(trained, cells)
    model = scd.SCDiffusion.from_scvi_model(tmp_path / "minified", cells, **SMALL)
    assert Key.POSTERIORS not in model.adata.obsm
    np.testing.assert_allclose(encoded(model)[0], posteriors[0], atol=1e-4)


def encoded(model):
    return [part.numpy() for part in model._registered_posteriors(model.adata_manager)]


@pytest.mark.parametrize("latent_distribution", ["normal", "ln"])
@pytest.mark.parametrize("from_mudata", [False, True])
def test_rna_of_totalvi(cells, latent_distribution, from_mudata):
    cells.obsm["protein"] = np.random.default_rng(0).poisson(5, (cells.n_obs, 12))
    if from_mudata:
        protein = scd.datasets.pbmc68k_reduced()[:, :12].copy()
        protein.X, protein.obs = cells.obsm["protein"].astype(np.float32), protein.obs[[]]
        data = MuData({"rna": cells, "protein": protein})
        data.obs["bulk_labels"] = cells.obs["bulk_labels"]
        modalities = {"rna_layer": "rna", "protein_layer": "protein", "batch_key": "rna"}
        TOTALVI.setup_mudata(data, rna_layer="counts", batch_key="donor", modalities=modalities)
    else:
        data = cells
        TOTALVI.setup_anndata(data, "protein", layer="counts", batch_key="donor")
    trained = TOTALVI(data, n_latent=4, gene_likelihood="zinb", latent_distribution=latent_distribution)
    trained.train(1, enable_progress_bar=False, logger=None)
    model = scd.SCDiffusion.from_scvi_model(trained, condition_keys="bulk_labels", **SMALL)
    assert model.var_.index.equals(cells.var_names)
    mean, _, log_library, covariates = model._encode(None, None)
    z = mean.softmax(-1) if latent_distribution == "ln" else mean
    with torch.inference_mode():
        none = torch.zeros(len(z), 1).long()
        px = trained.module.generative(z, log_library.exp(), covariates.long(), none)["px_"]
        decoded = model.module.autoencoder.parameters_of(mean, log_library.exp()[:, 0], covariates)
    np.testing.assert_allclose(decoded.log_rate.exp(), px["rate"], rtol=1e-3)
    np.testing.assert_allclose(decoded.log_dispersion[0], px["r"].log(), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(decoded.zero_logits, px["dropout"])
    model.train(max_epochs=1, progress=False)
    assert model.generate(20, {"bulk_labels": "CD34+", "donor": "d1"}, rng=0).shape == (20, 100)
    with pytest.raises(ValueError, match="encodes RNA together with protein"):
        model.refine()
    with pytest.raises(ValueError, match="only the latents"):
        model.train_scorer()


def test_saved_directories(scvi_model, fit_scvi, cells, tmp_path):
    scvi_model.save(tmp_path / "scvi", save_anndata=False)
    model = scd.SCDiffusion.from_scvi_model(str(tmp_path / "scvi"), cells, **SMALL)
    assert all(map(np.array_equal, encoded(model), encoded(scd.SCDiffusion.from_scvi_model(scvi_model, **SMALL))))
    with pytest.raises(ValueError, match="No cells were saved in .* trained on"):
        scd.SCDiffusion.from_scvi_model(tmp_path / "scvi")
    with pytest.raises(ValueError, match="no scvi-tools model in"):
        scd.SCDiffusion.from_scvi_model(tmp_path)
    (tmp_path / "attr.pkl").touch()
    with pytest.raises(ValueError, match="before 0.15. Convert it"):
        scd.SCDiffusion.from_scvi_model(tmp_path)
    with pytest.raises(ValueError, match="40 of the model's 100 genes are missing"):
        scd.SCDiffusion.from_scvi_model(tmp_path / "scvi", cells[:, :60].copy())


def test_cells_that_do_not_fit_the_setup_are_refused(scvi_model, scvi_cells, tmp_path):
    def without(column):
        return ad.AnnData(obs=scvi_cells.obs.drop(columns=column), var=scvi_cells.var, layers=scvi_cells.layers)

    def with_new(column):
        cells = scvi_cells.copy()
        cells.obs[column] = cells.obs[column].astype(str)
        cells.obs.iloc[:5, cells.obs.columns.get_loc(column)] = "new"
        return cells

    scvi_model.save(tmp_path / "scvi")
    keys = [ALL_KEYS["batch_key"], *ALL_KEYS["categorical_covariate_keys"]]
    wrong = [(without(key), f"no column '{key}', which the model was set up with") for key in [*keys, "pct"]]
    wrong += [(with_new(key), rf"\['{key}'\] holds 'new', which the model was not trained on") for key in keys]
    wrong += [(ad.AnnData(scvi_cells.layers["counts"], scvi_cells.obs, scvi_cells.var), "layers has no 'counts'")]
    for cells, message in wrong:
        for source in (scvi_model, tmp_path / "scvi"):
            with pytest.raises(ValueError, match=message):
                scd.SCDiffusion.from_scvi_model(source, cells)


def test_what_cannot_be_taken(scvi_model, fit_scvi, cells):
    make = scd.SCDiffusion.from_scvi_model
    AUTOZI.setup_anndata(cells, layer="counts")
    with pytest.raises(
        TypeError, match="takes a trained 'SCVI', 'SCANVI', 'LinearSCVI', 'TOTALVI' model, not 'AUTOZI'"
    ):
        make(AUTOZI(cells))
    with pytest.raises(TypeError, match="not 'AnnData'"):
        make(cells)
    SCVI.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match="not trained yet"):
        make(SCVI(cells))
    others = cells.copy()
    others.var_names = [f"gene{i}" for i in range(100)]
    for wrong, message in (
        (others, "100 of the model's 100 genes are missing"),
        (cells[:, ::-1].copy(), "another order"),
    ):
        with pytest.raises(ValueError, match=message):
            make(scvi_model, wrong)
    with pytest.raises(ValueError, match="no column 'celltype'"):
        make(scvi_model, condition_keys="celltype")
    with pytest.raises(TypeError, match="takes no n_latent"):
        make(scvi_model, n_latent=3)
    scd.SCDiffusion.setup_anndata(cells, layer="counts")
    with pytest.raises(ValueError, match="from_scvi_model"):
        scd.SCDiffusion(cells, autoencoder="borrowed")
    odd = fit_scvi(SCVI, cells, {}, var_activation=torch.nn.functional.softplus)
    with pytest.raises(ValueError, match="var_activation=.* cannot be stored"):
        make(odd)
