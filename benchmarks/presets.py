"""The papers' models against the default, each trained for as long as the default takes.

    python benchmarks/presets.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv runs.csv]

The default is trained first, to its own end; the others get that time, in equal shares of their stages. Log-normalised
values are compared on both sides, since that is what the papers' models generate. `preset="scdiffusion"` is run with
standardised latents, as here, and with latents as they are, as published.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from interpolation import markdown
from main_job import DATASETS, forest_auc, label_accuracies, log_of, per_type_knn, split

import scdiffusion as scd
from scdiffusion import metrics

MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "scdiffusion": {"preset": "scdiffusion"},
    "scdiffusion, latents as they are": {"preset": "scdiffusion", "standardise_latents": False},
    "scld": {"preset": "scld"},
}
STAGES = {"default": ("autoencoder", "diffusion"), "scdiffusion": ("autoencoder", "diffusion", "classifier")}


def train(model: scd.SCDiffusion, stages: tuple[str, ...], seconds: float | None, seed: int, **training: Any) -> None:
    """Train to the end, or each stage for its share of some seconds."""
    if seconds is None:
        model.train(progress=False, rng=seed, **training)
        return
    share = {"seconds": max(1, round(seconds / len(stages)))}
    for stage in stages:
        epochs = {other: 0 for other in stages if other != stage}
        model.train(epochs, progress=False, rng=seed, max_time=share, **training)


def run(adata: ad.AnnData, name: str, key: str, seed: int, **training: Any) -> pd.DataFrame:
    train_cells, test = split(adata, name, seed)
    sets = {"training": train_cells, "real": test}
    log = {side: log_of(cells) for side, cells in sets.items()}
    types = {side: cells.obs[key].astype(str).to_numpy() for side, cells in sets.items()}
    order = np.random.default_rng(seed).permutation(test.n_obs)
    rows, budget = [], None
    for label, settings in MODELS.items():
        preset = settings.get("preset")
        scd.SCDiffusion.setup_anndata(train_cells, condition_keys=key)
        model = scd.SCDiffusion(train_cells, rng=seed, **settings)
        start = time.perf_counter()
        train(model, STAGES.get(preset, STAGES["default"]), budget, seed, **training)
        seconds = time.perf_counter() - start
        budget = seconds if budget is None else budget
        start = time.perf_counter()
        cells = model.generate(test.n_obs, "observed", rng=seed)
        other, other_types = log_of(cells), cells.obs[key].astype(str).to_numpy()
        generating = time.perf_counter() - start
        _, a, b = metrics.reference_pca(log["training"], log["real"], other, n_components=30, rng=seed)
        accuracy = label_accuracies(
            log["training"], types["training"], real=(log["real"], types["real"]), generated=(other, other_types)
        )
        rows.append(
            {
                "model": label,
                "RF AUC genes": forest_auc(log["real"], other),
                "RF AUC 50 PCs": forest_auc(*metrics.joint_pca(log["real"], other, n_components=50)),
                "MMD": metrics.mmd_unbiased(a, b),
                "type accuracy": accuracy["accuracy_generated"],
                "type accuracy, real": accuracy["accuracy_real"],
                "per-type kNN AUC": per_type_knn(
                    log["training"], log["real"][order], types["real"][order], other, other_types
                ),
                "training, s": seconds,
                "generating, s": generating,
                "seed": seed,
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--dataset", choices=list(DATASETS), default="pbmc_facs_zheng")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--csv", type=Path, help="where to keep every row")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    adata = ad.read_h5ad(arguments.data / f"{arguments.dataset}.h5ad")
    tables = []
    for seed in arguments.seeds:
        tables.append(run(adata, arguments.dataset, DATASETS[arguments.dataset], seed))
        if arguments.csv:
            pd.concat(tables).to_csv(arguments.csv, index=False)
    print(markdown(pd.concat(tables).drop(columns="seed").groupby("model", sort=False).mean(), digits=3))


if __name__ == "__main__":
    main()
