from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from scipy import sparse

TARGET_SUM = 1e4  # library size that scanpy's file was normalised to
TOLERANCE = 0.1  # largest distance from an integer that rounding may bridge; the file's own is 0.08


def pbmc68k_reduced() -> AnnData:
    """700 peripheral blood cells of the PBMC 68k study, with counts; nothing is downloaded.

    This is :func:`scanpy.datasets.pbmc68k_reduced`, which comes inside scanpy and holds expression that was
    normalised to 10,000 per cell, log-transformed and, in ``X``, scaled. Each cell's library size is on record, so the
    counts can be recovered exactly; they are added as a layer.

    Returns
    -------
    Annotated data, 700 cells x 765 genes, a new object at every call. Added here:

    ``adata.layers["counts"]``
        UMI counts: integers, stored as a CSR matrix of ``float32``. Pass ``layer="counts"`` to use them.

    Everything else is scanpy's, among it:

    ``adata.X``
        Scaled expression: neither counts nor log-normalised.
    ``adata.raw``
        Log-normalised expression of the same genes.
    ``adata.obs["bulk_labels"]``
        One of 10 cell types, from the likeness to bulk-sorted cells.
    ``adata.obs["louvain"]``, ``adata.obs["phase"]``
        Cluster and cell-cycle phase.
    ``adata.obs["n_counts"]``
        Library size over all genes of the study, of which the 765 here are a part.
    ``adata.obsm["X_pca"]``, ``adata.obsm["X_umap"]``
        Principal components and UMAP.

    Raises
    ------
    RuntimeError
        If the counts cannot be recovered because the file inside the installed scanpy is another one.

    References
    ----------
    Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells,
    Nature Communications 8:14049.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> adata.layers["counts"][:2, :8].toarray().astype(int)
    array([[0, 0, 0, 1, 1, 0, 1, 2],
           [1, 0, 1, 0, 0, 0, 1, 0]])
    """
    adata = sc.datasets.pbmc68k_reduced()
    log_normalised = sparse.csr_matrix(adata.raw[:, adata.var_names].X, dtype=np.float64)  # (n_cells, n_genes)
    size_factors = adata.obs["n_counts"].to_numpy(dtype=np.float64) / TARGET_SUM  # (n_cells,)
    adata.layers["counts"] = _recover_counts(log_normalised, size_factors)
    return adata


def _recover_counts(log_normalised: sparse.csr_matrix, size_factors: np.ndarray) -> sparse.csr_matrix:
    """Undo ``log1p(counts / size_factors)``; refuse a result that is not close to integers."""
    scaled = sparse.diags(size_factors) @ log_normalised.expm1()
    counts = scaled.rint()
    deviation = abs(scaled - counts).max()
    if not deviation < TOLERANCE:
        raise RuntimeError(
            f"Counts could not be recovered from scanpy's pbmc68k_reduced: a value lies {deviation:.2f} from the "
            "nearest integer. This scanpy ships another file; `pip install 'scanpy>=1.11,<1.12'` has the known one."
        )
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    counts.eliminate_zeros()
    return counts
