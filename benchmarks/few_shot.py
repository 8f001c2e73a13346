"""Can cells of a type be generated from a handful of them, when the model was trained on none?

    python benchmarks/few_shot.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv runs.csv]

One type after the other is held out entirely. The model is given 5, 20 or 100 training cells of the type; what it
generates is compared with the type's cells of the test split. Beside it, from the same cells: what a denoiser makes of
their mean expression (`condition_encoder="mean_expression"`, `compose="joint"`), as in SCLD; copies with noise (a given cell, its
counts drawn anew from a Poisson distribution), the training cells of the nearest type, and as the floor the type's other
training cells. Energy distance is unbiased, in 30 principal components fitted on test cells of other types; the
classifier that tells types has seen training cells of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown
from main_job import forest_auc, over_seeds, parser_of

import scdiffusion as scd
from scdiffusion import metrics

SIZES = (5, 20, 100)
LEAST_CELLS = 125  # training cells of a type, so that some are left to compare with
FLOOR, OURS = "*other cells of the type*", "**shift and scaled genes (default)**"


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


def run(train: ad.AnnData, test: ad.AnnData, key: str, held_out: str, seed: int, **training: Any) -> Iterator[dict]:
    rng = np.random.default_rng(seed)
    labels, test_labels = (cells.obs[key].astype(str).to_numpy() for cells in (train, test))
    of_type = train[rng.permutation(np.flatnonzero(labels == held_out))].copy()
    others = train[labels != held_out].copy()
    others.obs[key] = others.obs[key].astype(str)
    types = others.obs[key].to_numpy()
    scd.SCDiffusion.setup_anndata(others, condition_keys=key)
    model = scd.SCDiffusion(others, condition_encoder="mean_expression", rng=seed)
    model.train(progress=False, rng=seed, **training)

    real = metrics.log_normalise(sp.csr_matrix(test.X[test_labels == held_out]))
    reference = metrics.log_normalise(sp.csr_matrix(test.X[test_labels != held_out]))
    log_train = metrics.log_normalise(sp.csr_matrix(train.X))
    n_cells = real.shape[0]
    for n in (size for size in SIZES if size < of_type.n_obs):
        given = of_type[:n]
        neighbour = others.X[types == nearest(others, types, given.X)]
        sets = {
            FLOOR: of_type[n : n + n_cells].X,
            OURS: model.generate(n_cells, {key: given.copy()}, rng=seed).X,
            "mean expression": model.generate(n_cells, {key: given.copy()}, compose="joint", rng=seed).X,
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
                "type": held_out, "given": n, "cells": name,
                "energy": metrics.energy_distance(of_real, x, unbiased=True),
                "RF AUC 50 PCs": forest_auc(
                    *metrics.joint_pca(real[:n_both], expression[:n_both], n_components=n_components)
                ),
                "told as the type": metrics.label_accuracy(of_train / scale, labels, y / scale, truth, C=0.1),
            }  # fmt: skip


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__)
    parser.add_argument("--types", nargs="+", help="by default all with enough cells")
    parser.add_argument("--choose", action="store_true", help="training split only")
    arguments = parser.parse_args(argv)

    def of_all_types(
        train: ad.AnnData, test: ad.AnnData, key: str, seed: int, max_epochs: int | None
    ) -> Iterator[dict[str, Any]]:
        if arguments.choose:
            train, test = halves(train, seed)
        for cells in (train, test):
            cells.X = sp.csr_matrix(cells.X, dtype=np.float32)
        n_cells = train.obs[key].value_counts()
        for held_out in arguments.types or sorted(n_cells.index[n_cells >= LEAST_CELLS]):
            yield from run(train, test, key, held_out, seed, max_epochs=max_epochs)

    runs = over_seeds(arguments, of_all_types)
    for n, of_size in runs.groupby("given"):
        print(f"\n{n} cells given: means over types and seeds\n")
        print(markdown(of_size.drop(columns=["type", "seed", "given"]).groupby("cells", sort=False).mean()))
    return runs


if __name__ == "__main__":
    main()
