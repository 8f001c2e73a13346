"""What pretrained weights are worth while the autoencoder trains: scDiffusion's Fig. 2a on small data.

    python benchmarks/pretrained.py DATA_DIR [--figure docs/_static/pretrained.png]

An autoencoder of small widths is trained on PBMC 3k and written in SCimilarity's format. The sorted PBMC of Zheng et al.
are then learned from new weights, from the pretrained ones, and with their hidden layers frozen. Prints the held-out
mean squared error by step. Two minutes on one core.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import pandas as pd
import torch

import scdiffusion as scd

SIZES = {"n_latent": 32, "n_hidden": (128, 128, 128)}
DENOISER = {"denoiser_hidden": (16, 8), "condition_hidden": 16}  # not trained here
COLORS = {"new weights": "0.55", "pretrained": "#d1495b", "pretrained, hidden layers frozen": "#2b6f8f"}


def train(adata: ad.AnnData, n_epochs: int, lr: float = 5e-4, **settings) -> scd.SCDiffusion:
    scd.SCDiffusion.setup_anndata(adata)
    model = scd.SCDiffusion(adata, "scdiffusion", **DENOISER, **settings)
    model.train(
        {"autoencoder": n_epochs, "diffusion": 0},
        early_stopping=False, autoencoder_kwargs={"lr": lr}, progress=False,
    )  # fmt: skip
    return model


def write(model: scd.SCDiffusion, path: Path) -> None:
    for name in ("encoder", "decoder"):
        torch.save({"state_dict": getattr(model.module.autoencoder, name).state_dict()}, path / f"{name}.ckpt")
    (path / "gene_order.tsv").write_text("\n".join(model.var_.index))


def draw(curves: pd.DataFrame, path: Path) -> None:
    figure, ax = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for name, curve in curves.items():
        ax.plot(curve.index, curve, label=name, color=COLORS[name], linestyle="--" if "frozen" in name else "-")
    ax.set(xlabel="optimiser steps", ylabel="held-out mean squared error", ylim=(0, None), xlim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--figure", type=Path, default=Path("pretrained.png"))
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    source = ad.read_h5ad(arguments.data / "pbmc3k.h5ad")
    target = ad.read_h5ad(arguments.data / "pbmc_facs_zheng.h5ad")
    curves = {}
    with tempfile.TemporaryDirectory() as folder:
        write(train(source, 25, lr=2e-3, **SIZES), Path(folder))
        starts = (SIZES, {"pretrained": folder}, {"pretrained": folder, "freeze_hidden": True})
        for name, start in zip(COLORS, starts, strict=True):
            model = train(target, 12, **start)
            n_steps = -(-len(model.train_indices_) // 128)
            loss = model.history["autoencoder_validation_loss"].iloc[:, 0]
            curves[name] = loss.set_axis((loss.index + 1) * n_steps)
    table = pd.DataFrame(curves).rename_axis("step")
    shared = "{n_matching_genes:,} of {n_genes:,} genes are known".format(**model.pretrained_)
    print(f"{shared}\n{table.round(4).to_string()}")
    draw(table, arguments.figure)


if __name__ == "__main__":
    main()
