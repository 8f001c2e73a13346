import numpy as np
import pytest
from scipy import stats

from scdiffusion import metrics

rng = np.random.default_rng(0)
X = rng.normal(size=(300, 3)) @ rng.normal(size=(3, 12)) + rng.normal(size=(300, 12))
Y = rng.normal(size=(250, 12)) + X[:250]
UPPER = np.triu_indices(12, k=1)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_against_scipy(method):
    def correlations(Z):
        return (stats.spearmanr(Z).statistic if method == "spearman" else np.corrcoef(Z.T))[UPPER]

    a, b = correlations(X), correlations(Y)
    assert metrics.gene_correlation_error(X, Y, method=method) == pytest.approx(np.abs(a - b).mean())
    assert metrics.gene_correlation_similarity(X, Y, method=method) == pytest.approx(np.corrcoef(a, b)[0, 1])


def test_identity():
    assert metrics.gene_correlation_error(X, X) == 0
    assert metrics.gene_correlation_similarity(X, X) == pytest.approx(1)


def test_only_the_most_variable_real_genes_count():
    real, generated = X.copy(), Y.copy()
    real[:, :6] *= 100  # Spearman ignores the scale, the choice of genes does not
    chosen = metrics.gene_correlation_error(X[:, :6], Y[:, :6])
    assert metrics.gene_correlation_error(real, generated, n_top=6) == pytest.approx(chosen)


def test_a_constant_generated_gene_counts_as_uncorrelated():
    generated = X.copy()
    generated[:, 0] = 1.0
    correlations = stats.spearmanr(X).statistic
    expected = np.abs(correlations[0, 1:]).sum() / len(UPPER[0])
    assert metrics.gene_correlation_error(X, generated) == pytest.approx(expected)


def test_similarity_ignores_the_strength_and_the_error_does_not():
    noisy = X + 2 * np.random.default_rng(1).normal(size=X.shape)
    assert metrics.gene_correlation_similarity(X, noisy) > 0.9
    assert metrics.gene_correlation_error(X, noisy) > 0.1
    assert np.isnan(metrics.gene_correlation_similarity(X[:, :2], X[:, :2]))
