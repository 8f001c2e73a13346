import warnings

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import cdist, pdist

from scdiffusion import metrics

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(150, 5)), rng.normal(0.5, 1.5, size=(150, 5))
CENTRES = 20 * rng.normal(size=(4, 5))


def earth_mover(X, Y, p):
    ot = pytest.importorskip("ot")
    return ot.emd2([], [], cdist(X, Y) ** p) ** (1 / p)


def test_energy_distance_against_scipy_in_one_dimension():
    assert metrics.energy_distance(X[:, :1], Y[:70, :1]) == pytest.approx(
        stats.energy_distance(X[:, 0], Y[:70, 0]) ** 2, rel=1e-9
    )


def test_energy_distance_against_its_definition():
    cross = 2 * cdist(X, Y).mean()
    biased = cross - cdist(X, X).mean() - cdist(Y, Y).mean()
    assert metrics.energy_distance(X, Y) == pytest.approx(biased, rel=1e-6)
    unbiased = cross - pdist(X).mean() - pdist(Y).mean()
    assert metrics.energy_distance(X, Y, unbiased=True) == pytest.approx(unbiased, rel=1e-6)


def test_energy_distance_axioms():
    assert metrics.energy_distance(X, X) == 0
    assert metrics.energy_distance(X, Y) == pytest.approx(metrics.energy_distance(Y, X))
    assert 0 < metrics.energy_distance(X, X + 0.1) < metrics.energy_distance(X, X + 1)


@pytest.mark.parametrize("p", [1, 2])
def test_exact_wasserstein_against_pot(p):
    assert metrics.wasserstein(X, Y, p=p, method="exact") == pytest.approx(earth_mover(X, Y, p), rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize(
    "Y",
    [
        Y,
        Y[:97],
        Y + 300,
        np.concatenate([Y[:-1], Y[-1:] + 1e4]),
        CENTRES[rng.integers(3, size=150)] + Y,
    ],
    ids=["equal n", "unequal n", "far", "outlier", "clusters"],
)
def test_sinkhorn_against_pot(p, Y):
    X_ = X + CENTRES[np.arange(150) % 4] if np.ptp(Y) < 200 and np.ptp(Y) > 30 else X
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = metrics.wasserstein(X_, Y, p=p, method="sinkhorn")
    # never below the optimum, but for the plan's tolerance on the weights
    assert earth_mover(X_, Y, p) * 0.998 < value < earth_mover(X_, Y, p) * 1.03


def test_wasserstein_against_scipy_in_one_dimension():
    expected = stats.wasserstein_distance(X[:, 0], Y[:, 0])
    assert metrics.wasserstein(X[:, :1], Y[:, :1], p=1) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("p", [1, 2])
@pytest.mark.parametrize("method", ["exact", "sinkhorn"])
def test_wasserstein_axioms(p, method):
    def distance(A, B):
        return metrics.wasserstein(A, B, p=p, method=method)

    assert distance(X, X) == pytest.approx(0, abs=1e-2)
    assert distance(X, Y) == pytest.approx(distance(Y, X), rel=5e-3)
    assert distance(X, X + 5) == pytest.approx(np.sqrt(5) * 5, rel=2e-2)
    Z = Y[::-1] * [1, -1, 1, -1, 1]
    assert distance(X, Z) <= distance(X, Y) + distance(Y, Z)


def test_auto_takes_the_exact_distance_where_it_can():
    assert metrics.wasserstein(X, Y) == metrics.wasserstein(X, Y, method="exact")
    assert metrics.wasserstein(X, Y[:99]) == metrics.wasserstein(X, Y[:99], method="sinkhorn")
    assert metrics.wasserstein(np.ones((9, 2)), np.ones((5, 2))) == 0
