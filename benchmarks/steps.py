"""How good are cells after how many steps, with each sampler?

    python benchmarks/steps.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv steps.csv]
    python benchmarks/steps.py --csv steps.csv --figure steps.png

One model per seed, trained on the training split; from it, as many cells as the test split has, by each sampler and
number of steps. Random-forest AUC in 50 joint principal components, unbiased MMD in 30 fitted on training cells, and
seconds. The second form draws the figure of a CSV that is there.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown
from main_job import DATASETS, forest_auc, split

import scdiffusion as scd
from scdiffusion import metrics
from scdiffusion.diffusion import samplers

STEPS = (5, 10, 20, 50, 100, 200, 500, 1000)
FLOOR = "training cells"
MEASURES = {"rf": "RF AUC in 50 PCs (0.5 is perfect)", "mmd": "MMD (unbiased; 0 is perfect)"}
COLORS = dict(zip(["ddpm", "ddim", "euler", "dpmpp_2m"], ["0.55", "#d1495b", "#e9a23b", "#2b6f8f"], strict=True))


def run(
    adata: ad.AnnData, name: str, key: str, seed: int, steps: Sequence[int], **training: Any
) -> Iterator[dict[str, Any]]:
    train, test = split(adata, name, seed)
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(progress=False, rng=seed, **training)
    log_train, real = (metrics.log_normalise(sp.csr_matrix(cells.X)) for cells in (train, test))

    def quality(other: sp.csr_matrix) -> dict[str, float]:
        _, a, b = metrics.reference_pca(log_train, real, other, n_components=30, rng=seed)
        forest = forest_auc(*metrics.joint_pca(real, other, n_components=50))
        return {"rf": forest, "mmd": metrics.mmd_unbiased(a, b)}

    rows = np.random.default_rng(seed).permutation(train.n_obs)[: test.n_obs]
    yield {"sampler": FLOOR, "steps": 0, "seed": seed, "rf": forest_auc(real, log_train[rows])}
    for sampler in samplers:
        for n_steps in steps:
            start = time.perf_counter()
            cells = model.generate(test.n_obs, "observed", sampler=sampler, n_steps=n_steps, rng=seed)
            seconds = time.perf_counter() - start
            other = metrics.log_normalise(cells.X)
            yield {"sampler": sampler, "steps": n_steps, "seed": seed, "seconds": seconds, **quality(other)}


def draw(runs: pd.DataFrame, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.3), layout="constrained")
    floor, runs = runs[runs["sampler"] == FLOOR], runs[runs["sampler"] != FLOOR]
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for sampler, rows in runs.groupby("sampler", sort=False):
            by_steps = rows.groupby("steps")[measure]
            mean, spread = by_steps.mean(), by_steps.std(ddof=0)
            ax.plot(mean.index, mean, marker="o", markersize=3.5, color=COLORS[sampler], label=sampler)
            ax.fill_between(mean.index, mean - spread, mean + spread, color=COLORS[sampler], alpha=0.15, linewidth=0)
        ax.set(xscale="log", xlabel="denoising steps", ylabel=label)
        ax.set_xticks(sorted(runs["steps"].unique()), labels=sorted(runs["steps"].unique()), minor=False)
        ax.minorticks_off()
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].axhline(floor["rf"].mean(), color="black", linestyle=":", linewidth=1, label=FLOOR)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with the h5ad files")
    parser.add_argument("--dataset", choices=list(DATASETS), default="pbmc_facs_zheng")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--csv", type=Path, default=Path("steps.csv"), help="where every row is kept")
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.data:
        adata = ad.read_h5ad(arguments.data / f"{arguments.dataset}.h5ad")
        rows = []
        for seed in arguments.seeds:
            for row in run(adata, arguments.dataset, DATASETS[arguments.dataset], seed, arguments.steps):
                rows.append(row)
                print(
                    " ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items()), flush=True
                )
                pd.DataFrame(rows).to_csv(arguments.csv, index=False)
    runs = pd.read_csv(arguments.csv)
    for measure, label in MEASURES.items():
        print(f"\n{label}\n")
        table = runs.dropna(subset=measure).pivot_table(index="sampler", columns="steps", values=measure, sort=False)
        print(markdown(table[sorted(table.columns)], digits=3))
    if arguments.figure:
        draw(runs, arguments.figure)


if __name__ == "__main__":
    main()
