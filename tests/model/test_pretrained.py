import numpy as np
import pytest
import torch

import scdiffusion as scd

SMALL = {"denoiser_hidden": (16, 8), "condition_hidden": 16}


def write(model, path):
    """A SCimilarity model directory of a trained model's autoencoder."""
    path.mkdir()
    for name in ("encoder", "decoder"):
        torch.save({"state_dict": getattr(model.module.autoencoder, name).state_dict()}, path / f"{name}.ckpt")
    (path / "gene_order.tsv").write_text("\n".join(model.var_.index))
    return path


def held_out_loss(adata, n_epochs, lr=5e-4, **kwargs):
    scd.SCDiffusion.setup_anndata(adata)
    model = scd.SCDiffusion(adata, "scdiffusion", **SMALL, **kwargs)
    model.train(max_epochs={"autoencoder": n_epochs, "diffusion": 0}, autoencoder_kwargs={"lr": lr}, progress=False)
    return model, model.history["autoencoder_validation_loss"].to_numpy().ravel()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Trained on the first 400 genes of half the cells."""
    adata = scd.datasets.pbmc68k_reduced()[:350, :400].copy()
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    model = scd.SCDiffusion(adata, "scdiffusion", n_latent=8, n_hidden=(24, 16), **SMALL)
    model.train(max_epochs={"autoencoder": 30, "diffusion": 0}, progress=False)
    return write(model, tmp_path_factory.mktemp("pretrained") / "model")


@pytest.fixture
def other_cells(adata):
    """The other half of the cells, with 365 genes that the pretrained autoencoder knows and 265 that it does not."""
    adata = adata[350:, 35:665].copy()
    adata.obs_names = [f"other_{i}" for i in range(adata.n_obs)]
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="phase")
    return adata


def test_sizes_and_number_of_matching_genes_are_read(directory, other_cells, capsys):
    model = scd.SCDiffusion(other_cells, "scdiffusion", pretrained=directory, **SMALL)
    autoencoder = model.module.autoencoder
    assert autoencoder.n_latent == 8 and autoencoder.encoder.network[1][1].weight.shape == (16, 24)
    assert model.pretrained_ == {"path": str(directory), "n_genes": 630, "n_matching_genes": 365}
    repr(model)
    assert "365 of 630 genes pretrained" in capsys.readouterr().out


def test_training_starts_nearer_to_its_end(directory, other_cells):
    adata = other_cells
    adata.X = adata.layers["counts"]
    _, scratch = held_out_loss(adata, 3, n_latent=8, n_hidden=(24, 16))
    for freeze in (False, True):
        _, pretrained = held_out_loss(adata, 3, pretrained=directory, freeze_hidden=freeze)
        assert (pretrained < 0.9 * scratch).all()


def test_frozen_layers_stay_as_they_came(directory, other_cells):
    model = scd.SCDiffusion(other_cells, "scdiffusion", pretrained=directory, freeze_hidden=True, **SMALL)
    model.train(max_epochs=1, progress=False)
    pretrained = torch.load(directory / "encoder.ckpt", weights_only=True)["state_dict"]
    trained = model.module.autoencoder.encoder.state_dict()
    for name, tensor in pretrained.items():
        assert name.startswith("network.0") or torch.equal(trained[name], tensor), name
    assert not torch.equal(trained["network.0.2.weight"], pretrained["network.0.2.weight"])


def test_saved_model_does_not_need_the_directory(directory, other_cells, tmp_path):
    moving = tmp_path / "moving"
    directory.rename(moving)
    try:
        model = scd.SCDiffusion(other_cells, "scdiffusion", pretrained=moving, freeze_hidden=True, **SMALL)
        model.train(max_epochs=1, progress=False)
        model.save(tmp_path / "model")
    finally:
        moving.rename(directory)
    loaded = scd.SCDiffusion.load(tmp_path / "model", other_cells)
    cells = [m.generate(10, {"phase": "S"}, n_steps=5, rng=0) for m in (model, loaded)]
    assert (cells[0].X != cells[1].X).nnz == 0
    assert loaded.pretrained_ == model.pretrained_
    assert not loaded.module.autoencoder.encoder.network[1][1].weight.requires_grad
    loaded.train(max_epochs=1, progress=False)


def test_few_matching_genes_are_a_warning(directory, adata):
    data = adata[:, 350:].copy()
    scd.SCDiffusion.setup_anndata(data, layer="counts")
    with pytest.warns(UserWarning, match="Only 50 of 415 genes"):
        scd.SCDiffusion(data, "scdiffusion", pretrained=directory, **SMALL)


@pytest.mark.parametrize(
    ("preset", "overrides", "message"),
    [
        ("scdiffusion", {"n_latent": 4}, "n_latent is read from the pretrained directory"),
        ("scdiffusion", {"n_hidden": (8,)}, "n_hidden is read from the pretrained directory"),
        (None, {}, "autoencoder 'counts' has not. Pass preset='scdiffusion'"),
        ("scld", {}, "autoencoder 'linear' has not"),
    ],
)
def test_settings_that_contradict_the_directory(directory, other_cells, preset, overrides, message):
    with pytest.raises(ValueError, match=message):
        scd.SCDiffusion(other_cells, preset, pretrained=directory, **overrides)


def test_no_shared_genes_and_no_directory(directory, adata, tmp_path):
    data = adata[:, 400:].copy()
    scd.SCDiffusion.setup_anndata(data, layer="counts")
    with pytest.raises(ValueError, match="None of the 365 genes"):
        scd.SCDiffusion(data, "scdiffusion", pretrained=directory, **SMALL)
    with pytest.raises(ValueError, match="not a SCimilarity model directory"):
        scd.SCDiffusion(data, "scdiffusion", pretrained=tmp_path, **SMALL)


def test_weights_of_one_study_help_with_another(shared_data, tmp_path):
    """PBMC 3k to sorted PBMC, two epochs: Fig. 2a of the paper in small."""
    source, target = shared_data("pbmc3k"), shared_data("pbmc_facs_zheng")[:1200].copy()
    teacher, _ = held_out_loss(source[:1200].copy(), 10, lr=3e-3, n_latent=16, n_hidden=(32, 32))
    directory = write(teacher, tmp_path / "model")
    _, scratch = held_out_loss(target, 2, n_latent=16, n_hidden=(32, 32))
    model, pretrained = held_out_loss(target, 2, pretrained=directory)
    assert model.pretrained_["n_matching_genes"] == len(np.intersect1d(source.var_names, target.var_names))
    assert (pretrained < 0.8 * scratch).all()
