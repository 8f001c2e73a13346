"""How fast it trains and generates, each figure as a ratio to a reference that is run beside it.

    python benchmarks/speed.py [DATA.h5ad] [--key celltype] [--parts import generation ...] [--million] [--tiny]

DATA holds counts, by default of `pbmc_facs_zheng` (2,574 cells by 14,072 genes); without a file, counts of that size are
made up. The reference is the published model written out: 1000 steps of ancestral sampling with a denoiser of 3.5
million parameters, and a dense decoder of log-normalised expression; its training steps are those of the two networks.
The part "scld" has our `preset="scld"` as its reference (SCLD, Fig. 4): its published 20,000 steps of each stage, without
the scorer. The part "ranks" is two processes against one. Prints a table. Wants a quiet machine.
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
import ranks
import scipy.sparse as sp
import torch
from own_process import peak_gb, told_by
from reference import (
    N_LATENT,
    PUBLISHED_STEPS,
    ReferenceDenoiser,
    reference_autoencoder,
    reference_generate,
    reference_step_seconds,
)
from step_timer import StepTimer

import scdiffusion as scd


def made_up_counts(n_cells: int = 2574, n_genes: int = 14_072) -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.1, 1, n_genes)
    blocks = [
        sp.csr_matrix(rng.poisson(rates * rng.gamma(4, 0.2, (min(256, n_cells - i), 1))))
        for i in range(0, n_cells, 256)
    ]
    adata = ad.AnnData(sp.vstack(blocks, format="csr").astype(np.float32))
    adata.obs["celltype"] = rng.choice(list("abcdefgh"), n_cells)
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def trained(adata: ad.AnnData, key: str | None = None, preset: str | None = None, **kwargs) -> scd.SCDiffusion:
    scd.SCDiffusion.setup_anndata(adata, condition_keys=key)
    model = scd.SCDiffusion(adata, preset, keep_top="none")
    model.train(progress=False, **kwargs)
    return model


def most_expressed(adata: ad.AnnData, n_genes: int) -> ad.AnnData:
    genes = np.sort(np.argsort(-np.asarray(adata.X.sum(0)).ravel())[:n_genes])
    adata = adata[:, genes].copy()
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def measure_generation(adata: ad.AnnData, n_cells: int, n_reference: int, max_epochs: int) -> list[dict]:
    rows = []
    for n_genes in dict.fromkeys([adata.n_vars, min(2000, adata.n_vars)]):
        model = trained(most_expressed(adata, n_genes), max_epochs=max_epochs)
        model.generate(300, rng=0)  # warm up
        start = time.perf_counter()
        model.generate(n_cells, rng=0)
        ours = n_cells / (time.perf_counter() - start)
        start = time.perf_counter()
        reference_generate(n_reference, n_genes)
        reference = n_reference / (time.perf_counter() - start)
        rows.append(
            {
                "measure": f"generation, {n_genes:,} genes",
                "ours": f"{ours:,.0f} cells/s",
                "reference": f"{reference:,.1f} cells/s",
                "ratio": f"{ours / reference:.0f} times",
            }
        )
    return rows


def measure_training(adata: ad.AnnData, n_reference_steps: int, max_epochs: int | None) -> list[dict]:
    rows, timer = [], StepTimer()
    start = time.perf_counter()
    model = trained(adata.copy(), max_epochs=max_epochs, callbacks=[timer])
    model.generate(adata.n_obs, rng=0)
    ours = time.perf_counter() - start
    for stage in timer.seconds:
        step, bare = timer.step_seconds(stage), timer.bare_seconds(stage)
        rows.append(
            {
                "measure": f"{stage} step against its bare matrix products",
                "ours": f"{1e3 * step:.1f} ms",
                "reference": f"{1e3 * bare:.1f} ms",
                "ratio": f"{step / bare:.2f} times; {1 - bare / step:.0%} outside the products",
            }
        )
    steps = {
        "autoencoder": reference_step_seconds(
            reference_autoencoder(adata.n_vars), torch.randn(128, adata.n_vars), n_steps=n_reference_steps
        ),
        "diffusion": reference_step_seconds(
            ReferenceDenoiser(), torch.randn(128, N_LATENT), torch.randint(1000, (128,)), n_steps=n_reference_steps
        ),
    }
    published = sum(PUBLISHED_STEPS[stage] * seconds for stage, seconds in steps.items())
    rows.append(
        {
            "measure": "train and generate, against the published number of steps",
            "ours": f"{ours:.0f} s",
            "reference": f"{published / 3600:.1f} h ({1e3 * steps['autoencoder']:.0f} and {1e3 * steps['diffusion']:.0f} ms)",
            "ratio": f"{published / ours:.0f} times",
        }
    )
    return rows


def measure_scaling(adata: ad.AnnData, sizes: list[int], max_epochs: int, batch_size: int) -> list[dict]:
    rows, first = [], None
    with tempfile.TemporaryDirectory() as folder:
        trained(most_expressed(adata, 2000), max_epochs=max_epochs).save(f"{folder}/model")
        for n_cells in sizes:
            told = told_by(__file__, "--draw", f"{folder}/model", f"{folder}/{n_cells}.zarr", n_cells, batch_size)
            per_cell = told["seconds"] / n_cells
            first = first or per_cell
            rows.append(
                {
                    "measure": f"{n_cells:,} cells to zarr",
                    "ours": f"{1e6 * per_cell:.0f} µs per cell, {told['peak_gb']:.2f} GB at most",
                    "reference": f"{sizes[0]:,} cells",
                    "ratio": f"{per_cell / first:.2f} times",
                }
            )
    return rows


def draw(model: str, output: str, n_cells: str, batch_size: str) -> None:
    """In a process of its own."""
    model = scd.SCDiffusion.load(model)
    model.generate(300, rng=0)  # warm up
    start = time.perf_counter()
    model.generate(int(n_cells), rng=0, output=output, batch_size=int(batch_size))
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak_gb()}))


def measure_scld(adata: ad.AnnData, key: str, max_epochs: int | None, reference_epochs: int) -> list[dict]:
    start = time.perf_counter()
    trained(adata.copy(), key, max_epochs=max_epochs)
    ours, timer = time.perf_counter() - start, StepTimer()
    trained(adata.copy(), key, preset="scld", max_epochs=reference_epochs, early_stopping=False, callbacks=[timer])
    steps = {stage: timer.step_seconds(stage) for stage in ("autoencoder", "diffusion")}
    published = 20_000 * sum(steps.values())
    return [
        {
            "measure": "training, against the published steps of preset scld",
            "ours": f"{ours:.0f} s",
            "reference": f"{published:,.0f} s ({1e3 * steps['autoencoder']:.0f} and {1e3 * steps['diffusion']:.0f} ms)",
            "ratio": f"{published / ours:.0f} times",
        }
    ]


def measure_evaluation(adata: ad.AnnData, key: str, n_cells: int, max_epochs: int) -> list[dict]:
    """Cells of one model against others of it, so that there are enough."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = trained(most_expressed(adata, 2000), key, max_epochs=max_epochs)
        for side in range(3):
            cells = model.generate(n_cells, "observed", rng=side)
            cells.write_h5ad(f"{folder}/{side}.h5ad")
        for measure, n_sides in (("tl.evaluate", 2), ("tl.evaluate with train", 3)):
            told = told_by(__file__, "--evaluate", key, *(f"{folder}/{side}.h5ad" for side in range(n_sides)))
            rows.append(
                {
                    "measure": f"{measure}, {n_cells:,} cells a side, {cells.n_vars:,} genes",
                    "ours": f"{told['seconds']:.0f} s, {told['peak_gb']:.2f} GB at most",
                    "reference": "180 s, 4 GB allowed",
                    "ratio": f"{told['seconds'] / 180:.2f}, {told['peak_gb'] / 4:.2f}",
                }
            )
    return rows


def evaluate(key: str, *paths: str) -> None:
    """In a process of its own."""
    real, generated, *train = map(ad.read_h5ad, paths)
    start = time.perf_counter()
    scd.tl.evaluate(real, generated, groupby=key, train=train[0] if train else None, progress=False)
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak_gb()}))


def measure_import(n_repeats: int) -> list[dict]:
    def seconds(package: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {package}"], check=True, capture_output=True)
        return time.perf_counter() - start

    pairs = [(seconds("scvi"), seconds("scdiffusion")) for _ in range(n_repeats)]
    reference, ours = np.min(pairs, axis=0)
    return [
        {
            "measure": "import scdiffusion, against import scvi",
            "ours": f"{ours:.1f} s",
            "reference": f"{reference:.1f} s",
            "ratio": f"{ours / reference:.2f} times",
        }
    ]


def main() -> None:
    parts = ["import", "generation", "training", "scaling", "scld", "evaluation", "ranks"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="h5ad file of counts")
    parser.add_argument("--key", default="celltype", help="obs column of types, for the last three parts")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--million", action="store_true", help="scale up to a million cells")
    parser.add_argument("--tiny", action="store_true", help="whether it runs, not how fast")
    parser.add_argument("--draw", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--evaluate", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.draw:
        draw(*arguments.draw)
        return
    if arguments.evaluate:
        evaluate(*arguments.evaluate)
        return
    tiny, key = arguments.tiny, arguments.key
    if arguments.data:
        adata = ad.read_h5ad(arguments.data)
    else:
        adata = made_up_counts(300, 500) if tiny else made_up_counts()
    sizes = [200, 1000] if tiny else [10_000, 100_000] + [1_000_000] * arguments.million
    measures = {
        "import": lambda: measure_import(1 if tiny else 3),
        "generation": lambda: measure_generation(adata, *((300, 4, 1) if tiny else (10_000, 512, 5))),
        "training": lambda: measure_training(adata, *((2, 1) if tiny else (20, None))),
        "scaling": lambda: measure_scaling(adata, sizes, *((1, 100) if tiny else (5, 4096))),
        "scld": lambda: measure_scld(adata, key, *((1, 1) if tiny else (None, 5))),
        "evaluation": lambda: measure_evaluation(adata, key, *((200, 1) if tiny else (10_000, 5))),
        "ranks": lambda: ranks.measure(most_expressed(adata, 2000), key, *((1, 200) if tiny else (20, 10_000))),
    }
    rows = []
    for part in arguments.parts:
        for row in measures[part]():
            rows.append(row)
            print(row, file=sys.stderr, flush=True)
    print("| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    print("\n".join("| " + " | ".join(row.values()) + " |" for row in rows))


if __name__ == "__main__":
    main()
