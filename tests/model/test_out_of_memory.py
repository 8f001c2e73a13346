"""Training on expression that stays in files."""

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.experimental import AnnCollection
from anndata.io import read_elem, sparse_dataset

import scdiffusion as scd
from scdiffusion.model import _scdiffusion
from scdiffusion.training import OnDiskExpression, _expression, _loaders

SETUP = {"condition_keys": "bulk_labels", "batch_key": "phase"}
SMALL = {"n_latent": 5, "n_hidden": 32, "denoiser_hidden": 32, "condition_hidden": 32}


@pytest.fixture(scope="module")
def cells():
    """Real cells, their counts in X, sorted by type as files often are."""
    adata = scd.datasets.pbmc68k_reduced()
    adata = ad.AnnData(adata.layers["counts"], obs=adata.obs[["bulk_labels", "phase"]], var=adata.var[[]])
    return adata[adata.obs["bulk_labels"].argsort()].copy()


@pytest.fixture(scope="module")
def folder(cells, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cells")
    cells.write_h5ad(folder / "cells.h5ad")
    cells.write_zarr(folder / "cells.zarr")
    shuffled = cells[:, np.random.default_rng(0).permutation(cells.n_vars)]
    cells[:300].copy().write_h5ad(folder / "first.h5ad")
    shuffled[300:].copy().write_h5ad(folder / "second.h5ad")
    return folder


def lazy(group):
    return ad.AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def collection(folder):
    files = [ad.read_h5ad(folder / f"{name}.h5ad", backed="r") for name in ("first", "second")]
    return AnnCollection(files, join_vars="inner")


OPEN = {
    "backed": lambda folder: ad.read_h5ad(folder / "cells.h5ad", backed="r"),
    "h5ad": lambda folder: lazy(h5py.File(folder / "cells.h5ad")),
    "zarr": lambda folder: lazy(zarr.open_group(folder / "cells.zarr", mode="r")),
    "collection": collection,
}


@pytest.fixture
def small_pieces(monkeypatch):
    """Reads a few cells at a time, as of files far larger than memory."""
    monkeypatch.setattr(_expression, "BLOCK", 64)
    monkeypatch.setattr(OnDiskExpression, "run_length", 16)
    monkeypatch.setattr(_loaders, "_BUFFER", 256)


@pytest.fixture
def never_loaded(small_pieces, monkeypatch):
    """Fails when many cells are taken from a file at once."""
    monkeypatch.setattr(_scdiffusion, "_MOST_SAMPLED", 250)
    n_taken, take = [], OnDiskExpression.take

    def watched(self, rows):
        n_taken.append(len(rows))
        return take(self, rows)

    monkeypatch.setattr(OnDiskExpression, "take", watched)
    yield
    assert 0 < max(n_taken) <= 256


def model_of(adata, **settings):
    scd.SCDiffusion.setup_anndata(adata, **SETUP)
    return scd.SCDiffusion(adata, **SMALL, **settings)


@pytest.mark.parametrize("form", OPEN)
def test_trains_without_loading_the_matrix(form, folder, cells, never_loaded):
    adata = OPEN[form](folder)
    model = model_of(adata)
    model.train(max_epochs=1, progress=False, accelerator="cpu")
    generated = model.generate(20, obs_conditions={"bulk_labels": "CD34+"}, rng=0)
    assert generated.X.sum() > 0 and list(generated.var_names) == list(model.var_.index)
    in_memory = cells[:, model.var_.index].copy()
    latents = model.get_latent_representation(in_memory, np.arange(5, 70))
    assert np.allclose(model.get_latent_representation(adata, np.arange(5, 70)), latents, atol=1e-5)
    assert model.library_range_ == [cells.X.sum(1).min(), cells.X.sum(1).max()]


def test_collection_and_files_are_left_as_they_are(folder):
    adata = collection(folder)
    fields = set(vars(adata))
    model_of(adata)
    assert set(vars(adata)) == fields and not any(part.uns for part in adata.adatas)


def test_every_file_of_a_collection_is_read_in_the_order_of_genes(folder, cells):
    adata = scd.model._lazy.as_anndata(collection(folder))
    assert isinstance(adata.X[3:9], sp.csr_matrix)
    rows = np.array([650, 4, 4, 299, 300, 10])
    expected = cells[:, adata.var_names].X
    assert (adata.X[rows] != expected[rows]).nnz == 0
    assert (adata.X[:] != expected).nnz == 0
    assert list(adata.obs["bulk_labels"]) == list(cells.obs["bulk_labels"])


def test_losses_are_those_of_training_in_memory(folder, cells, small_pieces):
    losses = []
    for adata in (OPEN["zarr"](folder), ad.AnnData(cells.X, obs=cells.obs, var=cells.var)):
        model = model_of(adata)
        model.train(max_epochs={"autoencoder": 5, "diffusion": 10}, progress=False, accelerator="cpu", rng=1)
        stages = ("autoencoder", "diffusion")
        losses.append([model.history[f"{stage}_validation_loss"].iloc[-1, 0] for stage in stages])
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_profiles_are_those_of_all_cells(folder, cells, small_pieces):
    profiles = []
    for adata in (OPEN["backed"](folder), cells.copy()):
        encoder = model_of(adata, condition_encoder="mean_expression").module.denoiser.condition_encoder
        profiles.append([part.numpy() for name, part in encoder.named_buffers() if "profile" in name])
    assert len(profiles[0])
    for on_disk, in_memory in zip(*profiles, strict=True):
        assert np.allclose(on_disk, in_memory, atol=1e-5)


def test_lazy_obs_is_refused_with_what_to_do(cells, monkeypatch):
    monkeypatch.setattr(ad.AnnData, "obs", property(lambda self: object()))
    with pytest.raises(TypeError, match="Only the expression may stay on disk: AnnData"):
        scd.SCDiffusion.setup_anndata(cells)


def test_other_cells_are_checked_before_they_are_encoded(folder, cells):
    model = model_of(OPEN["zarr"](folder))
    model.train(max_epochs=1, progress=False, accelerator="cpu")
    wrong = cells.copy()
    wrong.X = wrong.X / 2
    with pytest.raises(ValueError, match="non-integers"):
        model.get_latent_representation(wrong)
