"""Can `tl.evaluate` be fooled? False alarms on real cells, and the ranking of generators from good to bad.

    python benchmarks/evaluation.py DATA_DIR [--datasets pbmc3k ...] [--seeds 20] [--n-cells N] [--csv tables.csv]

First table: real cells in the place of generated ones, over random splits into real, generated and train; anything but
"within floor" is a false alarm. Second table: verdicts on a real resample (the half of the test split that is not the
real side), our model, independent negative binomials per type, and training cells with every gene shuffled.

On one core a split takes one minute on pbmc3k and two on kang_ctrl_12k, the second table three and four.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scdiffusion as scd
from scdiffusion.metrics import log_normalise
from scdiffusion.tl._baseline import independent_genes
from scdiffusion.tl._evaluation_input import Cells

DATASETS = {"kang_ctrl_12k": "cell_type", "pbmc3k": "louvain"}
BADNESS = {"within floor": 0, "between": 1, "worse than baseline": 2}
SHOWN = ["gene_mean_spearman", "gene_correlation_error", "energy_distance", "random_forest_auc_genes"]


def judged(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["verdict"].isin(BADNESS)]


def false_alarms(adata: ad.AnnData, key: str, seeds: int, settings: dict) -> Iterator[pd.DataFrame]:
    for seed in range(seeds):
        real, generated, train = np.array_split(np.random.default_rng(seed).permutation(adata.n_obs), 3)
        table = scd.tl.evaluate(
            adata[real], adata[generated], train=adata[train], groupby=key, rng=seed, progress=False, **settings
        )
        alarms = (judged(table)["verdict"] != "within floor").mean()
        print(f"  seed {seed}: {alarms:.1%} of {len(judged(table))} rows", flush=True)
        yield table.assign(candidate="real", seed=seed)


def shuffled_genes(train: ad.AnnData, n_cells: int, rng: np.random.Generator) -> ad.AnnData:
    rows = rng.choice(train.n_obs, n_cells, replace=n_cells > train.n_obs)
    X = train.X[rows].tocsc()
    columns = [rng.permutation(X[:, gene].toarray().ravel()) for gene in range(X.shape[1])]
    shuffled = sp.hstack([sp.csc_matrix(column[:, None]) for column in columns], format="csr")
    return ad.AnnData(shuffled, train.obs.iloc[rows].reset_index(drop=True), train.var)


def independent(train: ad.AnnData, key: str, n_cells: int, rng: np.random.Generator) -> ad.AnnData:
    labels = train.obs[key].astype(str).to_numpy(object)
    drawn = rng.choice(labels, n_cells)
    cells = independent_genes(Cells(log_normalise(train.X), train.X, labels), drawn, n_cells, rng)
    return ad.AnnData(cells.counts, pd.DataFrame({key: drawn}), train.var)


def candidates(train: ad.AnnData, test: ad.AnnData, key: str, max_epochs: int | None) -> dict[str, ad.AnnData]:
    rng = np.random.default_rng(0)
    order = rng.permutation(test.n_obs)
    real, resample = test[order[::2]].copy(), test[order[1::2]].copy()
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=0)
    model.train(max_epochs, progress=False, rng=0)
    generated = model.generate(real.n_obs, obs_conditions="observed", rng=0)
    return {
        "real": real,
        "real resample": resample,
        "scDiffusion": generated,
        "independent NB": independent(train, key, real.n_obs, rng),
        "shuffled genes": shuffled_genes(train, real.n_obs, rng),
    }


def ranking(adata: ad.AnnData, key: str, max_epochs: int | None, settings: dict) -> Iterator[pd.DataFrame]:
    is_train = (adata.obs["split"] == "train").to_numpy()
    train = adata[is_train].copy()
    real, *others = candidates(train, adata[~is_train], key, max_epochs).items()
    for name, cells in others:
        table = scd.tl.evaluate(real[1], cells, train=train, groupby=key, progress=False, **settings)
        yield table.assign(candidate=name, seed=0)


def summary(name: str, table: pd.DataFrame) -> dict[str, str]:
    rows = judged(table)
    shares = rows["verdict"].value_counts(normalize=True)
    figures = table[table["group"] == "all"].set_index("metric")["generated"]
    return {
        "cells": name,
        **{verdict: f"{shares.get(verdict, 0):.0%}" for verdict in BADNESS},
        "mean badness (0-2)": f"{rows['verdict'].map(BADNESS).mean():.2f}",
        **{metric: f"{figures[metric]:.3f}" for metric in SHOWN if metric in figures},
    }


def markdown(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--seeds", type=int, default=20, help="splits to count false alarms on")
    parser.add_argument("--n-cells", type=int, help="most cells per side")
    parser.add_argument("--metrics", nargs="+", help="default: all")
    parser.add_argument("--max-epochs", type=int, help="of the model; default: its own")
    parser.add_argument("--csv", type=Path, help="where to keep every row")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    settings = {"n_cells": arguments.n_cells, "metrics": arguments.metrics}
    kept = []
    for name in arguments.datasets:
        adata, key = ad.read_h5ad(arguments.data / f"{name}.h5ad"), DATASETS[name]
        adata.X = sp.csr_matrix(adata.X)
        print(f"\n{name}: real cells against real cells", flush=True)
        start = time.perf_counter()
        alarms = list(false_alarms(adata, key, arguments.seeds, settings))
        rows = judged(pd.concat(alarms)) if alarms else pd.DataFrame({"verdict": []})
        n_alarms = int((rows["verdict"] != "within floor").sum())
        print(f"{n_alarms} false alarms in {len(rows)} rows of {len(alarms)} seeds", flush=True)
        if n_alarms:
            print(rows[rows["verdict"] != "within floor"].value_counts(["metric", "group"]).head(10).to_string())
        tables = list(ranking(adata, key, arguments.max_epochs, settings))
        print(f"\n{name}: verdicts, {time.perf_counter() - start:.0f} s in all\n")
        print(markdown([summary(table["candidate"].iloc[0], table) for table in tables]), flush=True)
        kept += [table.assign(dataset=name) for table in (*alarms, *tables)]
        if arguments.csv:
            pd.concat(kept).to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
