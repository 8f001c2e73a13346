import h5py
import numpy as np
import pytest
import scipy.sparse as sp
import zarr
from anndata.io import sparse_dataset, write_elem

from scdiffusion.training import InMemoryExpression, OnDiskExpression, _expression, expression_source


@pytest.fixture
def matrix():
    return sp.random(300, 7, 0.4, format="csr", dtype=np.float64, random_state=0)


def in_h5(matrix, path):
    file = h5py.File(path / "X.h5", "w")
    write_elem(file, "X", matrix)
    return file["X"]


def in_zarr(matrix, path):
    group = zarr.open_group(path / "X.zarr", mode="w")
    write_elem(group, "X", matrix)
    return group["X"]


@pytest.fixture(params=["memory", "h5 sparse", "zarr sparse", "h5 dense", "zarr dense"])
def stored(request, matrix, tmp_path, monkeypatch):
    monkeypatch.setattr(_expression, "BLOCK", 64)
    if request.param == "memory":
        return matrix
    place, form = request.param.split()
    element = {"h5": in_h5, "zarr": in_zarr}[place](matrix if form == "sparse" else matrix.toarray(), tmp_path)
    return sparse_dataset(element) if form == "sparse" else element


def test_blocks_are_all_rows_in_order(stored, matrix):
    blocks = list(expression_source(stored).blocks())
    assert np.allclose(sp.vstack(blocks).toarray(), matrix.toarray())
    assert all(isinstance(block, sp.csr_matrix) and block.dtype == np.float32 for block in blocks)


@pytest.mark.parametrize("rows", [[], [5], [0, 1, 2, 63, 64, 299], [7, 3, 3, 250], range(300)])
def test_takes_any_rows(stored, matrix, rows):
    rows = np.array(rows, dtype=np.int64)
    taken = expression_source(stored).take(rows)
    assert isinstance(taken, sp.csr_matrix) and taken.dtype == np.float32
    assert np.allclose(taken.toarray(), matrix.toarray()[rows])


def test_only_what_is_needed_is_read(matrix):
    class Counted:
        shape, n_rows = matrix.shape, []

        def __getitem__(self, rows):
            self.n_rows.append(rows.stop - rows.start)
            return matrix[rows]

    source = OnDiskExpression(Counted())
    source.run_length = 10
    source.take(np.array([3, 5, 100, 101, 299]))
    assert Counted.n_rows == [3, 2, 1]


def test_where_a_matrix_lies_is_seen_from_the_matrix(stored):
    kind = InMemoryExpression if sp.issparse(stored) else OnDiskExpression
    assert isinstance(expression_source(stored), kind)
