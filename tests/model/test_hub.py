"""Models go to scvi-tools' hub and come back, a local directory standing in for it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from scvi.model import SCVI

import scdiffusion as scd

huggingface_hub = pytest.importorskip("huggingface_hub")
from scvi.hub import HubMetadata, HubModel  # noqa: E402


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A directory in place of huggingface.co."""
    folder = tmp_path / "remote"

    class LocalApi:
        def __init__(self, token=None):
            self.token = token

        def upload_file(self, path_or_fileobj, path_in_repo, repo_id, token):
            (folder / path_in_repo).write_bytes(path_or_fileobj)

        def upload_folder(self, folder_path, repo_id, token, ignore_patterns):
            shutil.copytree(folder_path, folder, ignore=shutil.ignore_patterns(*ignore_patterns), dirs_exist_ok=True)

    def snapshot_download(repo_id, allow_patterns, cache_dir, revision):
        for name in allow_patterns:
            if (folder / name).exists():
                shutil.copy(folder / name, Path(cache_dir) / name)
        return str(cache_dir)

    monkeypatch.setattr(huggingface_hub, "HfApi", LocalApi)
    monkeypatch.setattr(huggingface_hub, "create_repo", lambda name, token, **_: folder.mkdir())
    monkeypatch.setattr("scvi.hub._model.snapshot_download", snapshot_download, raising=False)  # before 1.5
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    card = huggingface_hub.ModelCard
    monkeypatch.setattr(card, "push_to_hub", lambda self, repo_id, token: (folder / "README.md").write_text(str(self)))
    monkeypatch.setattr(card, "load", classmethod(lambda cls, repo_id: cls((folder / "README.md").read_text())))
    return folder


def test_a_model_goes_there_and_back(trained, remote, tmp_path):
    hub = trained.to_hub(
        tmp_path / "model", "cc-by-4.0", title="PBMC 68k", description="Blood.", tissues=["blood"], save_anndata=True
    )
    with pytest.warns(UserWarning, match="No collection"):
        hub.push_to_huggingface_hub("lab/pbmc", repo_token="t", repo_create=True, push_anndata=False)
    assert {file.name for file in remote.iterdir()} == {"model.pt", "README.md", "_scvi_required_metadata.json"}
    (tmp_path / "cache").mkdir()
    pulled = HubModel.pull_from_huggingface_hub("lab/pbmc", cache_dir=tmp_path / "cache", revision="main")
    assert pulled.metadata == hub.metadata
    assert (pulled.metadata.model_cls_name, pulled.metadata.model_parent_module) == ("SCDiffusion", "scdiffusion")
    pulled.load_model(adata=False)
    cells = [model.generate(20, {"bulk_labels": "CD34+"}, n_steps=5, rng=0) for model in (trained, pulled.model)]
    assert (cells[0].X != cells[1].X).nnz == 0


def test_with_its_data_the_hub_loads_them(trained, tmp_path):
    hub = trained.to_hub(tmp_path / "model", "cc-by-4.0", save_anndata=True)
    assert hub.model.adata.n_obs == trained.adata.n_obs
    np.testing.assert_allclose(hub.model.get_latent_representation(), trained.get_latent_representation(), atol=1e-5)
    again = HubModel(str(tmp_path / "model"))  # from the metadata and the card on disk
    assert again.metadata == HubMetadata.from_dir(
        str(tmp_path / "model"), hub.metadata.anndata_version, model_parent_module="scdiffusion"
    )
    assert again.model_card.data.license == "cc-by-4.0"
    with pytest.raises(ValueError, match="already exists"):
        trained.to_hub(tmp_path / "model", "cc-by-4.0")


def test_the_card_says_what_can_be_asked_for(trained, fit_scvi, scvi_cells, tmp_path):
    text = trained.to_hub(tmp_path / "ours", "mit", title="PBMC 68k", tissues=["blood"]).model_card
    assert {"tissue:blood", "model_cls_name:SCDiffusion"} <= set(text.data.tags)
    assert "# PBMC 68k" in text.text and "700 cells and 765 genes, counts" in text.text
    assert "| `phase` | G1, G2M, S |" in text.text and "CD14+ Monocyte" in text.text
    assert "obs_conditions={'bulk_labels': 'Dendritic'}" in text.text

    setup = {"batch_key": "donor", "continuous_covariate_keys": ["pct"]}
    trained_scvi = fit_scvi(SCVI, scvi_cells.copy(), setup)
    model = scd.SCDiffusion.from_scvi_model(trained_scvi, denoiser_hidden=16, condition_hidden=16)
    with pytest.raises(ValueError, match="not trained"):
        model.to_hub(tmp_path / "borrowed", "mit")
    model.train(max_epochs=1, progress=False)
    text = model.to_hub(tmp_path / "borrowed", "mit").model_card.text
    assert "| `donor`, the batch | d1, d2, d3 |" in text and "obs_conditions=None" in text
    low, high = scvi_cells.obs["pct"].min(), scvi_cells.obs["pct"].max()
    assert f"| `pct` | {low:g} to {high:g} |" in text
    assert '"scvi_module": "VAE"' in text
