"""Cells of three simulated types, and an evaluation of few metrics."""

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scdiffusion.tl import evaluate

N_GENES, TYPES = 120, np.array(["B", "NK", "T"])
FAST = ["library_size", "gene_variance_error", "gene_correlation_error", "mmd_unbiased", "energy_distance", "knn_auc"]
ONE = ["energy_distance"]


def simulate(n_cells: int, seed: int, *, shift: float = 0.0) -> AnnData:
    """NB counts of cells of three types; gene programs and the library size correlate the genes within a type."""
    population = np.random.default_rng(123)
    log_mean = population.normal(0.3, 0.8, size=N_GENES) + population.normal(0, 0.8, size=(3, N_GENES))
    loadings = population.normal(0, 0.3, size=(4, N_GENES))
    log_shift = shift * population.normal(size=N_GENES)
    rng = np.random.default_rng(seed)
    types = rng.choice(3, size=n_cells, p=[0.5, 0.3, 0.2])
    log_rate = log_mean[types] + rng.normal(size=(n_cells, 4)) @ loadings + rng.normal(0, 0.3, size=(n_cells, 1))
    counts = rng.poisson(np.exp(log_rate + log_shift) * rng.gamma(4, 1 / 4, size=log_rate.shape))
    obs = pd.DataFrame({"cell_type": TYPES[types]}, index=[f"{seed}-{i}" for i in range(n_cells)])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs, pd.DataFrame(index=gene_names()))


def gene_names() -> list[str]:
    return [f"gene{i}" for i in range(N_GENES)]


def log_normalised(adata: AnnData) -> AnnData:
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def run(real, generated, **kwargs) -> pd.DataFrame:
    return evaluate(real, generated, **({"progress": False, "metrics": FAST} | kwargs))


def by_metric(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["group"] == "all"].set_index("metric")
