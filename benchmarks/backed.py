"""Is a model that reads its training cells from disk as good as one that has them in memory?

    python benchmarks/backed.py DATA_DIR [--dataset kang_ctrl_12k] [--seeds 0 1 2] [--csv runs.csv]

The training split is written to h5ad and zarr, sorted by type as files often are, and trained on from memory and from
each; as many cells as the test split has are compared with it. Means and standard deviations over seeds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.io import read_elem, sparse_dataset
from main_job import compare, label_accuracies, over_seeds, parser_of, per_type_knn

import scdiffusion as scd
from scdiffusion import metrics


def lazy_zarr(path: str) -> ad.AnnData:
    group = zarr.open_group(path, mode="r")
    return ad.AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))


def run(train: ad.AnnData, test: ad.AnnData, key: str, seed: int, max_epochs: int | None) -> Iterator[dict[str, Any]]:
    train = ad.AnnData(sp.csr_matrix(train.X), train.obs[[key]], train.var[[]])
    train = train[train.obs[key].argsort(kind="stable")].copy()
    real, types = sp.csr_matrix(test.X), test.obs[key].astype(str).to_numpy()
    log_train, log_real = metrics.log_normalise(train.X), metrics.log_normalise(real)
    train_types, order = train.obs[key].astype(str).to_numpy(), np.random.default_rng(seed).permutation(test.n_obs)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "train")
        train.write_h5ad(f"{path}.h5ad")
        train.write_zarr(f"{path}.zarr")
        ways: dict[str, Callable[[], ad.AnnData]] = {
            "in memory": lambda: train,
            "h5ad": lambda: ad.read_h5ad(f"{path}.h5ad", backed="r"),
            "zarr": lambda: lazy_zarr(f"{path}.zarr"),
        }
        for way, opened in ways.items():
            cells = opened()
            start = time.perf_counter()
            scd.SCDiffusion.setup_anndata(cells, condition_keys=key)
            model = scd.SCDiffusion(cells, rng=seed)
            model.train(max_epochs, progress=False, rng=seed)
            seconds = time.perf_counter() - start
            generated = model.generate(test.n_obs, "observed", rng=seed)
            log, labels = metrics.log_normalise(generated.X), generated.obs[key].astype(str).to_numpy()
            yield {
                "cells": way,
                **compare(real, generated.X),
                **label_accuracies(log_train, train_types, real=(log_real, types), generated=(log, labels)),
                "knn": per_type_knn(log_train, log_real[order], types[order], log, labels),
                "training, s": seconds,
            }


def main(argv: list[str] | None = None) -> pd.DataFrame:
    runs = over_seeds(parser_of(__doc__, dataset="kang_ctrl_12k").parse_args(argv), run)
    by_way = runs.drop(columns="seed").groupby("cells", sort=False)
    mean, spread = by_way.mean(), by_way.std(ddof=0)
    print("| cells | " + " | ".join(mean.columns) + " |\n|" + "---|" * (mean.shape[1] + 1))
    for way in mean.index:
        row = zip(mean.loc[way], spread.loc[way], strict=True)
        print(f"| {way} | " + " | ".join(f"{value:.3f} ± {sd:.3f}" for value, sd in row) + " |")
    return runs


if __name__ == "__main__":
    main()
