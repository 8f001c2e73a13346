"""scvi-tools' posterior predictive check runs on the model, and tells it from one that mistakes cells for others."""

from types import SimpleNamespace

import numpy as np
import pytest
from scvi.criticism import PosteriorPredictiveCheck

CELLS = np.arange(0, 700, 4)


@pytest.fixture(scope="module")
def check(trained):
    """Check of some training cells; scvi-tools compares counts with their integer parts, which needs integers."""
    counts = trained.adata.copy()
    counts.X = counts.layers["counts"].astype(int)
    return lambda model: PosteriorPredictiveCheck(counts, {"model1": model}, n_samples=3, indices=CELLS)


@pytest.mark.slow  # the sparse package compiles its code
def test_draws_have_the_genes_variation_and_zeros(trained, check):
    ppc = check(trained)
    ppc.coefficient_of_variation("cells")
    ppc.zero_fraction()
    ppc.calibration_error()
    by_gene, zeros = ppc.metrics["cv_gene"], ppc.metrics["zero_fraction"]
    by_gene = by_gene[by_gene["Raw"] > 0].dropna()
    assert by_gene.corr("spearman").loc["model1", "Raw"] > 0.95
    assert (by_gene["model1"] / by_gene["Raw"]).median() == pytest.approx(1, abs=0.1)
    assert (zeros["model1"] - zeros["Raw"]).abs().max() < 0.15
    assert (zeros["model1"] - zeros["Raw"]).mean() == pytest.approx(0, abs=0.01)
    assert 0 <= ppc.metrics["calibration"].loc["features", "model1"] < 0.3


def test_draws_are_those_of_their_own_cells(trained, check):
    def of_other_cells(adata, n_samples, batch_size, indices):
        return trained.posterior_predictive_sample(adata, n_samples, batch_size, np.roll(indices, 40))

    correlations = []
    for model in (trained, SimpleNamespace(adata=trained.adata, posterior_predictive_sample=of_other_cells)):
        ppc = check(model)
        ppc.coefficient_of_variation("features")
        correlations.append(ppc.metrics["cv_cell"].corr("spearman").loc["model1", "Raw"])
    assert correlations[0] > 0.8
    assert correlations[1] < 0.5


def test_no_draws(trained):
    with pytest.raises(ValueError, match="n_samples must be at least 1, not 0"):
        trained.posterior_predictive_sample(n_samples=0)
