import numpy as np
import pytest
from scipy import sparse, stats

from scdiffusion import metrics

rng = np.random.default_rng(0)
TYPES = np.array(["NK", "B", "T"])[rng.integers(3, size=300)]
EFFECT = {t: rng.normal(size=40) for t in ("B", "NK", "T")}


def expression(types, strength=1.0, noise=0.3, seed=1):
    effects = np.stack([EFFECT[t] for t in types])
    return 5 + strength * effects + noise * np.random.default_rng(seed).normal(size=effects.shape)


X, Y = expression(TYPES), expression(TYPES, seed=2)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix])
def test_fold_changes_against_their_definition(container):
    changes = metrics.log_fold_changes(container(X), TYPES)
    for row, t in zip(changes, ["B", "NK", "T"], strict=True):
        expected = (X[TYPES == t].mean(axis=0) - X[TYPES != t].mean(axis=0)) / np.log(2)
        np.testing.assert_allclose(row, expected, atol=1e-12)
    np.testing.assert_array_equal(metrics.log_fold_changes(container(X), TYPES, groups=["T", "B"]), changes[[2, 0]])


def test_slope_and_correlation_against_scipy():
    a, b = metrics.log_fold_changes(X, TYPES), metrics.log_fold_changes(Y, TYPES)
    fits = [stats.linregress(*pair) for pair in zip(a, b, strict=True)]
    assert metrics.lfc_slope(X, TYPES, Y, TYPES) == pytest.approx(np.mean([fit.slope for fit in fits]))
    assert metrics.lfc_correlation(X, TYPES, Y, TYPES) == pytest.approx(np.mean([fit.rvalue for fit in fits]))
    assert metrics.lfc_slope(X, TYPES, Y, TYPES, groups="T") == pytest.approx(fits[2].slope)


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.5])
def test_slope_is_the_strength_of_the_differences(strength):
    generated = expression(TYPES, strength, seed=3)
    assert metrics.lfc_slope(X, TYPES, generated, TYPES) == pytest.approx(strength, abs=0.02)
    assert metrics.lfc_correlation(X, TYPES, generated, TYPES) > 0.98


def test_integer_labels_and_the_order_of_cells_do_not_matter():
    codes = np.unique(TYPES, return_inverse=True)[1]
    order = np.random.default_rng(0).permutation(300)
    expected = metrics.lfc_slope(X, TYPES, Y, TYPES)
    assert metrics.lfc_slope(X[order], codes[order], Y, codes) == pytest.approx(expected)


def test_marker_overlap():
    assert metrics.marker_overlap(X, TYPES, X, TYPES, n_top=10) == 1
    assert metrics.marker_overlap(X, TYPES, Y, TYPES, n_top=10) > 0.9
    # markers of the reversed effects are the genes at the other end: none in common
    assert metrics.marker_overlap(X, TYPES, expression(TYPES, -1), TYPES, n_top=10) == 0
    unrelated = np.random.default_rng(4).normal(size=X.shape)
    assert metrics.marker_overlap(X, TYPES, unrelated, TYPES, n_top=10) == pytest.approx(10 / 40, abs=0.2)


def test_markers_are_genes_of_high_expression_and_not_of_low():
    generated = X.copy()
    changes = metrics.log_fold_changes(X, TYPES, groups=["B"])[0]
    low = np.argsort(changes)[:20]
    generated[:, low] = generated[:, np.random.default_rng(0).permutation(low)]
    assert metrics.marker_overlap(X, TYPES, generated, TYPES, n_top=10, groups=["B"]) == 1
