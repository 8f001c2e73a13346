import numpy as np
import pytest
from scipy import sparse

from scdiffusion.datasets import pbmc68k_reduced
from scdiffusion.datasets._pbmc68k import _recover_counts


@pytest.fixture(scope="module")
def adata():
    return pbmc68k_reduced()


def test_counts_are_non_negative_integers(adata):
    counts = adata.layers["counts"]
    assert isinstance(counts, sparse.csr_matrix)
    assert counts.dtype == np.float32
    assert counts.shape == adata.shape == (700, 765)
    assert (counts.data > 0).all()
    assert (counts.data == np.rint(counts.data)).all()


def test_normalising_the_counts_gives_the_stored_expression_back(adata):
    per_ten_thousand = 1e4 / adata.obs["n_counts"].to_numpy(dtype=float)
    again = np.log1p(adata.layers["counts"].toarray() * per_ten_thousand[:, None])
    np.testing.assert_allclose(again, adata.raw[:, adata.var_names].X.toarray(), atol=1e-3)


def test_scanpy_fields_are_kept(adata):
    assert adata.obs["bulk_labels"].nunique() == 10
    assert {"X_pca", "X_umap"} <= set(adata.obsm)
    assert adata.raw is not None


def test_each_call_returns_an_object_of_its_own(adata):
    other = pbmc68k_reduced()
    other.layers["counts"].data[:] = 7
    other.obs["bulk_labels"] = "changed"
    assert not (adata.layers["counts"].data == 7).all()
    assert adata.obs["bulk_labels"].nunique() == 10


def test_recovery_keeps_each_cell_with_its_own_size_factor():
    counts = np.array([[0, 1, 5], [3, 0, 2]], dtype=float)
    size_factors = np.array([0.3, 1.7])
    log_normalised = sparse.csr_matrix(np.log1p(counts / size_factors[:, None]))
    recovered = _recover_counts(log_normalised, size_factors)
    np.testing.assert_array_equal(recovered.toarray(), counts)


@pytest.mark.parametrize("broken", [0.5, np.nan])
def test_values_that_are_not_counts_are_refused(broken):
    log_normalised = sparse.csr_matrix(np.log1p(np.array([[1.0, broken]])))
    with pytest.raises(RuntimeError, match="could not be recovered"):
        _recover_counts(log_normalised, np.ones(1))
