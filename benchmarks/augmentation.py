"""Does augmenting a rare type help a classifier of real cells?

    python benchmarks/augmentation.py DATA_DIR/pbmc3k.h5ad --key louvain [--rare 10 20 50] [--seeds 0 1 2] [--csv runs.csv]

One type after another is cut to a few training cells, and classifiers are trained on these real cells alone, with the
rare type oversampled, with SMOTE (imbalanced-learn), and with synthetic cells of a model trained on the same few
(`scd.tl.augment`, with and without selection). All raise the rare type to what it had before it was cut. Figures are of
real test cells: F1 of the rare type, and macro-F1 over all.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from imblearn.over_sampling import SMOTE, RandomOverSampler
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import scdiffusion as scd
from scdiffusion import metrics

CLASSIFIERS: dict[str, Callable[[int], Any]] = {
    "logistic regression": lambda seed: make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500)),
    "random forest": lambda seed: RandomForestClassifier(500, n_jobs=-1, random_state=seed),
}
N_COMPONENTS = 50


def cut(train: ad.AnnData, key: str, rare: str, n_cells: int, seed: int) -> ad.AnnData:
    """Training cells with no more than a few of one type."""
    is_rare = (train.obs[key] == rare).to_numpy()
    dropped = np.random.default_rng(seed).permutation(np.flatnonzero(is_rare))[n_cells:]
    return train[np.setdiff1d(np.arange(train.n_obs), dropped)].copy()


def model_of(few: ad.AnnData, key: str, seed: int, epochs: int | None) -> scd.SCDiffusion:
    scd.SCDiffusion.setup_anndata(few, condition_keys=key)
    model = scd.SCDiffusion(few, rng=seed)
    model.train(epochs, progress=False, rng=seed)
    model.train_scorer(max_epochs=epochs, progress=False, rng=seed)
    return model


def training_sets(few: ad.AnnData, key: str, rare: str, n_wanted: int, seed: int, epochs: int | None):
    """Ways to make up for the cells that are missing: principal components and labels, and what projects test cells."""
    log, labels = metrics.log_normalise(sp.csr_matrix(few.X)), few.obs[key].astype(str).to_numpy()
    pca = PCA(N_COMPONENTS, svd_solver="arpack", random_state=seed).fit(log)
    pcs, target = pca.transform(log), {rare: n_wanted}
    n_neighbors = min(5, (labels == rare).sum() - 1)
    sets = {
        "real only": (pcs, labels),
        "oversampling": RandomOverSampler(sampling_strategy=target, random_state=seed).fit_resample(pcs, labels),
        "SMOTE": SMOTE(sampling_strategy=target, k_neighbors=n_neighbors, random_state=seed).fit_resample(pcs, labels),
    }
    model = model_of(few, key, seed, epochs)
    for name, settings in {"augment": {}, "augment, keep_top=0.5": {"keep_top": 0.5}}.items():
        both = scd.tl.augment(few, model, key, target=target, rng=seed, **settings)
        synthetic = both[both.obs["synthetic"].to_numpy()]
        more = pca.transform(metrics.log_normalise(sp.csr_matrix(synthetic.X)))
        sets[name] = np.concatenate([pcs, more]), both.obs[key].astype(str).to_numpy()
    return pca, sets


def markdown(table: pd.DataFrame) -> str:
    columns = [
        f"{score}, {n} cells" for score in ("F1 of the rare type", "macro-F1") for n in table["n_cells"].unique()
    ]
    lines = [["classifier", "trained on", *columns], ["---"] * (len(columns) + 2)]
    for (classifier, cells), rows in table.groupby(["classifier", "cells"], sort=False):
        values = [
            f"{part[score].mean():.3f} ± {part[score].std(ddof=0):.3f}"
            for score in ("rare_f1", "macro_f1")
            for _, part in rows.groupby("n_cells", sort=False)
        ]
        lines.append([classifier, cells, *values])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="h5ad file with counts in X and a column 'split'")
    parser.add_argument("--key", required=True, help="obs column of cell types")
    parser.add_argument(
        "--types", nargs="+", help="types to cut (default: all with more cells than the most of --rare)"
    )
    parser.add_argument("--rare", nargs="+", type=int, default=[10, 20, 50], help="training cells to cut a type to")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-epochs", type=int, help="most epochs of each stage (default: the model's)")
    parser.add_argument("--csv", type=Path, help="file to append every run to")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = ad.read_h5ad(arguments.data)
    is_train = (adata.obs["split"] == "train").to_numpy()
    train, test = adata[is_train].copy(), adata[~is_train].copy()
    n_cells = train.obs[arguments.key].value_counts()
    types = arguments.types or [str(name) for name in n_cells.index[n_cells > max(arguments.rare)]]
    truth = test.obs[arguments.key].astype(str).to_numpy()
    log_test = metrics.log_normalise(sp.csr_matrix(test.X))
    runs = []
    for seed in arguments.seeds:
        for rare in types:
            for n in arguments.rare:
                few = cut(train, arguments.key, rare, n, seed)
                n_wanted = int(n_cells[rare])
                pca, sets = training_sets(few, arguments.key, rare, n_wanted, seed, arguments.max_epochs)
                for cells, (pcs, labels) in sets.items():
                    for name, make in CLASSIFIERS.items():
                        predicted = make(seed).fit(pcs, labels).predict(pca.transform(log_test))
                        row = {
                            "dataset": arguments.data.stem, "seed": seed, "type": rare, "n_cells": n,
                            "classifier": name, "cells": cells,
                            "rare_f1": f1_score(truth == rare, predicted == rare),
                            "macro_f1": f1_score(truth, predicted, average="macro"),
                        }  # fmt: skip
                        runs.append(row)
                        print(*row.values(), flush=True)
                        if arguments.csv:
                            header = not arguments.csv.exists()
                            pd.DataFrame([row]).to_csv(arguments.csv, mode="a", header=header, index=False)
    print(f"\n{arguments.data.stem}: means and standard deviations over seeds and types\n")
    print(markdown(pd.DataFrame(runs)))


if __name__ == "__main__":
    main()
