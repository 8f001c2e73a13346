"""What scanpy and anndata do with cells works on generated ones, without a warning."""

import warnings

import anndata as ad
import pytest
import scanpy as sc
from strictness import warnings_are_errors


@pytest.fixture(autouse=True)
def strictly():
    with warnings_are_errors():
        # anndata's own advice on its default, whatever is written
        warnings.filterwarnings("ignore", "Writing zarr v2", UserWarning, module="anndata")
        yield


@pytest.fixture(params=["memory", ".h5ad", ".zarr"])
def cells(small_preset, request, tmp_path):
    """Generated cells, of which those of a file are read from there."""
    output = None if request.param == "memory" else tmp_path / f"cells{request.param}"
    model = small_preset(None)
    categories = model.adata.obs["bulk_labels"].cat.categories
    asked = {"bulk_labels": dict.fromkeys(categories, 6)}
    cells = model.generate(obs_conditions=asked, rng=0, output=output)
    return cells if output is None else cells.to_memory()


def test_genes_are_ranked_and_neighbours_found(cells):
    sc.pp.normalize_total(cells)
    sc.pp.log1p(cells)
    sc.tl.rank_genes_groups(cells, "bulk_labels")
    assert len(cells.uns["rank_genes_groups"]["names"].dtype) == 10
    sc.pp.neighbors(cells, use_rep="X_scdiffusion")
    assert cells.obsp["distances"].shape == (60, 60)


def test_sets_of_cells_are_joined_and_written(cells, small_preset, tmp_path):
    other = small_preset(None).generate(20, "observed", rng=1)
    joined = ad.concat({"a": cells, "b": other}, label="call", index_unique="-", merge="same", uns_merge="same")
    assert joined.n_obs == 80 and joined.obs_names.is_unique and joined.var.equals(other.var)
    joined.write_h5ad(tmp_path / "joined.h5ad")
    joined.write_zarr(tmp_path / "joined.zarr")
    for read in (ad.read_h5ad(tmp_path / "joined.h5ad"), ad.read_zarr(tmp_path / "joined.zarr")):
        assert (read.X != joined.X).nnz == 0 and read.obs.equals(joined.obs)


def test_writing_zarr_as_cells_are_generated_gives_no_warning_at_all(small_preset, tmp_path):
    with warnings_are_errors():
        small_preset(None).generate(5, rng=0, output=tmp_path / "cells.zarr")
