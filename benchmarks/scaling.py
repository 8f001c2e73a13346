"""How training grows with the number of cells, genes and conditions, when expression stays on disk.

    python benchmarks/scaling.py DATA.h5ad CONDITION_KEY [--sizes 10000 100000 1000000] [--csv scaling.csv] [--folder DIR]
    python benchmarks/scaling.py DATA.h5ad CONDITION_KEY --sizes 100000 --genes 500 2000 8000 --csv scaling.csv
    python benchmarks/scaling.py DATA.h5ad CONDITION_KEY --sizes 100000 --n-keys 1 2 4 8 --csv scaling.csv
    python benchmarks/scaling.py --csv scaling.csv --figure scaling.png

Fits a model to the most variable genes of a dataset of counts, draws cells from it onto zarr piece by piece, and trains
a new model from there, each combination in a process of its own; condition keys beyond the first are made up, of ten
categories each. Prints the time of each part, by cell, and the peak memory, and appends them to the CSV; the last form
draws the figure of one that is there.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from itertools import product
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
import zarr
from anndata.io import read_elem, sparse_dataset, write_elem
from matplotlib.ticker import EngFormatter
from own_process import peak_gb, told_by

import scdiffusion as scd

PIECE = 50_000
MOST_GENERATED = 10_000
#: Each timed; "generate" is by generated cell, the others by cell of the dataset.
PARTS = ["draw", "check", "describe", "autoencoder", "diffusion", "encode", "generate"]
COLORS = dict(zip(PARTS, plt.colormaps["tab10"].colors, strict=False))
#: What may vary, its name on the axis, and at how much it is held while another does.
VARIED = {"cells": ("cells", None), "genes": ("genes", 2000), "keys": ("condition keys", 1)}


def fit(path: str, key: str, n_genes: int, max_epochs: int | None) -> scd.SCDiffusion:
    adata = ad.read_h5ad(path)
    if n_genes < adata.n_vars:
        sc.pp.highly_variable_genes(adata, n_top_genes=n_genes, flavor="seurat_v3", subset=True)
    sc.pp.filter_cells(adata, min_counts=1)
    scd.SCDiffusion.setup_anndata(adata, condition_keys=key)
    model = scd.SCDiffusion(adata)
    model.train(max_epochs, progress=False)
    return model


def draw(model: scd.SCDiffusion, n_cells: int, path: Path) -> None:
    """Cells of the training composition, at most a piece of them in memory; none without counts."""
    group, obs, n_drawn = zarr.open_group(path, mode="w"), [], 0
    while n_drawn < n_cells:
        piece = model.generate(min(PIECE, n_cells - n_drawn), "observed", rng=len(obs))
        piece = piece[np.ravel(piece.X.sum(1)) > 0]
        if n_drawn:
            sparse_dataset(group["X"]).append(piece.X)
        else:
            write_elem(group, "X", piece.X)
        obs.append(piece.obs)
        n_drawn += piece.n_obs
    write_elem(group, "obs", pd.concat(obs).reset_index(drop=True).rename(index=str))
    write_elem(group, "var", model.var_[[]])


def train(path: str, key: str, n_keys: int, max_epochs: int | None) -> None:
    """Train from zarr and print what it took; run in a process of its own, whose peak memory is that of training."""
    group = zarr.open_group(path, mode="r")
    times = {}

    def timed(name, call):
        start = time.perf_counter()
        result = call()
        times[name] = time.perf_counter() - start
        return result

    adata = ad.AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))
    rng, keys = np.random.default_rng(0), [key]
    for number in range(1, n_keys):
        keys.append(f"made_up_{number}")
        adata.obs[keys[-1]] = pd.Categorical(rng.integers(10, size=adata.n_obs).astype(str))
    timed("check", lambda: scd.SCDiffusion.setup_anndata(adata, condition_keys=keys))
    model = timed("describe", lambda: scd.SCDiffusion(adata))
    for stage, other in (("autoencoder", "diffusion"), ("diffusion", "autoencoder")):
        timed(stage, lambda: model.train({stage: max_epochs, other: 0}, progress=False))  # noqa: B023
    timed("encode", model.get_latent_representation)
    peak, n_generated = peak_gb(), min(MOST_GENERATED, adata.n_obs)
    timed("generate", lambda: model.generate(n_generated, "observed", rng=0))
    by_cell = {
        part: 1e6 * seconds / (n_generated if part == "generate" else adata.n_obs) for part, seconds in times.items()
    }
    print(json.dumps({**by_cell, "training": times["autoencoder"] + times["diffusion"], "peak": peak}))


def figure(runs: pd.DataFrame, path: Path) -> None:
    """Time per cell and peak memory against what varies, the rest at its default (the most frequent size of these)."""
    shown = {}
    for varied in VARIED:
        held = {name: value for name, (_, value) in VARIED.items() if name != varied and value is not None}
        rows = runs[np.logical_and.reduce([runs[name] == value for name, value in held.items()])]
        if varied != "cells" and len(rows):
            rows = rows[rows["cells"] == rows.groupby("cells")[varied].nunique().idxmax()]
        if rows[varied].nunique() > 1:
            shown[varied] = rows.groupby(varied).mean()
    drawn, axes = plt.subplots(
        2,
        len(shown),
        figsize=(1.6 + 3 * len(shown), 5.2),
        sharex="col",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (above, below), (varied, rows) in zip(axes.T, shown.items(), strict=True):
        for part in PARTS[1:]:  # drawing is generating, once more
            above.plot(rows.index, rows[part], marker="o", markersize=3.5, color=COLORS[part], label=part)
        below.plot(rows.index, rows["peak"], marker="o", markersize=3.5, color="black")
        above.set(xscale="log", yscale="log")
        below.set(xlabel=VARIED[varied][0], ylim=(0, 1.1 * runs["peak"].max()))
        below.set_xticks(rows.index)
        below.xaxis.set_major_formatter(EngFormatter(sep=""))
        below.minorticks_off()
        for ax in (above, below):
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("time per cell, µs")
    axes[1, 0].set_ylabel("peak memory of training, GB")
    drawn.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("key", nargs="?")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--genes", type=int, nargs="+", default=[VARIED["genes"][1]])
    parser.add_argument("--n-keys", type=int, nargs="+", default=[VARIED["keys"][1]])
    parser.add_argument("--max-epochs", type=int, help="of each stage, of both models; by default the package's own")
    parser.add_argument("--folder", help="where to keep the drawn cells; by default they are removed")
    parser.add_argument("--csv", type=Path, help="where to append every row")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--train", type=int, help=argparse.SUPPRESS)  # with so many keys; DATA is then a zarr folder
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")
    if args.train:
        train(args.data, args.key, args.train, args.max_epochs)
        return
    if args.data:
        measure(args)
    if args.figure:
        figure(pd.read_csv(args.csv), args.figure)


def measure(args: argparse.Namespace) -> None:
    print("| cells | genes | keys |", " | ".join(f"{part}, µs per cell" for part in PARTS), "| training, s | peak GB |")
    print("|---" * (len(PARTS) + 5) + "|")
    epochs = ["--max-epochs", args.max_epochs] if args.max_epochs is not None else []
    with tempfile.TemporaryDirectory() as temporary:
        for n_genes in args.genes:
            model = fit(args.data, args.key, n_genes, args.max_epochs)
            for n_cells, n_keys in product(args.sizes, args.n_keys):
                path = Path(args.folder or temporary) / f"{n_cells}_{n_genes}.zarr"
                start, drawing = time.perf_counter(), np.nan
                if not path.exists():
                    draw(model, n_cells, path)
                    drawing = 1e6 * (time.perf_counter() - start) / n_cells
                row = {"cells": n_cells, "genes": n_genes, "keys": n_keys, "draw": drawing}
                row |= told_by(__file__, path, args.key, "--train", n_keys, *epochs)
                by_cell = " | ".join(f"{row[part]:.0f}" for part in PARTS)
                print(
                    f"| {n_cells:,} | {n_genes:,} | {n_keys} | {by_cell} | {row['training']:.0f} | {row['peak']:.2f} |",
                    flush=True,
                )
                if args.csv:
                    pd.DataFrame([row]).to_csv(args.csv, mode="a", header=not args.csv.exists(), index=False)


if __name__ == "__main__":
    main()
