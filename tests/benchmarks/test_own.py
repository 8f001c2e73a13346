"""The benchmarks on a few cells: that they run, and compare what they say."""

import importlib
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import scdiffusion as scd

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one small dataset under the names that benchmarks look for."""
    cells = scd.datasets.pbmc68k_reduced()
    names = {"CD19+ B": "B", "CD14+ Monocyte": "monocyte", "CD56+ NK": "NK"}
    obs = pd.DataFrame({"celltype": cells.obs["bulk_labels"].astype(str).map(names)}, index=cells.obs_names)
    cells = ad.AnnData(cells.layers["counts"][:, :200].copy(), obs, cells.var.iloc[:200])[
        obs["celltype"].notna()
    ].copy()
    cells.obs["split"] = np.resize(["train", "train", "test"], cells.n_obs)
    cells.obs["cell_type"] = cells.obs["celltype"]
    folder = tmp_path_factory.mktemp("data")
    for name in ("pbmc_facs_zheng", "kang_ctrl_12k"):
        cells.write_h5ad(folder / f"{name}.h5ad")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Few steps, and no forests of a thousand trees."""
    generate = scd.SCDiffusion.generate
    monkeypatch.setattr(
        scd.SCDiffusion, "generate", lambda *args, **kwargs: generate(*args, **{"n_steps": 3, **kwargs})
    )
    monkeypatch.setattr(scd.metrics, "random_forest_auc", scd.metrics.logistic_auc)


TINY = ["--seeds", "0", "--max-epochs", "1"]


def test_presets_get_the_time_of_the_default_for_all_they_train(script, data, monkeypatch, capsys):
    presets = script("presets")
    monkeypatch.setattr(presets, "MODELS", {name: presets.MODELS[name] for name in ("default", "scld")})
    monkeypatch.setattr(scd.SCDiffusion, "train_scorer", None)  # it would draw cells outside that time
    runs = presets.main([str(data), *TINY]).set_index("model")
    assert list(runs.index) == ["training cells", "default", "scld"]
    assert runs.loc["training cells", "RF AUC genes"] < runs.loc["scld", "RF AUC genes"]
    assert "| training cells |" in capsys.readouterr().out


def test_rows_are_kept_and_read_again(script, data, tmp_path):
    steps, csv = script("steps"), tmp_path / "steps.csv"
    runs = steps.main([str(data), *TINY, "--steps", "2", "--csv", str(csv)])
    floor = runs.set_index("sampler").loc[steps.FLOOR]
    assert floor["mmd"] < 0.05 and floor["rf"] < runs["rf"].max()
    again = steps.main(["--csv", str(csv), "--figure", str(tmp_path / "steps.png")])
    pd.testing.assert_frame_equal(again, runs)
    assert (tmp_path / "steps.png").exists()


def test_per_type(script, data):
    runs = script("per_type").main([str(data), *TINY])
    assert set(runs["cells"]) == {"B", "monocyte", "NK"} and runs["accuracy, real"].mean() > 0.7


def test_few_shot(script, data):
    runs = (
        script("few_shot").main([str(data), *TINY, "--types", "B"]).groupby("cells", sort=False).mean(numeric_only=True)
    )
    floor, default = runs.index[0], runs.index[1]
    assert runs.loc[floor, "energy"] < runs.loc[default, "energy"] < runs.loc["nearest type", "energy"]


def test_from_disk_against_from_memory(script, data, capsys):
    runs = script("backed").main([str(data), *TINY]).set_index("cells").drop(columns="training, s")
    assert list(runs.index) == ["in memory", "h5ad", "zarr"]
    pd.testing.assert_series_equal(runs.loc["h5ad"], runs.loc["zarr"], check_names=False)
    assert "| zarr | " in capsys.readouterr().out


def test_training_time_against_that_of_the_papers_preset(script):
    speed = script("speed")
    (row,) = speed.measure_scld(speed.made_up_counts(200, 100), "celltype", 1, 1)
    assert row["reference"].endswith("ms)") and float(row["ratio"].split()[0]) > 10


def test_losses_that_differ_by_a_tenth(script):
    losses = np.array([[2.0, 4.0], [2.0, 4.0]])
    assert script("ranks").difference([2.2, 3.6], losses) == pytest.approx(0.1)


def test_memory_is_that_of_the_process_alone(script, tmp_path):
    own_process = script("own_process")
    child = tmp_path / "child.py"
    child.write_text(
        f"import json, sys\nsys.path.insert(0, {str(FOLDER)!r})\nfrom own_process import peak_gb\n"
        "before = peak_gb()\nx = b'x' * int(sys.argv[1])\nprint(json.dumps([before, peak_gb()]))"
    )
    before, after = own_process.told_by(str(child), 300_000_000)
    assert before < 0.1 < own_process.peak_gb() and 0.3 <= after - before < 0.35


@pytest.mark.slow
def test_what_cells_and_conditions_cost(script, data, tmp_path, capsys):
    scaling, csv = script("scaling"), tmp_path / "scaling.csv"
    cells = [str(data / "pbmc_facs_zheng.h5ad"), "celltype", "--max-epochs", "1", "--csv", str(csv), "--genes", "100"]
    scaling.main([*cells, "--sizes", "100", "--n-keys", "2"])
    run = pd.read_csv(csv)
    assert (run[["autoencoder", "generate", "peak"]] > 0).all(
        axis=None
    ) and "| 100 | 100 | 2 |" in capsys.readouterr().out
    held = run.assign(genes=2000, keys=1)
    pd.concat([held, held.assign(cells=10), held.assign(genes=500), held.assign(keys=8)]).to_csv(csv)
    scaling.main(["--csv", str(csv), "--figure", str(tmp_path / "scaling.png")])
    assert (tmp_path / "scaling.png").exists()


@pytest.mark.slow
def test_the_scale_of_guidance(script, data, tmp_path):
    csv = tmp_path / "guidance.csv"
    guidance = script("guidance")
    runs = guidance.main([str(data), *TINY, "--scales", "-1", "4", "--csv", str(csv)])
    accuracy = runs.set_index("scale")["accuracy"]
    assert runs["cells"].tolist() == [guidance.FLOOR, "generated", "generated"] and accuracy[4] > accuracy[-1]
    maps = pd.read_csv(csv.with_suffix(".umap.csv"))
    assert maps.groupby("scale", dropna=False).size().nunique() == 1
    guidance.main(["--csv", str(csv), "--figure", str(tmp_path / "guidance.png")])
    assert (tmp_path / "guidance.png").exists()
