"""SCLD's Tables 3, 4 and 5: pre-guidance, its fusions, post-guidance and single clusters, for the preset and for ours.

    python benchmarks/selection.py DATA_DIR/pbmc_facs_zheng.h5ad [--seeds 0 1 2] [--tables 3 4 5] [--csv runs.csv]

Cells have no labels here: conditions are Louvain clusters of the training cells. Generated cells are compared with the
test split, as many of them, beside the real-vs-real floor (training cells against test cells). Table 3: the denoiser
without conditions, with them, and with selection on top (`keep_top=0.8`, by rank, by rejection, and over all clusters).
Table 4: the fusions of conditions. Table 5: the four largest clusters, each against the test cells nearest to it.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.neighbors import KNeighborsClassifier

import scdiffusion as scd
from scdiffusion import metrics

KEY = "cluster"
FUSIONS = ("add", "concat", "attention")
N_CLUSTERS = 4
METRICS = ["pcs", "genes", "mmd_scld", "coverage"]
#: As published, PBMC 68k: RF AUC in 50 PCs and MMD by Eq. 14.
PUBLISHED = {"plain": "0.65 / 0.77", "+ pre-guidance": "0.64 / 0.75", "+ post-guidance": "0.59 / 0.65"}
POST_GUIDANCE: dict[str, dict[str, Any]] = {
    "+ post-guidance": {"keep_top": 0.8},
    "+ post-guidance, 50 %": {"keep_top": 0.5},
    "+ post-guidance, rejection": {"keep_top": 0.8, "selection": "rejection"},
    "+ post-guidance, over all": {"keep_top": 0.8, "select_per_condition": False},
}


class Judge:
    """Compares cells with the test cells, on log-normalised expression."""

    def __init__(self, train: ad.AnnData, test: ad.AnnData) -> None:
        self.train, self.test = (metrics.log_normalise(sp.csr_matrix(cells.X)) for cells in (train, test))
        self.n_components = min(50, test.n_obs // 2)

    def compare(self, expression: sp.csr_matrix, real: sp.csr_matrix | None = None) -> dict[str, float]:
        real = self.test if real is None else real
        n = min(real.shape[0], expression.shape[0])
        real, other = real[:n], expression[:n]
        a, b = metrics.joint_pca(real, other, n_components=min(self.n_components, n))
        return {
            "pcs": metrics.random_forest_auc(a, b),
            "genes": metrics.random_forest_auc(real, other),
            "mmd_scld": metrics.mmd_scld(a, b),
            "coverage": metrics.density_coverage(a, b).coverage,
        }

    def clusters_of_test_cells(self, clusters: pd.Series) -> np.ndarray:
        train, test = metrics.reference_pca(self.train, self.test, n_components=min(30, self.n_components))
        return KNeighborsClassifier(15).fit(train, clusters.astype(str)).predict(test)


def log_expression(cells: ad.AnnData) -> sp.csr_matrix:
    return metrics.log_normalise(cells.X) if cells.uns["scdiffusion"]["values"] == "counts" else cells.X


def trained(train: ad.AnnData, preset: str | None, seed: int, epochs: Any, **settings: Any) -> scd.SCDiffusion:
    scd.SCDiffusion.setup_anndata(train, condition_keys=KEY)
    model = scd.SCDiffusion(train, preset, rng=seed, **{"keep_top": "none", **settings})
    model.train(epochs, progress=False, rng=seed)
    return model


def rows(
    preset: str | None, train: ad.AnnData, judge: Judge, seed: int, epochs: Any, sampling: dict, tables: list[int]
) -> Iterator[dict[str, Any]]:
    """One row per table and kind of cells; models that several tables need are trained once."""
    n_cells = judge.test.shape[0]

    def row(table: int, name: str, generate: Callable[[], ad.AnnData], real: Any = None) -> dict[str, Any]:
        start = time.perf_counter()
        cells = generate()
        seconds = time.perf_counter() - start
        kept = cells.uns["scdiffusion"].get("kept_fraction", 1.0)
        figures = judge.compare(log_expression(cells), real)
        return {"table": table, "cells": name, **figures, "kept": kept, "seconds": seconds}

    if 3 in tables:
        plain = trained(train, preset, seed, epochs, condition_encoder="none")
        yield row(3, "plain", lambda: plain.generate(n_cells, rng=seed, **sampling))
    for fusion in FUSIONS if 4 in tables else FUSIONS[:1]:
        model = trained(train, preset, seed, epochs, condition_encoder="mean_expression", fusion=fusion)
        fused = row(4, fusion, lambda model=model: model.generate(n_cells, "observed", rng=seed, **sampling))
        if 4 in tables:
            yield fused
        if fusion != FUSIONS[0]:
            continue
        model.train_scorer(generate_kwargs=sampling, progress=False, rng=seed)
        if 3 in tables:
            yield {**fused, "table": 3, "cells": "+ pre-guidance"}
            for name, settings in POST_GUIDANCE.items():
                arguments = {**settings, **sampling, "rng": seed}
                yield row(3, name, lambda a=arguments, model=model: model.generate(n_cells, "observed", **a))
        if 5 in tables:
            of_test = judge.clusters_of_test_cells(train.obs[KEY])
            for cluster in train.obs[KEY].cat.categories[:N_CLUSTERS]:
                real = judge.test[of_test == cluster]
                arguments = {"obs_conditions": {KEY: cluster}, "keep_top": 0.8, "rng": seed, **sampling}
                yield row(
                    5,
                    f"cluster {cluster}",
                    lambda a=arguments, n=real.shape[0], model=model: model.generate(n, **a),
                    real,
                )


def floors(train: ad.AnnData, judge: Judge, seed: int, tables: list[int]) -> Iterator[dict[str, Any]]:
    """Training cells against test cells."""
    figures = judge.compare(judge.train[np.random.default_rng(seed).permutation(train.n_obs)])
    yield from ({"table": table, "cells": "floor", **figures} for table in tables if table != 5)
    if 5 in tables:
        of_test = judge.clusters_of_test_cells(train.obs[KEY])
        for cluster in train.obs[KEY].cat.categories[:N_CLUSTERS]:
            figures = judge.compare(judge.train[(train.obs[KEY] == cluster).to_numpy()], judge.test[of_test == cluster])
            yield {"table": 5, "cells": f"cluster {cluster}", **figures}


def markdown(table: pd.DataFrame) -> str:
    lines = [["model", "cells", *METRICS, "published (PCs / MMD)"], ["---"] * (len(METRICS) + 3)]
    for (model, cells), rows in table.groupby(["model", "cells"], sort=False):
        values = [f"{rows[metric].mean():.3f} ± {rows[metric].std(ddof=0):.3f}" for metric in METRICS]
        lines.append([model, cells, *values, PUBLISHED.get(cells, "") if model == "scld" else ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="h5ad file with counts in X and a column 'split'")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--tables", nargs="+", type=int, choices=[3, 4, 5], default=[3, 4, 5])
    parser.add_argument("--models", nargs="+", choices=["default", "scld"], default=["default", "scld"])
    parser.add_argument("--max-epochs", type=int, help="most epochs of each stage (default: the preset's)")
    parser.add_argument("--sampler", help="for all models (default: each its own)")
    parser.add_argument("--n-cells", type=int, help="try out on as many cells")
    parser.add_argument("--csv", type=Path, help="file to append every run to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = ad.read_h5ad(arguments.data)
    if arguments.n_cells:
        adata = adata[np.random.default_rng(0).permutation(adata.n_obs)[: arguments.n_cells]].copy()
    is_train = (adata.obs["split"] == "train").to_numpy()
    train, test = adata[is_train].copy(), adata[~is_train].copy()
    scd.pp.cluster(train, method="louvain")
    judge = Judge(train, test)
    sampling = {"sampler": arguments.sampler} if arguments.sampler else {}
    runs = []

    def record(row: dict[str, Any]) -> None:
        runs.append(row)
        print(" ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True)
        if arguments.csv:
            pd.DataFrame([row]).to_csv(arguments.csv, mode="a", header=not arguments.csv.exists(), index=False)

    columns = ["table", "model", "seed", "cells", *METRICS, "kept", "seconds"]
    for seed in arguments.seeds:
        settings = train, judge, seed, arguments.max_epochs, sampling, arguments.tables
        for row in floors(train, judge, seed, arguments.tables):
            record({**dict.fromkeys(columns), "model": "real", "seed": seed, **row})
        for name in arguments.models:
            for row in rows(None if name == "default" else name, *settings):
                record({**dict.fromkeys(columns), "model": name, "seed": seed, **row})
    for number, of_table in pd.DataFrame(runs).groupby("table"):
        print(
            f"\nTable {number}: means and standard deviations over {of_table['seed'].nunique()} seeds\n\n{markdown(of_table)}"
        )


if __name__ == "__main__":
    main()
