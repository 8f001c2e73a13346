"""What does sharpening cost? Generated cells against the scale of classifier-free guidance, SCLD's knob (Fig. 5).

    python benchmarks/guidance.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv guidance.csv] [--figure guidance.png]
    python benchmarks/guidance.py --csv guidance.csv --figure guidance.png

One model per seed, trained on the training split; from it, as many cells as the test split has, at each scale: -1 is
unconditional, 0 conditional, above 0 sharper. Accuracy of the types that were asked for, coverage in 30 principal
components, and slope of the log-fold changes of types against those of test cells. Floor: training cells, others than
those that components and the classifier of types are fitted on. The UMAPs, of the first seed, show test cells in grey
and generated ones over them by type; their coordinates are kept beside the CSV.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scipy.sparse as sp
import umap
from interpolation import markdown
from main_job import apart, label_accuracies, over_seeds, parser_of
from steps import FLOOR, curve, floor_line

import scdiffusion as scd
from scdiffusion import metrics

SCALES = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
MEASURES = {"accuracy": "accuracy of types", "coverage": "coverage", "lfc_slope": "slope of log-fold changes"}


def run(
    train: ad.AnnData,
    test: ad.AnnData,
    key: str,
    seed: int,
    max_epochs: int | None,
    scales: Sequence[float],
    maps: Path,
) -> Iterator[dict[str, Any]]:
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(max_epochs, progress=False, rng=seed)
    log_train, real = (metrics.log_normalise(sp.csr_matrix(cells.X)) for cells in (train, test))
    train_types, types = (cells.obs[key].astype(str).to_numpy() for cells in (train, test))
    floor, reference = apart(train.n_obs, test.n_obs, np.random.default_rng(seed))
    drawn = {}

    def quality(other: sp.csr_matrix, other_types: np.ndarray) -> dict[str, float]:
        _, a, b = metrics.reference_pca(log_train[reference], real, other, n_components=30, rng=seed)
        shared = np.intersect1d(types, other_types)
        return {
            **label_accuracies(log_train[reference], train_types[reference], other=(other, other_types)),
            "coverage": metrics.density_coverage(a[: len(b)], b[: len(a)]).coverage,
            "lfc_slope": metrics.lfc_slope(real, types, other, other_types, groups=shared),
        }

    yield {"cells": FLOOR, "scale": np.nan, **named(quality(log_train[floor], train_types[floor]))}
    for scale in scales:
        cells = model.generate(test.n_obs, "observed", guidance="classifier_free", guidance_scale=scale, rng=seed)
        drawn[scale] = metrics.log_normalise(cells.X), cells.obs[key].astype(str).to_numpy()
        yield {"cells": "generated", "scale": scale, **named(quality(*drawn[scale]))}
    if not maps.exists():
        embed(log_train[reference], real, types, drawn).to_csv(maps, index=False)


def named(quality: dict[str, float]) -> dict[str, float]:
    return {name.removesuffix("_other"): value for name, value in quality.items()}


def embed(
    reference: sp.csr_matrix,
    real: sp.csr_matrix,
    types: np.ndarray,
    drawn: dict[float, tuple[sp.csr_matrix, np.ndarray]],
) -> pd.DataFrame:
    """Test cells and those of each scale, in one UMAP that is fitted on the test cells."""
    _, of_real, *others = metrics.reference_pca(
        reference, real, *(cells for cells, _ in drawn.values()), n_components=30
    )
    fitted = umap.UMAP(random_state=0, n_jobs=1).fit(of_real)
    tables = [pd.DataFrame(fitted.embedding_, columns=["x", "y"]).assign(cells="real", type=types)]
    for (scale, (_, asked)), pcs in zip(drawn.items(), others, strict=True):
        at = pd.DataFrame(fitted.transform(pcs), columns=["x", "y"])
        tables.append(at.assign(cells="generated", type=asked, scale=scale))
    return pd.concat(tables)


def draw(runs: pd.DataFrame, maps: pd.DataFrame, path: Path) -> None:
    scales, types = sorted(runs["scale"].dropna().unique()), sorted(maps["type"].unique())
    figure = plt.figure(figsize=(10, 3 + 2.6 * -(-len(scales) // 3)), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[2.8, 2.6 * -(-len(scales) // 3)])
    floor = runs[runs["cells"] == FLOOR]
    for ax, (measure, label) in zip(above.subplots(1, 3), MEASURES.items(), strict=True):
        curve(ax, runs.groupby("scale")[measure], "#2b6f8f", "generated")
        floor_line(ax, floor[measure].mean(), FLOOR)
        ax.set(xlabel="guidance_scale $w$", ylabel=label)
    ax.legend(frameon=False)
    colors = dict(zip(types, plt.colormaps["tab20"].colors, strict=False))
    real = maps[maps["cells"] == "real"]
    size = np.clip(3000 / len(real), 1, 6)
    axes = below.subplots(-(-len(scales) // 3), 3, squeeze=False, sharex=True, sharey=True).ravel()
    for ax in axes:
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.85")
    for ax in axes[len(scales) :]:
        ax.remove()
    for ax, scale in zip(axes, scales, strict=False):
        ax.scatter(real["x"], real["y"], s=size, color="0.85", linewidth=0)
        for name, cells in maps[maps["scale"] == scale].groupby("type"):
            ax.scatter(cells["x"], cells["y"], s=size, color=colors[name], linewidth=0, label=name)
        ax.set_title(f"$w = {scale:g}$", fontsize=9)
    handles = [plt.Line2D([], [], marker="o", linestyle="", markersize=4, color=colors[name]) for name in types]
    below.legend(handles, types, loc="outside right center", frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__, csv=Path("guidance.csv"))
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args(argv)
    maps = arguments.csv.with_suffix(".umap.csv")
    if arguments.data:
        maps.unlink(missing_ok=True)
    runs = over_seeds(arguments, partial(run, scales=arguments.scales, maps=maps))
    table = runs.assign(cells=runs["scale"].map("{:g}".format).where(runs["cells"] != FLOOR, FLOOR))
    print(markdown(table.groupby("cells", sort=False)[list(MEASURES)].mean(), digits=3))
    if arguments.figure:
        draw(runs, pd.read_csv(maps), arguments.figure)
    return runs


if __name__ == "__main__":
    main()
