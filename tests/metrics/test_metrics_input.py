"""Bad input fails with a sentence that says what to do."""

import inspect

import numpy as np
import pytest
from scipy import sparse

from scdiffusion import metrics

RNG = np.random.default_rng(0)
X = RNG.poisson(2.0, size=(120, 8)).astype(float)
TYPES = np.repeat(["B", "T"], 60)

PAIRWISE = [
    "density_coverage",
    "energy_distance",
    "gene_correlation_error",
    "gene_correlation_similarity",
    "gene_mean_correlation",
    "gene_mean_error",
    "gene_variance_error",
    "joint_pca",
    "knn_auc",
    "logistic_auc",
    "mmd_scdiffusion",
    "mmd_scld",
    "mmd_unbiased",
    "one_nn_accuracy",
    "precision_recall",
    "random_forest_auc",
    "reference_pca",
    "wasserstein",
]
TAKES_SPARSE = [n for n in PAIRWISE if n.startswith("gene_") or n.endswith(("_pca", "forest_auc", "logistic_auc"))]


@pytest.mark.parametrize("name", PAIRWISE)
@pytest.mark.parametrize(
    ("generated", "message"),
    [
        (np.where(np.arange(8) == 3, np.nan, X), "NaN or infinite"),
        (np.where(np.arange(8) == 3, np.inf, X), "NaN or infinite"),
        (X[:, :5], "8 columns but .* has 5"),
        (X[:0], "0 cell"),
        (X[0], "cells x features"),
        (X.astype(str), "must hold numbers"),
    ],
    ids=["nan", "inf", "columns", "no cells", "vector", "text"],
)
def test_pairwise_metrics_reject(name, generated, message):
    with pytest.raises(ValueError, match=message):
        getattr(metrics, name)(X, generated)


@pytest.mark.parametrize("name", sorted(set(PAIRWISE) - set(TAKES_SPARSE) - {"knn_auc"}))
def test_metrics_of_distances_ask_for_dense_coordinates(name):
    with pytest.raises(ValueError, match="joint_pca"):
        getattr(metrics, name)(sparse.csr_matrix(X), X)


@pytest.mark.parametrize("name", sorted(set(TAKES_SPARSE) - {"joint_pca", "reference_pca", "logistic_auc"}))
@pytest.mark.parametrize("container", [sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix])
def test_sparse_and_dense_agree(name, container):
    options = {"n_estimators": 20, "n_jobs": 1} if name == "random_forest_auc" else {}
    Y = RNG.poisson(2.5, size=X.shape).astype(float)
    metric = getattr(metrics, name)
    # trees break ties between equally good splits differently on sparse columns
    tolerance = 0.05 if name == "random_forest_auc" else 1e-6
    assert metric(container(X), container(Y), **options) == pytest.approx(metric(X, Y, **options), abs=tolerance)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.mmd_scld(X[:20], X), "more than 25 real cells"),
        (lambda: metrics.mmd_unbiased(np.ones((9, 2)), X[:, :2]), "no width"),
        (lambda: metrics.density_coverage(X[:4], X), "at least 6"),
        (lambda: metrics.random_forest_auc(X[:4], X), "at least 10"),
        (lambda: metrics.lisi(X[:40], TYPES[:40]), "at least 90"),
        (lambda: metrics.lisi(X, ["real"] * 120), "at least two"),
        (lambda: metrics.lisi(X, TYPES[:50]), "one label for each of 120 cells"),
        (lambda: metrics.wasserstein(X, X[:9], method="exact"), "same number of cells"),
        (lambda: metrics.wasserstein(X, X, p=3), "p must be 1 or 2"),
        (lambda: metrics.wasserstein(X, X, method="pot"), "'sinkhorn'"),
        (lambda: metrics.joint_pca(X, X), "smaller n_components"),
        (lambda: metrics.log_normalise(-X), "raw counts"),
        (lambda: metrics.ks_distance([], [1.0]), "a must hold one finite number"),
        (lambda: metrics.ks_distance([1.0], [np.nan]), "b must hold one finite number"),
        (lambda: metrics.gene_mean_correlation(X, X, method="kendall"), "'spearman' or 'pearson'"),
        (lambda: metrics.gene_correlation_error(X, X, method="kendall"), "'spearman' or 'pearson'"),
        (lambda: metrics.gene_correlation_error(X[:, :1], X[:, :1]), "at least two genes"),
        (lambda: metrics.gene_mean_error(0 * X, 0 * X), "No gene is expressed"),
        (lambda: metrics.log_fold_changes(X, ["B"] * 120), "at least two types"),
        (lambda: metrics.log_fold_changes(X, TYPES, groups=["B", "NK"]), "No cells of 'NK'"),
        (lambda: metrics.log_fold_changes(X, [None, *TYPES[1:]]), "lacks the label of 1 cell"),
        (lambda: metrics.lfc_slope(X, TYPES, X, np.where(TYPES == "B", "NK", "T")), r"\['B', 'NK'\]"),
        (lambda: metrics.lfc_slope(np.ones((120, 3)), TYPES, X[:, :3], TYPES), "does not differ"),
        (lambda: metrics.marker_overlap(X, TYPES, X, TYPES), "between 1 and 7"),
        (lambda: metrics.label_accuracy(X, ["B"] * 120, X, TYPES), "at least two types"),
        (lambda: metrics.label_accuracy(X, TYPES, X[:, :3], TYPES), "8 columns but X has 3"),
        (lambda: metrics.train_on_synthetic_f1(X, TYPES, X, [float("nan")] * 120), "test_y lacks the label"),
        (lambda: metrics.nearest_training_ratio(X, X, X), "copies of training cells"),
        (lambda: metrics.membership_auc(X, X + 1, X, train_donors=TYPES), "or of neither"),
        (lambda: metrics.membership_auc(X, X, X, train_donors=TYPES, heldout_donors=TYPES), "on both sides: 2"),
    ],
)
def test_message(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_input_is_left_untouched():
    Y = RNG.normal(size=X.shape)
    before = X.copy(), Y.copy()
    for name in PAIRWISE:
        options = {"n_components": 3} if name.endswith("_pca") else {}
        options |= {"n_estimators": 5, "n_jobs": 1} if name == "random_forest_auc" else {}
        getattr(metrics, name)(X, Y, **options)
    np.testing.assert_array_equal((X, Y), before)


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_function_states_its_definition(name):
    doc = inspect.getdoc(getattr(metrics, name))
    assert "Parameters\n" in doc
    assert "Examples\n" in doc
    if name not in {"joint_pca", "reference_pca", "log_normalise", "log_fold_changes", "library_size"}:
        assert "etter" in doc or "perfect" in doc or "ideal" in doc or "(n_cells,)" in doc
