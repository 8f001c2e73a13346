"""Can cells of a type be generated from a handful of them, when the model was trained on none?

    python benchmarks/few_shot.py DATA_DIR [--datasets pbmc3k ...] [--seeds 0 1 2] [--csv runs.csv]

One type after the other is held out entirely. The model knows conditions by their mean expression
(`condition_encoder="mean_expression"`), and is given 5, 20 or 100 training cells of the type; what it generates is
compared with the type's cells of the test split. Beside it, from the same cells: copies with noise (a given cell, its
counts drawn anew from a Poisson distribution), the training cells of the nearest type, and as the floor the type's other
training cells. Energy distance is unbiased, in 30 principal components fitted on test cells of other types; the
classifier that tells types has seen training cells of all of them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown
from main_job import DATASETS, forest_auc, split

import scdiffusion as scd
from scdiffusion import metrics

SIZES = (5, 20, 100)
LEAST_CELLS = 125  # training cells of a type, so that some are left to compare with
FLOOR, OURS = "*other cells of the type*", "**from the profile**"


def halves(train: ad.AnnData, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    """The training split cut anew, to choose on."""
    is_test = np.random.default_rng(seed).random(train.n_obs) < 0.4
    return train[~is_test].copy(), train[is_test].copy()


def copies(cells: sp.csr_matrix, n_cells: int, rng: np.random.Generator) -> sp.csr_matrix:
    chosen = cells[rng.integers(cells.shape[0], size=n_cells)].copy()
    chosen.data = rng.poisson(chosen.data).astype(np.float32)
    chosen.eliminate_zeros()
    return chosen[np.ravel(chosen.sum(1)) > 0]


def nearest(train: ad.AnnData, labels: np.ndarray, given: sp.csr_matrix) -> str:
    log, profile = metrics.log_normalise(train.X), metrics.log_normalise(given).mean(0)
    types = np.unique(labels)
    return types[np.argmin([np.linalg.norm(log[labels == name].mean(0) - profile) for name in types])]


def run(train: ad.AnnData, test: ad.AnnData, key: str, held_out: str, seed: int) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    labels, test_labels = (cells.obs[key].astype(str).to_numpy() for cells in (train, test))
    of_type = train[rng.permutation(np.flatnonzero(labels == held_out))].copy()
    others = train[labels != held_out].copy()
    others.obs[key] = others.obs[key].astype(str)
    scd.SCDiffusion.setup_anndata(others, condition_keys=key)
    model = scd.SCDiffusion(others, condition_encoder="mean_expression", rng=seed)
    model.train(progress=False, rng=seed)

    real = metrics.log_normalise(sp.csr_matrix(test.X[test_labels == held_out]))
    reference = metrics.log_normalise(sp.csr_matrix(test.X[test_labels != held_out]))
    log_train = metrics.log_normalise(sp.csr_matrix(train.X))
    n_cells = real.shape[0]
    for n in SIZES:
        given = of_type[:n]
        neighbour = sp.csr_matrix(
            others.X[labels[labels != held_out] == nearest(others, labels[labels != held_out], given.X)]
        )
        sets = {
            FLOOR: of_type[n : n + n_cells].X,
            OURS: model.generate(n_cells, {key: given.copy()}, rng=seed).X,
            "copies with noise": copies(sp.csr_matrix(given.X), n_cells, rng),
            "nearest type": neighbour[rng.permutation(neighbour.shape[0])[:n_cells]],
        }
        log = {name: metrics.log_normalise(sp.csr_matrix(counts)) for name, counts in sets.items()}
        _, of_real, *pcs = metrics.reference_pca(reference, real, *log.values(), n_components=30, rng=seed)
        of_train, *in_train = metrics.reference_pca(log_train, *log.values(), n_components=50, rng=seed)
        scale = of_train.std(0)
        for (name, expression), x, y in zip(log.items(), pcs, in_train, strict=True):
            truth = np.repeat(held_out, len(y))
            n_both = min(n_cells, expression.shape[0])
            n_components = min(50, n_both)
            yield {
                "type": held_out, "seed": seed, "given": n, "cells": name,
                "energy": metrics.energy_distance(of_real, x, unbiased=True),
                "RF AUC 50 PCs": forest_auc(
                    *metrics.joint_pca(real[:n_both], expression[:n_both], n_components=n_components)
                ),
                "told as the type": metrics.label_accuracy(of_train / scale, labels, y / scale, truth, C=0.1),
            }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=["pbmc_facs_zheng"])
    parser.add_argument("--types", nargs="+", help="by default all with enough cells")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true", help="training split only")
    parser.add_argument("--csv", type=Path, help="where to keep every row")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = []
    for name in arguments.datasets:
        adata, key = ad.read_h5ad(arguments.data / f"{name}.h5ad"), DATASETS[name]
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
        for seed in arguments.seeds:
            train, test = split(adata, name, seed)
            if arguments.choose:
                train, test = halves(train, seed)
            n_cells = train.obs[key].value_counts()
            types = arguments.types or sorted(n_cells.index[n_cells >= LEAST_CELLS])
            for held_out in types:
                start = time.perf_counter()
                rows += [{"dataset": name, **row} for row in run(train, test, key, held_out, seed)]
                print(f"{name}, seed {seed}, {held_out}: {time.perf_counter() - start:.0f} s", flush=True)
                if arguments.csv:
                    pd.DataFrame(rows).to_csv(arguments.csv, index=False)
    for name, table in pd.DataFrame(rows).groupby("dataset", sort=False):
        for n, of_size in table.groupby("given"):
            print(f"\n{name}, {n} cells given: means over types and seeds\n")
            print(
                markdown(of_size.drop(columns=["dataset", "type", "seed", "given"]).groupby("cells", sort=False).mean())
            )


if __name__ == "__main__":
    main()
