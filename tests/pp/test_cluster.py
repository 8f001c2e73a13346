import random

import numpy as np
import pytest
import scanpy as sc
from sklearn.metrics import adjusted_rand_score

import scdiffusion as scd


@pytest.mark.parametrize("method", ["leiden", "louvain"])
def test_clusters_are_cell_types(adata, method):
    scd.pp.cluster(adata, method=method, layer="counts", resolution=0.3)
    types = adata.obs["bulk_labels"].astype(str)
    coarse = types.where(~types.str.contains("T|NK|CD4|CD8"), "T and NK")
    assert adjusted_rand_score(adata.obs["cluster"], coarse) > 0.5
    n_cells = adata.obs["cluster"].value_counts(sort=False)
    assert list(n_cells.index) == [str(i) for i in range(len(n_cells))] and n_cells.is_monotonic_decreasing


def test_leiden_is_scanpys(adata):
    scd.pp.cluster(adata, layer="counts")
    adata.X = adata.layers["counts"].astype(np.float32)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=50)
    sc.pp.neighbors(adata, n_neighbors=15, use_rep="X_pca")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False)
    assert adjusted_rand_score(adata.obs["cluster"], adata.obs["leiden"]) > 0.8


def test_nothing_but_the_column_is_touched_and_seeds_repeat(adata):
    before, state = adata.copy(), random.getstate()
    clustered = scd.pp.cluster(adata, layer="counts", key_added="group", copy=True, rng=3)
    assert "group" not in adata.obs and random.getstate() == state
    scd.pp.cluster(adata, layer="counts", key_added="group", rng=3)
    assert (adata.obs["group"] == clustered.obs["group"]).all()
    assert (adata.X != before.X).sum() == 0 and (adata.layers["counts"] != before.layers["counts"]).sum() == 0
    assert set(adata.uns) == set(before.uns) and set(adata.obsm) == set(before.obsm)


def test_resolution_makes_more_clusters(adata):
    n = [
        len(scd.pp.cluster(adata, layer="counts", resolution=r, copy=True).obs["cluster"].cat.categories)
        for r in (0.2, 3)
    ]
    assert n[1] > 1.5 * n[0]


def test_few_cells_and_genes(adata):
    scd.pp.cluster(adata[:12, :20].copy(), layer="counts", n_top_genes=10, resolution=0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"method": "lovain"}, "Did you mean 'louvain'"), ({}, "needs raw counts"), ({"layer": "count"}, "'counts'")],
)
def test_mistakes_say_what_to_type(adata, arguments, message):
    with pytest.raises(ValueError, match=message):
        scd.pp.cluster(adata, **arguments)
