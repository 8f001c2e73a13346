"""Clusters of cells, for data without labels."""

from __future__ import annotations

import random
from collections.abc import Callable

import igraph
import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData

from scdiffusion.autoencoders import COUNTS, TARGET_SUM
from scdiffusion.model._expression_checks import check_expression
from scdiffusion.model._messages import did_you_mean


def _leiden(graph: igraph.Graph, resolution: float) -> igraph.VertexClustering:
    return graph.community_leiden("modularity", weights="weight", resolution=resolution, n_iterations=2)


def _louvain(graph: igraph.Graph, resolution: float) -> igraph.VertexClustering:
    return graph.community_multilevel(weights="weight", resolution=resolution)


#: How a graph of cells with edge weights is cut into clusters at a resolution.
METHODS: dict[str, Callable[[igraph.Graph, float], igraph.VertexClustering]] = {"leiden": _leiden, "louvain": _louvain}


def cluster(
    adata: AnnData,
    *,
    method: str = "leiden",
    resolution: float = 1.0,
    layer: str | None = None,
    n_top_genes: int = 2000,
    n_pcs: int = 50,
    n_neighbors: int = 15,
    key_added: str = "cluster",
    copy: bool = False,
    rng: int = 0,
) -> AnnData | None:
    """Cluster cells by their counts, for conditions where there are no labels.

    scanpy's usual way: counts per 10,000, `log1p`, the most variable genes, principal components, nearest neighbours.
    SCLD generates by Louvain clusters.

    Parameters
    ----------
    adata
        Cells with raw counts.
    method
        `"leiden"` or `"louvain"`, both igraph's and by modularity.
    resolution
        The higher, the more clusters.
    layer
        Layer with the counts; by default `X`.
    n_top_genes, n_pcs, n_neighbors
        Numbers of variable genes, principal components and neighbours; at most as many as there are.
    key_added
        Name in `adata.obs`.
    copy
        Whether to return a copy instead of writing to `adata`.
    rng
        Seed.

    Returns
    -------
    None, or the copy if `copy`. Sets `adata.obs[key_added]`, categorical: `"0"` is the largest cluster. Nothing else of
    `adata` changes.

    Raises
    ------
    ValueError
        If the layer does not hold counts, or the method does not exist.

    References
    ----------
    Traag et al., *From Louvain to Leiden: guaranteeing well-connected communities*, Scientific Reports 2019. Blondel et
    al., *Fast unfolding of communities in large networks*, 2008 (Louvain).

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.pp.cluster(adata, layer="counts")
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="cluster")
    """
    if method not in METHODS:
        raise ValueError(f"There is no method {method!r}.{did_you_mean(method, METHODS)}")
    counts = sp.csr_matrix(check_expression(adata, layer, COUNTS), dtype=np.float32, copy=True)
    cells = AnnData(counts)
    sc.pp.normalize_total(cells, target_sum=TARGET_SUM)
    sc.pp.log1p(cells)
    if n_top_genes < cells.n_vars:
        sc.pp.highly_variable_genes(cells, n_top_genes=n_top_genes, subset=True)
    sc.pp.pca(cells, n_comps=min(n_pcs, min(cells.shape) - 1), random_state=rng)
    sc.pp.neighbors(cells, n_neighbors=min(n_neighbors, cells.n_obs - 1), use_rep="X_pca", random_state=rng)
    membership = _membership(cells.obsp["connectivities"], method, resolution, rng)

    adata = adata.copy() if copy else adata
    # igraph numbers clusters in no particular order.
    codes = np.argsort(np.argsort(-np.bincount(membership), kind="stable"))[membership]
    names = [str(i) for i in range(codes.max() + 1)]
    adata.obs[key_added] = pd.Categorical.from_codes(codes, names)
    return adata if copy else None


def _membership(connectivities: sp.csr_matrix, method: str, resolution: float, rng: int) -> np.ndarray:
    edges = sp.triu(connectivities, k=1).tocoo()
    graph = igraph.Graph(connectivities.shape[0], np.column_stack([edges.row, edges.col]), directed=False)
    graph.es["weight"] = edges.data.astype(float)
    igraph.set_random_number_generator(random.Random(rng))
    try:
        return np.array(METHODS[method](graph, resolution).membership)
    finally:
        igraph.set_random_number_generator(random)
