"""How training grows with the number of cells, when their expression stays on disk.

    python benchmarks/scaling.py DATA.h5ad CONDITION_KEY [--sizes 10000 100000 1000000] [--genes 2000] [--folder DIR]

Fits a model to the most variable genes of a dataset of counts, draws cells from it onto zarr piece by piece, and trains
a new model from there, each size in a process of its own. Prints the time of each part, by cell, and the peak memory.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import zarr
from anndata.io import read_elem, sparse_dataset, write_elem
from own_process import peak_gb

import scdiffusion as scd

PIECE = 50_000


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


def train(path: str, key: str, max_epochs: int | None) -> None:
    """Train from zarr and print what it took; run in a process of its own, whose peak memory is that of training."""
    group = zarr.open_group(path, mode="r")
    times = {}

    def timed(name, call):
        start = time.perf_counter()
        result = call()
        times[name] = time.perf_counter() - start
        return result

    adata = ad.AnnData(sparse_dataset(group["X"]), obs=read_elem(group["obs"]), var=read_elem(group["var"]))
    timed("check", lambda: scd.SCDiffusion.setup_anndata(adata, condition_keys=key))
    model = timed("describe", lambda: scd.SCDiffusion(adata))
    for stage, other in (("autoencoder", "diffusion"), ("diffusion", "autoencoder")):
        timed(stage, lambda: model.train({stage: max_epochs, other: 0}, progress=False))  # noqa: B023
    timed("encode", model.get_latent_representation)
    n_steps = {stage: len(model.history[f"{stage}_train_loss"]) for stage in ("autoencoder", "diffusion")}
    print(json.dumps({"n_cells": adata.n_obs, **times, "peak_gb": peak_gb(), "epochs": n_steps}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("key")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--max-epochs", type=int, help="of each stage, of both models; by default the package's own")
    parser.add_argument("--folder", help="where to keep the drawn cells; by default they are removed")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)  # DATA is then a zarr folder
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.train:
        train(args.data, args.key, args.max_epochs)
        return
    model = fit(args.data, args.key, args.genes, args.max_epochs)
    parts = ["draw", "check", "describe", "autoencoder", "diffusion", "encode"]
    print("| cells |", " | ".join(f"{part}, µs per cell" for part in parts), "| training, s | peak GiB |")
    print("|---" * (len(parts) + 3) + "|")
    with tempfile.TemporaryDirectory() as temporary:
        for n_cells in args.sizes:
            path = Path(args.folder or temporary) / f"{n_cells}.zarr"
            start = time.perf_counter()
            if not path.exists():
                draw(model, n_cells, path)
            drawing = time.perf_counter() - start
            command = [sys.executable, __file__, str(path), args.key, "--train"]
            command += ["--max-epochs", str(args.max_epochs)] if args.max_epochs is not None else []
            out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            result = {"draw": drawing, **json.loads(out.splitlines()[-1])}
            by_cell = " | ".join(f"{1e6 * result[part] / n_cells:.0f}" for part in parts)
            seconds = result["autoencoder"] + result["diffusion"]
            print(f"| {n_cells:,} | {by_cell} | {seconds:.0f} | {result['peak_GiB']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
