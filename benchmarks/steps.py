"""How good are cells after how many steps, with each sampler?

    python benchmarks/steps.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv steps.csv]
    python benchmarks/steps.py --csv steps.csv --figure steps.png

One model per seed, trained on the training split; from it, as many cells as the test split has, by each sampler and
number of steps. Random-forest AUC in 50 joint principal components, unbiased MMD in 30 fitted on training cells, and
seconds. Floor: training cells, others than those that the components are fitted on. The second form draws the figure of a CSV that is there.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown
from main_job import apart, forest_auc, over_seeds, parser_of
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter

import scdiffusion as scd
from scdiffusion import metrics
from scdiffusion.diffusion import samplers

STEPS = (5, 10, 20, 50, 100, 200, 500, 1000)
FLOOR = "training cells"
MEASURES = {"rf": "RF AUC in 50 PCs (0.5 is perfect)", "mmd": "MMD (unbiased; 0 is perfect)"}
COLORS = dict(zip(["ddpm", "ddim", "euler", "dpmpp_2m"], ["0.55", "#d1495b", "#e9a23b", "#2b6f8f"], strict=True))


def run(
    train: ad.AnnData, test: ad.AnnData, key: str, seed: int, max_epochs: int | None, steps: Sequence[int]
) -> Iterator[dict[str, Any]]:
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(max_epochs, progress=False, rng=seed)
    log_train, real = (metrics.log_normalise(sp.csr_matrix(cells.X)) for cells in (train, test))
    floor, reference = apart(train.n_obs, test.n_obs, np.random.default_rng(seed))

    def quality(other: sp.csr_matrix) -> dict[str, float]:
        _, a, b = metrics.reference_pca(log_train[reference], real, other, n_components=30, rng=seed)
        forest = forest_auc(*metrics.joint_pca(real, other, n_components=50))
        return {"rf": forest, "mmd": metrics.mmd_unbiased(a, b)}

    yield {"sampler": FLOOR, "steps": 0, **quality(log_train[floor])}
    for sampler in samplers:
        for n_steps in steps:
            start = time.perf_counter()
            cells = model.generate(test.n_obs, "observed", sampler=sampler, n_steps=n_steps, rng=seed)
            seconds = time.perf_counter() - start
            other = metrics.log_normalise(cells.X)
            yield {"sampler": sampler, "steps": n_steps, "seconds": seconds, **quality(other)}


def curve(ax: Axes, values: pd.api.typing.SeriesGroupBy, color: str, label: str) -> None:
    """Means of groups, and a band of their standard deviations over seeds."""
    mean, spread = values.mean(), values.std(ddof=0)
    ax.plot(mean.index, mean, marker="o", markersize=3.5, color=color, label=label)
    ax.fill_between(mean.index, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)


def floor_line(ax: Axes, value: float, label: str) -> None:
    """Where training cells are, in a frame that is open above and to the right."""
    ax.axhline(value, color="black", linestyle=":", linewidth=1, label=label)
    ax.spines[["top", "right"]].set_visible(False)


def draw(runs: pd.DataFrame, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(8.5, 3.3), layout="constrained")
    floor, runs = runs[runs["sampler"] == FLOOR], runs[runs["sampler"] != FLOOR]
    for ax, (measure, label) in zip(axes, MEASURES.items(), strict=True):
        for sampler, rows in runs.groupby("sampler", sort=False):
            curve(ax, rows.groupby("steps")[measure], COLORS[sampler], sampler)
        ax.set(xscale="log", xlabel="denoising steps", ylabel=label)
        ax.set_xticks(sorted(runs["steps"].unique()))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.minorticks_off()
        floor_line(ax, floor[measure].mean(), FLOOR)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__, csv=Path("steps.csv"))
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args(argv)
    runs = over_seeds(arguments, partial(run, steps=arguments.steps))
    for measure, label in MEASURES.items():
        print(f"\n{label}\n")
        table = runs.dropna(subset=measure).pivot_table(index="sampler", columns="steps", values=measure, sort=False)
        print(markdown(table[sorted(table.columns)], digits=3).replace("nan", "-"))
    if arguments.figure:
        draw(runs, arguments.figure)
    return runs


if __name__ == "__main__":
    main()
