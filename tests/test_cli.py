import anndata as ad
import pandas as pd
import pytest

import scdiffusion as scd
from scdiffusion.cli import main


def test_train_then_generate(tmp_path, capsys):
    scd.datasets.pbmc68k_reduced().write_h5ad(tmp_path / "cells.h5ad")
    model, out = str(tmp_path / "model"), str(tmp_path / "out.h5ad")
    data = str(tmp_path / "cells.h5ad")
    assert main(["train", data, model, "--layer", "counts", "-c", "bulk_labels", "--max-epochs", "1"]) == 0
    assert main(["train", data, model, "--layer", "counts"]) == 1
    assert "already exists" in capsys.readouterr().err
    assert main(["generate", model, "-n", "7", "-c", "bulk_labels=CD34+", "-o", out, "--seed", "0"]) == 0
    cells = ad.read_h5ad(out)
    assert cells.n_obs == 7 and (cells.obs["bulk_labels"] == "CD34+").all()
    assert main(["generate", model, "-n", "7", "-o", out]) == 1
    assert "already exists" in capsys.readouterr().err
    out = str(tmp_path / "out.zarr")
    assert main(["generate", model, "-n", "7", "-c", "bulk_labels=CD35+", "-o", out]) == 1
    assert "Did you mean 'CD34+'" in capsys.readouterr().err
    assert main(["generate", model, "-n", "7", "-o", out]) == 0
    assert ad.read_zarr(out).n_obs == 7


def test_classifiers_and_numbers(tmp_path):
    scd.datasets.pbmc68k_reduced().write_h5ad(tmp_path / "cells.h5ad")
    data, model, out = (str(tmp_path / name) for name in ("cells.h5ad", "model", "out.h5ad"))
    train = ["train", data, model, "--layer", "counts", "--continuous-condition", "percent_mito", "--classifiers"]
    assert main([*train, "-c", "phase", "--max-epochs", "1"]) == 0
    request = ["-n", "3", "-c", "phase=S", "-c", "percent_mito=0.02", "--guidance", "classifier"]
    assert main(["generate", model, *request, "-o", out, "--seed", "0"]) == 0
    assert ad.read_h5ad(out).obs["percent_mito"].tolist() == [0.02] * 3


def test_evaluate_writes_table_and_report(tmp_path, monkeypatch, capsys):
    adata = scd.datasets.pbmc68k_reduced()
    adata[::2].write_h5ad(tmp_path / "real.h5ad")
    adata[1::2].write_h5ad(tmp_path / "generated.h5ad")
    evaluate, report = scd.tl.evaluate, scd.pl.report
    monkeypatch.setattr(scd.tl, "evaluate", lambda *sides, **kwargs: evaluate(*sides, metrics="n_genes", **kwargs))
    monkeypatch.setattr(scd.pl, "report", lambda *args, **kwargs: report(*args, basis="pca", **kwargs))
    sides = [str(tmp_path / "real.h5ad"), str(tmp_path / "generated.h5ad"), "--layer", "counts"]
    table, page = tmp_path / "table.csv", tmp_path / "page.html"
    assert main(["evaluate", *sides, "--groupby", "phase", "-o", str(table), "--report", str(page)]) == 0
    assert set(pd.read_csv(table)["group"]) == {"all", "G1", "G2M", "S"}
    assert "Types asked for and seen" in page.read_text(encoding="utf-8")
    assert "within floor" in capsys.readouterr().out
    assert main(["evaluate", *sides, "--report", str(tmp_path / "nowhere" / "page.html")]) == 1
    assert "There is no folder" in capsys.readouterr().err


def test_evaluate_by_donor(tmp_path, monkeypatch, capsys):
    evaluate, metric = scd.tl.evaluate, "membership_auc_donors"
    monkeypatch.setattr(scd.tl, "evaluate", lambda *sides, **kwargs: evaluate(*sides, metrics=metric, **kwargs))
    adata = scd.datasets.pbmc68k_reduced()
    adata.obs["donor"] = [str(i % 8) for i in range(adata.n_obs)]
    held_out = adata.obs["donor"].astype(int) < 4
    adata[held_out].write_h5ad(tmp_path / "real.h5ad")
    adata[~held_out].write_h5ad(tmp_path / "train.h5ad")
    real, train, table = (str(tmp_path / name) for name in ("real.h5ad", "train.h5ad", "table.csv"))
    command = ["evaluate", real, train, "--train", train, "--layer", "counts"]
    assert main([*command, "--donor", "donor", "-o", table]) == 0
    assert pd.read_csv(table)["metric"].tolist() == [metric]
    assert main(["evaluate", real, train, "--donor", "donor"]) == 1
    assert "pass train=" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train", "generate", "evaluate", "demo"])
def test_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert f"example:\n  scdiffusion {command}" in capsys.readouterr().out


def test_conditions_are_written_as_pairs(capsys):
    with pytest.raises(SystemExit):
        main(["generate", "model", "-c", "B cells", "-o", "out.h5ad"])
    assert "KEY=CATEGORY" in capsys.readouterr().err
