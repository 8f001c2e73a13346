"""The papers' experiments run on a stand-in with the schema of their data, cut from the PBMC 68k sample."""

import importlib
import math
import sys
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from sklearn.metrics import normalized_mutual_info_score

import scdiffusion as scd

FOLDER = Path(__file__).parents[2] / "benchmarks" / "paper"
TINY = ["--max-epochs", "1", "--n-steps", "5"]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER.parent))
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: importlib.import_module(name).main


@pytest.fixture(scope="module")
def cells():
    adata = scd.datasets.pbmc68k_reduced()
    return ad.AnnData(adata.layers["counts"][:, :200].copy(), adata.obs, adata.var.iloc[:200])


@pytest.fixture
def written(cells, tmp_path):
    def write(**columns):
        adata = cells.copy()
        adata.obs = adata.obs[[]].assign(**columns)
        adata.write_h5ad(tmp_path / "cells.h5ad")
        return str(tmp_path / "cells.h5ad")

    return write


@pytest.fixture
def celltypes(cells):
    """Three types that the held-out pairs are about, in their organs and others."""
    names = {"CD19+ B": "B cell", "CD14+ Monocyte": "memory B cell", "Dendritic": "macrophage"}
    return cells.obs["bulk_labels"].astype(str).map(lambda name: names.get(name, "T cell")).to_numpy()


@pytest.fixture
def organs(cells):
    return np.resize(["Mammary_Gland", "Thymus", "Spleen", "Liver"], cells.n_obs)


def test_realistic_generation(script, written, capsys):
    table = script("realistic_generation")([written(), *TINY])
    assert table.loc["floor", "SCC"] > 0.95 and table.loc["floor", "MMD"] < table.loc["ours", "MMD"]
    printed = capsys.readouterr().out
    assert "| ours |" in printed and "| scDiffusion, paper (mean of three datasets) | 0.984 |" in printed


def test_single_conditions(script, written, celltypes, capsys):
    table = script("single_conditions")([written(celltype=celltypes), *TINY])
    assert set(table.index) == set(celltypes) and table["accuracy, real"].mean() > 0.7
    assert "| cscGAN, paper | 0.040 |" in capsys.readouterr().out


def test_held_out_organs(script, written, celltypes, organs):
    table = script("held_out_organs")([written(celltype=celltypes, organ=organs), *TINY])
    assert list(table.index) == ["Mammary_Gland, B cell", "Thymus, memory B cell", "Spleen, macrophage"]
    assert (table["accuracy, real"] > 0.8).all() and table["scDiffusion, paper"].tolist() == [0.98, 0.968, 0.966]


@pytest.mark.parametrize("log_normalised", [False, True])  # the file of scd.datasets.reprogramming() is
def test_reprogramming(script, cells, tmp_path, log_normalised):
    twice = ad.concat([cells, cells], index_unique="-")
    days = np.resize(np.arange(0, 8.5, 0.5), twice.n_obs)
    twice.obs["day"] = [f"D{day:g}" if i % 2 else f"{day:.1f}" for i, day in enumerate(days)]
    if log_normalised:
        twice.X = scd.metrics.log_normalise(twice.X)
    twice.write_h5ad(tmp_path / "days.h5ad")
    table = script("reprogramming")([str(tmp_path / "days.h5ad"), *TINY])
    assert list(table["MMD, paper"]) == [0.322, 0.521, 0.047, 0.129, 0.055, 0.117]
    assert np.isfinite(table[["MMD", "LISI"]].to_numpy()).all() and table["LISI"].between(0, 1).all()


@pytest.mark.parametrize(("name", "n_rows"), [("scld_realism", 10), ("scld_clusters", 4)])
def test_scld(script, written, cells, name, n_rows):
    clusters = np.resize(["1", "2", "3", "6"], cells.n_obs)
    table = script(name)([written(louvain=clusters), *TINY])
    assert len(table) == n_rows and all(0 <= value <= 1 for value in table.iloc[0, :2] if value < 2)


def test_clusters_are_found_where_the_file_has_none(script, written, cells, tmp_path):
    """As those of scd.datasets.pbmc68k() and brain_small()."""
    script("scld_realism")
    shared = sys.modules["_shared"]
    arguments = shared.parser_of("SCLD", cluster=shared.LOUVAIN).parse_args([written(celltype="T cell")])
    adata = shared.read(arguments, shared.LOUVAIN)
    assert adata.obs["louvain"].nunique() > 3
    types = cells.obs["bulk_labels"][adata.obs_names]
    assert normalized_mutual_info_score(types, adata.obs["louvain"]) > 0.3
    with pytest.raises(SystemExit, match="no obs column 'clusters'"):
        shared.read(arguments, "clusters")
    logs = cells.copy()
    logs.X, logs.obs = scd.metrics.log_normalise(logs.X), logs.obs[[]]
    logs.write_h5ad(tmp_path / "cells.h5ad")
    with pytest.raises(SystemExit, match="nor counts in X"):
        shared.read(arguments, shared.LOUVAIN)


def test_scld_fusion(script, written, cells, monkeypatch):
    main = script("scld_fusion")
    monkeypatch.setitem(sys.modules["scld_fusion"].PAPER, "Brain", {"concat": 0.68})  # one of three: they take a while
    table = main([written(louvain=cells.obs["louvain"]), *TINY, "--paper", "Brain"])
    assert table["RF AUC, paper"].to_dict() == {"concat": 0.68} and 0 <= table.iloc[0, 0] <= 1


def test_log_normalised_files_are_read_by_the_papers_model(script, written, cells, tmp_path):
    adata = cells.copy()
    adata.X = scd.metrics.log_normalise(adata.X)
    adata.write_h5ad(tmp_path / "log.h5ad")
    table = script("realistic_generation")([str(tmp_path / "log.h5ad"), *TINY, "--max-cells", "60"])
    assert not math.isnan(table.loc["ours", "MMD"])


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("single_conditions", {"organ": "Liver"}, "no obs column 'celltype', only 'organ'"),
        ("held_out_organs", {"organ": "Liver", "celltype": "B cell"}, "has no 'Mammary_Gland', only 'Liver'"),
        ("scld_clusters", {"louvain": "1"}, "has no '2', only '1'"),
        ("reprogramming", {"day": "early"}, "'early' is no day"),
        ("reprogramming", {"day": "D1"}, "has no '0.5', only '1'"),
    ],
)
def test_files_that_do_not_fit(script, written, name, columns, message):
    with pytest.raises(SystemExit, match=message):
        script(name)([written(**columns), *TINY])


def test_no_file(script):
    with pytest.raises(SystemExit, match="no file nowhere.h5ad"):
        script("realistic_generation")(["nowhere.h5ad"])
