"""Cells of simulated types, and of a simulated development, in which everything between the stages is known."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from simulated_cells import simulate

import scdiffusion as scd

N_GENES = 80
STAGES = ["early", "mid", "late", "last"]


def develop(n_cells: int, *, continuous: bool = False) -> ad.AnnData:
    """Twenty genes rise by a factor of e per stage, twenty fall; twenty others differ between two donors."""
    rng = np.random.default_rng(0)
    stage, donor = rng.integers(len(STAGES), size=n_cells), rng.integers(2, size=n_cells)
    time = rng.uniform(0, 3, n_cells) if continuous else stage.astype(float)
    logs = np.full((n_cells, N_GENES), np.log(5.0)) + rng.normal(0, 0.3, (n_cells, 1)) * np.linspace(-1, 1, N_GENES)
    logs[:, :20] += time[:, None] - 1.5
    logs[:, 20:40] -= time[:, None] - 1.5
    logs[:, 40:60] += 2.0 * donor[:, None] - 1
    obs = pd.DataFrame(
        {
            "stage": pd.Categorical(np.array(STAGES)[stage], categories=STAGES, ordered=True),
            "time": time,
            "donor": pd.Categorical(np.array(["A", "B"])[donor]),
            "chip": pd.Categorical(np.array(["x", "y"])[rng.integers(2, size=n_cells)]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    X = sp.csr_matrix(rng.poisson(np.exp(logs)).astype(np.float32))
    return ad.AnnData(X, obs, pd.DataFrame(index=[f"gene{i}" for i in range(N_GENES)]))


@pytest.fixture(scope="module")
def real() -> ad.AnnData:
    return simulate(400, seed=1)


@pytest.fixture(scope="module")
def train() -> ad.AnnData:
    return simulate(800, seed=2)


@pytest.fixture(scope="session")
def development() -> ad.AnnData:
    """Cells of all stages; models never see the second one."""
    return develop(600)


@pytest.fixture(scope="session")
def continuum() -> ad.AnnData:
    """Cells of one donor all along the way; their `stage` means nothing."""
    cells = develop(600, continuous=True)
    return cells[cells.obs["donor"] == "A"].copy()


@pytest.fixture(scope="session")
def without_mid(development) -> scd.SCDiffusion:
    """A model of stage, donor, batch and time that has not seen the second stage."""
    train = development[development.obs["stage"] != "mid"].copy()
    train.obs["stage"] = train.obs["stage"].cat.remove_unused_categories()
    scd.SCDiffusion.setup_anndata(
        train, condition_keys=["stage", "donor"], batch_key="chip", continuous_condition_keys="time"
    )
    model = scd.SCDiffusion(train, n_latent=4, n_hidden=64, denoiser_hidden=64, denoiser_layers=2)
    model.train(max_epochs={"autoencoder": 10, "diffusion": 30}, progress=False)
    model.train_classifier(["stage", "time"], max_epochs=5, classifier_kwargs={"n_hidden": 64}, progress=False)
    return model


@pytest.fixture(scope="session")
def without_late_b(development) -> scd.SCDiffusion:
    """A model of stage and donor that has not seen the late cells of one donor."""
    held_out = (development.obs["stage"] == "late") & (development.obs["donor"] == "B")
    train = development[~held_out].copy()
    scd.SCDiffusion.setup_anndata(train, condition_keys=["stage", "donor"], batch_key="chip")
    model = scd.SCDiffusion(train, n_latent=4, n_hidden=64, denoiser_hidden=64, denoiser_layers=2)
    model.train(max_epochs={"autoencoder": 10, "diffusion": 12}, progress=False)
    return model


@pytest.fixture(scope="session")
def sees_nothing(development) -> scd.SCDiffusion:
    """A model whose denoiser sees no conditions, hardly trained."""
    cells = development[:200].copy()
    scd.SCDiffusion.setup_anndata(cells, condition_keys=["stage", "donor"])
    model = scd.SCDiffusion(cells, condition_encoder="none", n_latent=3, n_hidden=16, denoiser_hidden=16)
    model.train(max_epochs=1, progress=False)
    return model
