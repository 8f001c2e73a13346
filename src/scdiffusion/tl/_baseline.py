"""The generator to beat: every gene drawn on its own, with its right distribution within each type."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scdiffusion.metrics import log_normalise
from scdiffusion.tl._evaluation_input import Cells

# rows, or columns, that are dense at a time
_BLOCK = 1000


def independent_genes(train: Cells, labels: np.ndarray | None, n_cells: int, rng: np.random.Generator) -> Cells:
    """Draw cells that know type and gene, but neither gene-gene correlation nor library size.

    Of counts, a negative binomial per gene and type, fitted by moments. Of log-normalised expression, which has no such
    family, each gene is resampled from the cells of the type on its own.

    Parameters
    ----------
    train
        Cells to fit.
    labels
        Types of the cells to draw, shape (n_cells,); ``None`` for no types. A type that ``train`` lacks, or a cell
        without type, is drawn as if types were unknown.
    n_cells
        Number of cells.
    rng
        Generator.

    Returns
    -------
    Cells, in the space of ``train``.
    """
    draw = _draw_resampled if train.counts is None else _draw_negative_binomial
    known = set() if labels is None else set(train.labels) - {None}
    types = np.array([None] * n_cells if labels is None else [x if x in known else None for x in labels], dtype=object)
    blocks, rows = [], []
    for name in sorted(set(types), key=str):
        rows.append(np.flatnonzero(types == name))
        source = train.native if name is None else train.native[train.labels == name]
        blocks.append(draw(source, len(rows[-1]), rng))
    X = sparse.vstack(blocks, format="csr")[np.argsort(np.concatenate(rows))]
    return Cells(X, None, labels) if train.counts is None else Cells(log_normalise(X), X, labels)


def _draw_negative_binomial(counts: sparse.csr_matrix, n_cells: int, rng: np.random.Generator) -> sparse.csr_matrix:
    counts = counts.astype(np.float64)
    mean = np.asarray(counts.mean(axis=0)).ravel()
    variance = np.asarray(counts.power(2).mean(axis=0)).ravel() - mean**2
    expressed = np.flatnonzero(mean)
    mean, excess = mean[expressed], np.maximum(variance - mean, 1e-6 * mean)[expressed]
    blocks = []
    for start in range(0, n_cells, _BLOCK):
        shape = (min(_BLOCK, n_cells - start), len(expressed))
        rate = rng.gamma(mean**2 / excess, excess / mean, size=shape)  # variance mean + excess after the Poisson draw
        drawn = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
        blocks.append(
            sparse.csr_matrix((drawn.data, expressed[drawn.indices], drawn.indptr), (shape[0], counts.shape[1]))
        )
    return sparse.vstack(blocks, format="csr")


def _draw_resampled(log: sparse.csr_matrix, n_cells: int, rng: np.random.Generator) -> sparse.csr_matrix:
    log, blocks = log.tocsc(), []
    for start in range(0, log.shape[1], _BLOCK):
        genes = log[:, start : start + _BLOCK].toarray()
        rows = rng.integers(genes.shape[0], size=(n_cells, genes.shape[1]))
        blocks.append(sparse.csr_matrix(np.take_along_axis(genes, rows, axis=0)))
    return sparse.hstack(blocks, format="csr")
