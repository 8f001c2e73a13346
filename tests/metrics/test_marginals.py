import numpy as np
import pytest
from scipy import sparse, stats

from scdiffusion import metrics

rng = np.random.default_rng(0)
X, Y = rng.poisson(rng.gamma(1, 2, size=20), size=(80, 20)), rng.poisson(rng.gamma(1, 2, size=20), size=(60, 20))


@pytest.mark.parametrize("ties", [False, True])
def test_ks_distance_against_scipy(ties):
    a, b = rng.normal(size=300), rng.normal(0.3, size=200)
    a, b = (np.round(a, 1), np.round(b, 1)) if ties else (a, b)
    assert metrics.ks_distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic)
    assert metrics.ks_distance(b, a) == metrics.ks_distance(a, b)
    assert metrics.ks_distance(a, a) == 0
    assert metrics.ks_distance(a, b + 99) == 1


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix, sparse.csc_array])
def test_per_cell_statistics(container):
    counts = container(X)
    np.testing.assert_array_equal(metrics.library_size(counts), X.sum(axis=1))
    np.testing.assert_array_equal(metrics.n_genes(counts), (X > 0).sum(axis=1))
    np.testing.assert_allclose(metrics.zero_fraction(counts), (X == 0).mean(axis=1))


def test_stored_zeros_are_zeros():
    counts = sparse.csr_matrix(X)
    counts.data[:10] = 0
    np.testing.assert_array_equal(metrics.n_genes(counts), (counts.toarray() > 0).sum(axis=1))


def test_gene_mean_correlation_against_scipy():
    a, b = X.mean(axis=0), Y.mean(axis=0)
    assert metrics.gene_mean_correlation(X, Y) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert metrics.gene_mean_correlation(X, Y, method="pearson") == pytest.approx(stats.pearsonr(a, b).statistic)
    assert metrics.gene_mean_correlation(X, X) == pytest.approx(1)
    assert np.isnan(metrics.gene_mean_correlation(X, np.ones_like(X)))


@pytest.mark.parametrize(
    ("metric", "moment"), [(metrics.gene_mean_error, np.mean), (metrics.gene_variance_error, np.var)]
)
def test_moment_errors_against_their_definition(metric, moment):
    used = (X.sum(axis=0) > 0) | (Y.sum(axis=0) > 0)
    a, b = (np.maximum(moment(Z[:, used], axis=0), 1 / 60) for Z in (X, Y))
    assert metric(X, Y) == pytest.approx(np.sqrt(np.mean((np.log10(a) - np.log10(b)) ** 2)))
    assert metric(Y, X) == pytest.approx(metric(X, Y))
    assert metric(X, X) == 0


def test_genes_unseen_on_both_sides_do_not_dilute_the_error():
    padded = [np.pad(Z, ((0, 0), (0, 30))) for Z in (X, Y)]
    assert metrics.gene_mean_error(*padded) == pytest.approx(metrics.gene_mean_error(X, Y))


def test_variance_error_sees_overdispersion_that_means_hide():
    rng = np.random.default_rng(0)
    real = rng.poisson(5, size=(2000, 30))
    overdispersed = rng.poisson(5 * rng.gamma(1, 1, size=(2000, 30)))
    assert metrics.gene_mean_error(real, overdispersed) < 0.02
    assert metrics.gene_variance_error(real, overdispersed) == pytest.approx(np.log10(30 / 5), abs=0.05)
