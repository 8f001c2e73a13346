"""Simulated cells whose quality is known: a real resample, a slightly shifted one, and two classic negative baselines."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import sparse

from scdiffusion import metrics

N_CELLS, N_GENES, N_TYPES, N_PROGRAMS = 500, 150, 3, 4


def simulate_counts(n_cells: int, seed: int, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """NB counts of cells of three types; gene programs and the library size correlate the genes within a type."""
    structure = np.random.default_rng(123)  # the population, the same whatever the seed of the sample
    log_mean = structure.normal(0.3, 0.8, size=N_GENES) + structure.normal(0, 0.8, size=(N_TYPES, N_GENES))
    loadings = structure.normal(0, 0.25, size=(N_PROGRAMS, N_GENES))
    log_shift = shift * structure.normal(size=N_GENES)

    rng = np.random.default_rng(seed)
    types = rng.choice(N_TYPES, size=n_cells, p=[0.5, 0.3, 0.2])
    log_library = rng.normal(0, 0.3, size=(n_cells, 1))
    mean = np.exp(log_mean[types] + rng.normal(size=(n_cells, N_PROGRAMS)) @ loadings + log_library + log_shift)
    return rng.poisson(mean * rng.gamma(4, 1 / 4, size=mean.shape)), types


def independent_negative_binomial(counts: np.ndarray, types: np.ndarray, seed: int) -> np.ndarray:
    """Per-type, per-gene NB with the right mean and variance, but no correlation: the baseline to beat."""
    rng = np.random.default_rng(seed)
    drawn = np.empty_like(counts)
    for t in range(N_TYPES):
        rows = types == t
        mean, variance = counts[rows].mean(axis=0) + 1e-9, counts[rows].var(axis=0)
        dispersion = np.maximum(variance - mean, 1e-6 * mean) / mean**2
        rate = mean * dispersion * rng.gamma(1 / dispersion, size=(rows.sum(), N_GENES))
        drawn[rows] = rng.poisson(rate)
    return drawn


@pytest.fixture(scope="session")
def cells() -> SimpleNamespace:
    """Real cells and, from best to worst, what generators might give: counts, log-normalised, PCs, types.

    The PCs are those of further real cells that are compared with nothing, so no side is favoured.
    """
    train, train_types = simulate_counts(N_CELLS, seed=0)
    real, real_types = simulate_counts(N_CELLS, seed=1)
    resample, resample_types = simulate_counts(N_CELLS, seed=2)
    shifted, shifted_types = simulate_counts(N_CELLS, seed=3, shift=0.25)
    counts = {
        "resample": resample,
        "shifted": shifted,
        "independent": independent_negative_binomial(train, train_types, seed=4),
        "shuffled": np.random.default_rng(5).permuted(train, axis=0),
    }
    types = {
        "resample": resample_types,
        "shifted": shifted_types,
        "independent": train_types,
        "shuffled": train_types,
    }
    logs = {name: metrics.log_normalise(sparse.csr_matrix(x)) for name, x in counts.items()}
    real_log = metrics.log_normalise(sparse.csr_matrix(real))
    _, real_pcs, *pcs = metrics.reference_pca(metrics.log_normalise(train), real_log, *logs.values(), n_components=15)
    return SimpleNamespace(
        real=SimpleNamespace(counts=real, log=real_log, pcs=real_pcs, types=real_types),
        generated={
            name: SimpleNamespace(counts=counts[name], log=logs[name], pcs=p, types=types[name])
            for name, p in zip(counts, pcs, strict=True)
        },
    )
