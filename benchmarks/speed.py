"""How fast it trains and generates, each figure as a ratio to a reference that is run beside it.

    python benchmarks/speed.py [DATA.h5ad] [--parts import generation training scaling] [--million] [--tiny]

DATA holds counts, by default of `pbmc_facs_zheng` (2,574 cells by 14,072 genes); without a file, counts of that size are
made up. The reference is the published model written out: 1000 steps of ancestral sampling with a denoiser of 3.5
million parameters, and a dense decoder of log-normalised expression; its training steps are those of the two networks.
Prints a table. Wants a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import scipy.sparse as sp
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import scdiffusion as scd

N_LATENT, WIDTHS = 128, (512, 512, 256, 128)
PUBLISHED_STEPS = {"autoencoder": 150_000, "diffusion": 600_000}


class ReferenceDenoiser(nn.Module):
    """scDiffusion's published denoiser: 3.5 million parameters."""

    def __init__(self) -> None:
        super().__init__()
        context = WIDTHS[0]
        self.time = nn.Sequential(nn.Linear(context, context), nn.SiLU(), nn.Linear(context, context))
        path = [N_LATENT, *WIDTHS, *WIDTHS[-2::-1]]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(path, path[1:], strict=False))
        self.contexts = nn.ModuleList(nn.Linear(context, b) for b in path[1:])
        self.norms = nn.ModuleList(nn.LayerNorm(b) for b in path[1:])
        self.head = nn.Sequential(
            nn.Linear(context, 2 * context), nn.LayerNorm(2 * context), nn.SiLU(), nn.Linear(2 * context, N_LATENT)
        )
        self.register_buffer("frequencies", torch.exp(-torch.arange(context // 2) / (context // 2) * np.log(10_000)))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        context, outputs = self.time(torch.cat([angles.cos(), angles.sin()], 1)), []
        for layer, move, norm in zip(self.layers, self.contexts, self.norms, strict=True):
            x = nn.functional.silu(norm(layer(x) + move(context)))
            if len(outputs) >= len(WIDTHS):
                x = x + outputs[2 * len(WIDTHS) - 2 - len(outputs)]
            outputs.append(x)
        return self.head(x)


def reference_autoencoder(n_genes: int) -> nn.Module:
    sizes = [n_genes, 1024, 1024, 1024, N_LATENT, 1024, 1024, 1024]
    hidden = [
        part
        for a, b in zip(sizes, sizes[1:], strict=False)
        for part in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.PReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(1024, n_genes), nn.ReLU())


@torch.inference_mode()
def reference_generate(n_cells: int, n_genes: int, n_steps: int = 1000) -> np.ndarray:
    """Ancestral sampling (Ho et al. 2020, algorithm 2) and dense decoding."""
    denoiser = ReferenceDenoiser().eval()
    decoder = reference_autoencoder(n_genes).eval()[12:]
    beta = torch.linspace(1e-4, 0.02, n_steps)
    alpha, alpha_bar = 1 - beta, torch.cumprod(1 - beta, 0)
    x = torch.randn(n_cells, N_LATENT)
    for t in reversed(range(n_steps)):
        noise = denoiser(x, torch.full((n_cells,), t))
        x = (x - beta[t] / (1 - alpha_bar[t]).sqrt() * noise) / alpha[t].sqrt()
        x = x + beta[t].sqrt() * torch.randn_like(x) * (t > 0)
    return decoder(x).numpy()


def reference_step_seconds(network: nn.Module, *inputs: Tensor, n_steps: int) -> float:
    optimiser = torch.optim.AdamW(network.parameters())
    network.train()
    seconds = []
    for _ in range(n_steps):
        start = time.perf_counter()
        network(*inputs).square().mean().backward()
        optimiser.step()
        optimiser.zero_grad()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def made_up_counts(n_cells: int = 2574, n_genes: int = 14_072) -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.1, 1, n_genes)
    blocks = [
        sp.csr_matrix(rng.poisson(rates * rng.gamma(4, 0.2, (min(256, n_cells - i), 1))))
        for i in range(0, n_cells, 256)
    ]
    adata = ad.AnnData(sp.vstack(blocks, format="csr").astype(np.float32))
    adata.obs["type"] = rng.choice(list("abcdefgh"), n_cells)
    return adata[np.asarray(adata.X.sum(1)).ravel() > 0].copy()


def trained(adata: ad.AnnData, **kwargs) -> scd.SCDiffusion:
    scd.SCDiffusion.setup_anndata(adata)
    model = scd.SCDiffusion(adata)
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


class Products(TorchDispatchMode):
    """Notes the matrix products that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple] = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            a, b = arguments[-2:]
            self.shapes.append((a.shape, b.shape, a.dtype))
        return function(*arguments, **(kwargs or {}))


class StepTimer(Callback):
    """Seconds per training step of each stage, validation left out, and the products of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.products: dict[str, Products] = {}

    def on_train_batch_start(self, trainer, stage, batch, index) -> None:
        if stage.name not in self.products:
            self.products[stage.name] = Products()
            self.products[stage.name].__enter__()

    def on_train_batch_end(self, trainer, stage, outputs, batch, index) -> None:
        times = self.seconds.setdefault(stage.name, [])
        if not times:
            self.products[stage.name].__exit__(None, None, None)
        times.append(time.perf_counter())

    def step_seconds(self, stage: str) -> float:
        """The median hides epochs' ends and validation, and the first steps."""
        return float(np.median(np.diff(self.seconds[stage])))

    def bare_seconds(self, stage: str, n_repeats: int = 30) -> float:
        operands = [(torch.randn(a).to(dtype), torch.randn(b).to(dtype)) for a, b, dtype in self.products[stage].shapes]
        seconds = []
        for _ in range(n_repeats):
            start = time.perf_counter()
            for a, b in operands:
                torch.matmul(a, b)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))


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
            command = [sys.executable, __file__, "--draw", f"{folder}/model", f"{folder}/{n_cells}.zarr"]
            command += [str(n_cells), str(batch_size)]
            told = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
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
    """In a process of its own, so that its memory can be told."""
    model = scd.SCDiffusion.load(model)
    start = time.perf_counter()
    model.generate(int(n_cells), rng=0, output=output, batch_size=int(batch_size))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(json.dumps({"seconds": time.perf_counter() - start, "peak_gb": peak}))


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
    parts = ["import", "generation", "training", "scaling"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, help="h5ad file of counts")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--million", action="store_true", help="scale up to a million cells")
    parser.add_argument("--tiny", action="store_true", help="whether it runs, not how fast")
    parser.add_argument("--draw", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    if arguments.draw:
        draw(*arguments.draw)
        return
    tiny = arguments.tiny
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
