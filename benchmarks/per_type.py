"""Is each cell type generated as well as the others, rare ones too? scDiffusion's Fig. 3 and Tables 1 and 2.

    python benchmarks/per_type.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv runs.csv]

CellTypist is trained on the training split and asked what generated cells and the test split's are; as many cells of
each type are generated as the test split has. kNN AUC by type in 30 principal components fitted on training cells,
beside that of training cells against test cells, at the same number of cells.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import anndata as ad
import celltypist
import numpy as np
import pandas as pd
from interpolation import markdown
from main_job import LEAST_CELLS_PER_TYPE, log_of, over_seeds, parser_of

import scdiffusion as scd
from scdiffusion import metrics

celltypist.logger.set_level(logging.WARNING)


def per_10k(cells: ad.AnnData) -> ad.AnnData:
    """Log-normalised to exactly 10,000 per cell, which CellTypist insists on."""
    log = log_of(cells)
    return ad.AnnData(metrics.log_normalise(log.expm1()), var=cells.var[[]])


def typist_of(train: ad.AnnData, key: str) -> celltypist.models.Model:
    labels = train.obs[key].astype(str).to_numpy()
    # its default solver asks scikit-learn for an argument that is no longer there
    return celltypist.train(per_10k(train), labels=labels, use_SGD=True, check_expression=False, n_jobs=1)


def told_types(model: celltypist.models.Model, cells: ad.AnnData) -> np.ndarray:
    """What CellTypist takes cells for."""
    return celltypist.annotate(per_10k(cells), model=model).predicted_labels["predicted_labels"].astype(str).to_numpy()


def knn_auc(real: np.ndarray, other: np.ndarray, rng: np.random.Generator) -> float:
    n_cells = min(len(real), len(other))
    if n_cells < LEAST_CELLS_PER_TYPE:
        return float("nan")
    return float(np.mean([metrics.knn_auc(rng.permutation(real)[:n_cells], other[:n_cells], rng=i) for i in range(3)]))


def run(train: ad.AnnData, test: ad.AnnData, key: str, seed: int, max_epochs: int | None) -> Iterator[dict[str, Any]]:
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(max_epochs, progress=False, rng=seed)
    generated = model.generate(obs_conditions={key: test.obs[key].value_counts().to_dict()}, rng=seed)

    rng = np.random.default_rng(seed)
    typist = typist_of(train, key)
    sets = {"real": test, "generated": generated}
    labels = {side: cells.obs[key].astype(str).to_numpy() for side, cells in sets.items()}
    right = {side: told_types(typist, cells) == labels[side] for side, cells in sets.items()}
    of_train, of_real, of_generated = metrics.reference_pca(
        log_of(train), *map(log_of, sets.values()), n_components=30, rng=seed
    )
    train_labels = train.obs[key].astype(str).to_numpy()
    for cell_type in np.unique(labels["real"]):
        real = of_real[labels["real"] == cell_type]
        yield {
            "cells": cell_type,
            "training cells": (train_labels == cell_type).sum(),
            "accuracy, real": right["real"][labels["real"] == cell_type].mean(),
            "accuracy, generated": right["generated"][labels["generated"] == cell_type].mean(),
            "kNN AUC, generated": knn_auc(real, of_generated[labels["generated"] == cell_type], rng),
            "kNN AUC, training": knn_auc(real, rng.permutation(of_train[train_labels == cell_type]), rng),
        }


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over seeds by type, the rarest first, and their mean."""
    table = runs.drop(columns="seed").groupby("cells").mean().sort_values("training cells")
    return pd.concat([table, table.mean().to_frame("mean").T]).rename_axis("cells")


def main(argv: list[str] | None = None) -> pd.DataFrame:
    runs = over_seeds(parser_of(__doc__).parse_args(argv), run)
    print(markdown(summary(runs)))
    return runs


if __name__ == "__main__":
    main()
