"""Two samples of simulated cells of three types, real and generated, and figures that are closed after each test."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

N_GENES = 60
TYPES = ["T", "B", "NK"]
COLORS = ["#ff0000", "#00ff00", "#0000ff"]


def simulate(n_cells: int, seed: int) -> ad.AnnData:
    """Counts in `X`; the first genes are markers of T cells, the next ones of B, then of NK cells."""
    rng = np.random.default_rng(seed)
    mean = np.full((3, N_GENES), 2.0) * np.random.default_rng(0).gamma(2, 0.5, N_GENES)
    for t in range(3):
        mean[t, 5 * t : 5 * t + 5] += 15
    codes = rng.choice(3, n_cells, p=[0.5, 0.3, 0.2])
    return ad.AnnData(
        sparse.csr_matrix(rng.poisson(mean[codes]).astype(np.float32)),
        obs=pd.DataFrame(
            {
                "cell_type": pd.Categorical(np.array(TYPES)[codes], categories=TYPES),
                "depth": rng.random(n_cells),
                "state": np.arange(n_cells) % 4,
            },
            index=[f"cell{i}" for i in range(n_cells)],
        ),
        var=pd.DataFrame(index=[f"GENE{i}" for i in range(N_GENES)]),
    )


@pytest.fixture
def real() -> ad.AnnData:
    """Counts in a layer, scaled expression in `X`, colours and an embedding, as a real dataset has them."""
    adata = simulate(150, seed=1)
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.toarray() - 3
    adata.uns["cell_type_colors"] = np.array(COLORS)
    adata.obsm["X_umap"] = np.full((adata.n_obs, 2), 1e6)
    return adata


@pytest.fixture
def generated() -> ad.AnnData:
    """Counts in `X`, no layer, no colours: what a model returns."""
    return simulate(120, seed=2)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")
