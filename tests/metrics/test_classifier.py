import numpy as np
import pytest
from scipy import sparse, stats

from scdiffusion import metrics

AUC = {
    "random_forest_auc": lambda *args, **kwargs: metrics.random_forest_auc(*args, n_estimators=50, n_jobs=1, **kwargs),
    "logistic_auc": metrics.logistic_auc,
    "knn_auc": metrics.knn_auc,
}


@pytest.mark.parametrize("name", AUC)
def test_same_distribution_is_near_half_and_disjoint_ones_are_at_one(name):
    X, Y = np.random.default_rng(0).normal(size=(2, 800, 6))
    assert AUC[name](X, Y) == pytest.approx(0.5, abs=0.06)
    assert AUC[name](X, Y + 10) == 1


@pytest.mark.parametrize("name", AUC)
def test_grows_with_the_shift(name):
    X, Y = np.random.default_rng(0).normal(size=(2, 500, 4))
    values = [AUC[name](X, Y + shift) for shift in (0, 0.5, 1, 2)]
    assert values == sorted(values)


@pytest.mark.parametrize("name", ["random_forest_auc", "logistic_auc"])
def test_approaches_the_best_possible_auc(name):
    """Between two unit normals at distance d no classifier beats Phi(d / sqrt 2)."""
    X, Y = np.random.default_rng(0).normal(size=(2, 4000, 1))
    assert AUC[name](X, Y + 1) == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.03)


def test_linear_classifier_is_blind_to_correlation_and_the_others_are_not():
    rng = np.random.default_rng(0)
    X, Z = rng.normal(size=(2, 1000, 1)) + 0.3 * rng.normal(size=(2, 1000, 4))
    # shuffling X itself would give both sides equal means, and a held-out AUC below 0.5
    Y = rng.permuted(Z, axis=0)
    assert metrics.logistic_auc(X, Y) == pytest.approx(0.5, abs=0.06)
    assert AUC["random_forest_auc"](X, Y) > 0.8
    assert metrics.knn_auc(X, Y) > 0.8


def test_copies_of_real_cells_fall_below_half():
    X = np.random.default_rng(0).normal(size=(500, 5))
    assert metrics.knn_auc(X, X) < 0.35


def test_the_seed_decides():
    X, Y = np.random.default_rng(0).normal(size=(2, 100, 3))
    assert metrics.knn_auc(X, Y, rng=1) == metrics.knn_auc(X, Y, rng=np.random.default_rng(1))
    assert len({metrics.knn_auc(X, Y, rng=seed) for seed in range(5)}) > 1


def test_few_generated_cells_are_held_out_in_proportion():
    """Without a stratified split about one seed in twenty would hold out none of ten."""
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(100, 3)), rng.normal(9, size=(10, 3))
    assert {metrics.knn_auc(X, Y, n_neighbors=3, rng=seed) for seed in range(100)} == {1.0}


def test_sparse_logistic_regression_finds_the_same_shift():
    rng = np.random.default_rng(0)
    X, Y = rng.poisson(0.5, size=(400, 30)), rng.poisson(0.7, size=(400, 30))
    dense = metrics.logistic_auc(X, Y)
    assert dense > 0.7
    assert metrics.logistic_auc(sparse.csr_matrix(X), sparse.csr_matrix(Y)) == pytest.approx(dense, abs=0.02)
    assert metrics.logistic_auc(sparse.csr_matrix(X), Y) == pytest.approx(dense, abs=0.02)
