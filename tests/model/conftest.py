import pytest

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
