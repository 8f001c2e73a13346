import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist

from scdiffusion import metrics
from scdiffusion.metrics import _distances

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(60, 4)), rng.normal(0.4, 1.3, size=(60, 4))


def biased(kernel):
    return kernel(X, X).mean() + kernel(Y, Y).mean() - 2 * kernel(X, Y).mean()


def test_scdiffusion_form_against_its_definition():
    b = np.mean(pdist(np.concatenate([X, Y]), "sqeuclidean"))

    def kernel(A, B):
        return sum(np.exp(-cdist(A, B, "sqeuclidean") / (b * 2.0**k)) for k in range(-2, 3))

    assert metrics.mmd_scdiffusion(X, Y) == pytest.approx(biased(kernel), rel=1e-9)


def test_scld_form_against_its_definition():
    distances = np.sort(cdist(X, X), axis=1)[:, 1:26]
    m = np.median(distances.mean(axis=1))

    def kernel(A, B):
        return sum(np.exp(-cdist(A, B, "sqeuclidean") / sigma**2) for sigma in (m / 2, m, 2 * m))

    assert metrics.mmd_scld(X, Y) == pytest.approx(biased(kernel), rel=1e-9)


def test_unbiased_form_against_its_definition():
    sigma, off = np.median(pdist(X)), ~np.eye(60, dtype=bool)

    def kernel(A, B):
        return np.exp(-cdist(A, B, "sqeuclidean") / (2 * sigma**2))

    expected = kernel(X, X)[off].mean() + kernel(Y, Y)[off].mean() - 2 * kernel(X, Y).mean()
    assert metrics.mmd_unbiased(X, Y) == pytest.approx(expected, rel=1e-9)
    assert metrics.mmd_unbiased(X, Y, bandwidth=sigma) == pytest.approx(expected, rel=1e-9)


def test_unbiased_form_averages_to_zero_where_the_biased_ones_do_not():
    draws = np.random.default_rng(1).normal(size=(200, 2, 40, 3))
    unbiased = [metrics.mmd_unbiased(A, B, bandwidth=2.0) for A, B in draws]
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / np.sqrt(200)
    assert min(unbiased) < 0
    assert np.mean([metrics.mmd_scdiffusion(A, B) for A, B in draws]) > 0.05


@pytest.mark.parametrize("metric", [metrics.mmd_scdiffusion, metrics.mmd_scld])
def test_identity_and_order(metric):
    assert metric(X, X) == 0
    assert 0 < metric(X, X + 0.5) < metric(X, X + 1) < metric(X, X + 3)


def test_symmetry():
    assert metrics.mmd_scdiffusion(X, Y) == pytest.approx(metrics.mmd_scdiffusion(Y, X))
    assert metrics.mmd_unbiased(X, Y, bandwidth=2) == pytest.approx(metrics.mmd_unbiased(Y, X, bandwidth=2))


@pytest.mark.parametrize("metric", [metrics.mmd_scdiffusion, metrics.mmd_scld, metrics.mmd_unbiased])
def test_a_change_of_unit_and_origin_changes_nothing(metric):
    assert metric(5 * X + 1000, 5 * Y + 1000) == pytest.approx(metric(X, Y), rel=1e-6)


@pytest.mark.parametrize("metric", [metrics.mmd_scdiffusion, metrics.mmd_scld, metrics.energy_distance])
def test_blocks_do_not_show(monkeypatch, metric):
    whole = metric(X, Y)
    monkeypatch.setattr(_distances, "_BLOCK_ENTRIES", 7 * 60)
    assert metric(X, Y) == pytest.approx(whole, rel=1e-12)


def test_distances_and_nearest_others(monkeypatch):
    monkeypatch.setattr(_distances, "_BLOCK_ENTRIES", 7 * 60)
    blocks = list(_distances.squared_distance_blocks(X, Y))
    assert len(blocks) == 9
    np.testing.assert_allclose(np.concatenate([block for _, block in blocks]), cdist(X, Y, "sqeuclidean"), rtol=1e-9)
    nearest = np.sort(cdist(X, X, "sqeuclidean"), axis=1)[:, 1:6]
    np.testing.assert_allclose(np.sort(_distances.nearest_others(X, 5), axis=1), nearest, rtol=1e-9)
    np.testing.assert_allclose(_distances.nearest_others(X, 5)[:, -1], nearest[:, -1], rtol=1e-9)
