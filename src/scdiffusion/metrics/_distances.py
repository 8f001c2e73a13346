"""Euclidean distances between two sets of cells, a block of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

# 64 MB of float64: large enough for BLAS, small enough to stay out of the way at 10,000 x 10,000 cells
_BLOCK_ENTRIES = 2**23


def squared_distance_blocks(X: np.ndarray, Y: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield ``(rows, squared distances of X[rows] to every cell of Y)``; the block is the caller's to overwrite."""
    # the expansion |x|^2 + |y|^2 - 2xy cancels; around the mean the norms are small, and float64 is enough
    centre = X.mean(axis=0, dtype=np.float64)
    X, Y = X - centre, Y - centre
    x_norms, y_norms = np.einsum("ij,ij->i", X, X), np.einsum("ij,ij->i", Y, Y)
    minus_two_y = -2 * Y.T
    step = max(1, _BLOCK_ENTRIES // len(Y))
    for start in range(0, len(X), step):
        rows = slice(start, min(start + step, len(X)))
        block = X[rows] @ minus_two_y  # (n_rows, n_Y)
        block += x_norms[rows, None]
        block += y_norms
        yield rows, np.maximum(block, 0, out=block)


def nearest_others(X: np.ndarray, k: int) -> np.ndarray:
    """Squared distances of every cell to its ``k`` nearest other cells, (n_cells, k); the last is the largest."""
    nearest = np.empty((len(X), k))
    for rows, block in squared_distance_blocks(X, X):
        within = np.arange(rows.stop - rows.start)
        block[within, rows.start + within] = np.inf
        block.partition(k - 1, axis=1)
        nearest[rows] = block[:, :k]
    return nearest
