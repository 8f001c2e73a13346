"""Expression in several files, as the one AnnData that the rest of the model works on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
from anndata import AnnData
from anndata.abc import CSRDataset
from anndata.experimental import AnnCollection
from scipy import sparse

from scdiffusion._compat import named_layers
from scdiffusion.training import expression_source

# Setting up, training and encoding must all see the same object.
_JOINED: WeakKeyDictionary[AnnCollection, AnnData] = WeakKeyDictionary()


class StackedMatrix(CSRDataset):
    """Matrices of the same genes, one below the other, read where they lie.

    Parameters
    ----------
    matrices
        Cells by genes, in memory or on disk.
    columns
        For each matrix, which of its genes to take, `(n_genes,)`.
    """

    backend = None

    def __init__(self, matrices: Sequence[Any], columns: Sequence[np.ndarray]) -> None:
        self._sources, self._columns = [expression_source(matrix) for matrix in matrices], columns
        self._starts = np.cumsum([0, *(matrix.shape[0] for matrix in matrices)])
        self.shape = (int(self._starts[-1]), len(columns[0]))
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, rows: Any) -> sparse.csr_matrix:
        """Read some of the rows, `(n_rows, n_genes)`."""
        rows = np.arange(self.shape[0])[rows]
        rows, inverse = np.unique(rows, return_inverse=True)
        edges = np.searchsorted(rows, self._starts)
        parts = [
            source.take(rows[start:stop] - first)[:, columns]
            for source, columns, first, start, stop in zip(
                self._sources, self._columns, self._starts[:-1], edges[:-1], edges[1:], strict=True
            )
            if start < stop
        ]
        if not parts:
            return sparse.csr_matrix((0, self.shape[1]), dtype=self.dtype)
        return sparse.vstack(parts, format="csr")[inverse]

    def to_memory(self) -> sparse.csr_matrix:
        """Read everything."""
        return self[:]


def as_anndata(adata: Any) -> Any:
    """An AnnCollection as an AnnData whose matrices stay where they are, the same one each time; others as they are."""
    if not isinstance(adata, AnnCollection):
        return adata
    if adata not in _JOINED:
        _JOINED[adata] = _join(adata)
    return _JOINED[adata]


def _join(collection: AnnCollection) -> AnnData:
    parts = collection.adatas
    columns = [part.var_names.get_indexer(collection.var_names) for part in parts]
    layers = reduce(set.intersection, (set(named_layers(part)) for part in parts))
    has_x = all(part.X is not None for part in parts)
    return AnnData(
        StackedMatrix([part.X for part in parts], columns) if has_x else None,
        obs=collection.obs.copy(),
        var=pd.DataFrame(index=collection.var_names),
        layers={name: StackedMatrix([part.layers[name] for part in parts], columns) for name in sorted(layers)},
    )
