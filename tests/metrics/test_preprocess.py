import numpy as np
import pytest
from scipy import sparse

from scdiffusion import metrics

rng = np.random.default_rng(0)
COUNTS = rng.poisson(rng.gamma(0.5, 2, size=30), size=(60, 30))


def test_log_normalise_against_scanpy():
    sc = pytest.importorskip("scanpy")
    adata = sc.AnnData(COUNTS.astype(np.float32))
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    np.testing.assert_allclose(metrics.log_normalise(COUNTS), adata.X, rtol=1e-5)
    log = metrics.log_normalise(sparse.csr_matrix(COUNTS))
    assert log.format == "csr"
    assert log.dtype == np.float32
    np.testing.assert_allclose(log.toarray(), adata.X, rtol=1e-5)


def test_empty_cells_stay_empty():
    counts = COUNTS.copy()
    counts[3] = 0
    for log in (metrics.log_normalise(counts), metrics.log_normalise(sparse.csr_matrix(counts)).toarray()):
        assert log[3].sum() == 0
        assert np.isfinite(log).all()


def singular_coordinates(fit_on, X, n_components):
    centre = fit_on.mean(axis=0)
    _, _, axes = np.linalg.svd(fit_on - centre, full_matrices=False)
    return (X - centre) @ axes[:n_components].T


def assert_same_up_to_sign(a, b):
    signs = np.sign((a * b).sum(axis=0))
    np.testing.assert_allclose(a * signs, b, atol=1e-3)


@pytest.mark.parametrize("container", [np.asarray, sparse.csr_matrix])
def test_pca_against_the_singular_value_decomposition(container):
    log = metrics.log_normalise(COUNTS).astype(np.float64)
    a, b = log[:40], log[40:]
    joint = np.concatenate(metrics.joint_pca(container(a), container(b), n_components=4))
    assert_same_up_to_sign(joint, singular_coordinates(log, log, 4))
    reference = metrics.reference_pca(container(a), container(b), n_components=4)
    for X, pcs in zip((a, b), reference, strict=True):
        assert_same_up_to_sign(pcs, singular_coordinates(a, X, 4))


def test_generated_cells_are_centred_with_the_real_mean():
    """Without that a shift of all cells would vanish, or become the distance to the origin."""
    log = metrics.log_normalise(COUNTS)
    real, shifted = metrics.reference_pca(log, log + 1, n_components=4)
    assert np.abs(real.mean(axis=0)).max() < 1e-4
    assert np.linalg.norm(shifted.mean(axis=0)) > 1e-2


def test_pca_is_deterministic():
    log = metrics.log_normalise(sparse.csr_matrix(COUNTS))
    first, second = (metrics.joint_pca(log[:30], log[30:], n_components=5) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_cells_that_the_axes_were_fitted_on_stand_out():
    """The reason to fit on training cells and to compare held-out with generated ones."""
    train, heldout, resample = np.random.default_rng(0).normal(size=(3, 400, 300))
    train, heldout, resample = metrics.reference_pca(train, heldout, resample, n_components=20)
    assert metrics.knn_auc(heldout, resample) == pytest.approx(0.5, abs=0.08)
    assert metrics.knn_auc(train, resample) > 0.6
