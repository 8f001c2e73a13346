"""Where expression lies, in memory or on disk, and how it is read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import scipy.sparse as sp

# Rows read from disk at a time, where all are read in order.
BLOCK = 4096


class Expression(ABC):
    """A matrix of cells by genes, read in pieces as float32 CSR.

    Attributes
    ----------
    shape
        `(n_cells, n_genes)`.
    run_length
        How many consecutive rows are best read together: 1 where any row is as near as the next.
    """

    shape: tuple[int, int]
    run_length: int

    @abstractmethod
    def blocks(self) -> Iterator[sp.csr_matrix]:
        """All rows in order, in pieces."""

    @abstractmethod
    def take(self, rows: np.ndarray) -> sp.csr_matrix:
        """Some of the rows, in the order given, `(n_rows, n_genes)`."""


class InMemoryExpression(Expression):
    """Expression in memory.

    Parameters
    ----------
    matrix
        `(n_cells, n_genes)`, dense or sparse.
    """

    run_length = 1

    def __init__(self, matrix: Any) -> None:
        self.matrix = sp.csr_matrix(matrix, dtype=np.float32)
        self.shape = self.matrix.shape

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """The matrix itself."""
        yield self.matrix

    def take(self, rows: np.ndarray) -> sp.csr_matrix:
        """Some of the rows."""
        return self.matrix[rows]


class OnDiskExpression(Expression):
    """Expression in a file, of which a few thousand rows are in memory at any time.

    Parameters
    ----------
    matrix
        `(n_cells, n_genes)`; slices of its rows are dense or sparse matrices, or have a `compute` that gives one.
    """

    # Long enough for few reads, short enough for many runs in the memory that batches are mixed in.
    run_length = 256

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.shape = matrix, tuple(matrix.shape)

    def blocks(self) -> Iterator[sp.csr_matrix]:
        """All rows in order."""
        for block in row_blocks(self.matrix):
            yield sp.csr_matrix(block, dtype=np.float32)

    def take(self, rows: np.ndarray) -> sp.csr_matrix:
        """Some of the rows; quick where they are consecutive, or many."""
        rows, inverse = np.unique(rows, return_inverse=True)
        gaps = np.flatnonzero((np.diff(rows) > self.run_length) | (np.diff(rows // BLOCK) > 0)) + 1
        parts = [
            sp.csr_matrix(_read(self.matrix, run[0], run[-1] + 1)[run - run[0]], dtype=np.float32)
            for run in np.split(rows, gaps)
            if len(run)
        ]
        taken = sp.vstack(parts, format="csr") if parts else sp.csr_matrix((0, self.shape[1]), dtype=np.float32)
        return taken if np.array_equal(inverse, np.arange(len(inverse))) else taken[inverse]


def expression_source(matrix: Any) -> Expression:
    """Expression as it lies in an AnnData: in memory, backed by a file, or lazy."""
    return InMemoryExpression(matrix) if _is_in_memory(matrix) else OnDiskExpression(matrix)


def row_blocks(matrix: Any) -> Iterator[np.ndarray | sp.spmatrix]:
    """Rows of a matrix in order as they are: all at once where they are in memory, else a few thousand at a time."""
    if _is_in_memory(matrix):
        yield matrix
        return
    for start in range(0, matrix.shape[0], BLOCK):
        yield _read(matrix, start, min(start + BLOCK, matrix.shape[0]))


def _is_in_memory(matrix: Any) -> bool:
    return isinstance(matrix, np.ndarray) or sp.issparse(matrix)


def _read(matrix: Any, start: int, stop: int) -> np.ndarray | sp.spmatrix:
    rows = matrix[start:stop]
    rows = rows.compute() if hasattr(rows, "compute") else rows
    return rows if sp.issparse(rows) else np.asarray(rows)
