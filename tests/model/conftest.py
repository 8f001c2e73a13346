import warnings

import numpy as np
import pytest
import torch

import scdiffusion as scd

#: Each preset at a size for tests.
SMALL = {
    None: {"n_latent": 5, "n_hidden": 32, "denoiser_hidden": 32, "condition_hidden": 32},
    "scdiffusion": {"n_latent": 16, "n_hidden": (32, 32), "denoiser_hidden": (32, 16), "condition_hidden": 32},
    "scld": {"n_latent": 16, "n_hidden": 32, "denoiser_hidden": (8, 16), "condition_hidden": 32, "keep_top": "none"},
}


@pytest.fixture(scope="session")
def small_preset():
    """Trains each preset once, for two epochs, or once more with other settings."""
    trained = {}

    def train(preset, **overrides):
        name = (preset, *overrides.items())
        if name not in trained:
            adata = scd.datasets.pbmc68k_reduced()
            scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
            trained[name] = scd.SCDiffusion(adata, preset, **SMALL[preset], **overrides)
            trained[name].train(max_epochs=2, progress=False)
        return trained[name]

    return train


@pytest.fixture(scope="session")
def scvi_cells():
    """A few hundred cells of a hundred genes with covariates; one donor has hardly any B cells."""
    adata = scd.datasets.pbmc68k_reduced()
    adata = adata[:, np.asarray(adata.layers["counts"].sum(0)).ravel().argsort()[-100:]].copy()
    adata.X = None
    rng = np.random.default_rng(0)
    adata.obs["donor"] = rng.choice(["d1", "d2", "d3"], adata.n_obs, p=[0.2, 0.3, 0.5])
    adata.obs.loc[adata.obs["bulk_labels"] == "CD19+ B", "donor"] = "d1"
    adata.obs["pct"] = rng.normal(10, 2, adata.n_obs)
    return adata


@pytest.fixture(scope="session")
def fit_scvi():
    """Sets up and trains a tiny scvi-tools model."""

    def fit(cls, adata, setup, n_epochs=1, **settings):
        with warnings.catch_warnings(), torch.random.fork_rng():
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            cls.setup_anndata(adata, layer="counts", **setup)
            model = cls(adata, n_latent=4, **({} if cls.__name__ == "TOTALVI" else {"n_hidden": 16}), **settings)
            model.train(n_epochs, enable_progress_bar=False, accelerator="cpu", logger=None)
        return model

    return fit
