"""Run by test_distributed.py in each of several processes: `python train_in_processes.py FOLDER BATCH_SIZE [STRATEGY]`."""

import os
import sys
import warnings
from pathlib import Path

import torch

import scdiffusion as scd


def main(folder: str, batch_size: int | str, strategy: str = "auto") -> None:
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels", batch_key="phase")
    model = scd.SCDiffusion(adata, n_latent=5, n_hidden=32, denoiser_hidden=32, condition_hidden=32)
    stages, small = ("autoencoder", "diffusion", "classifier"), {"batch_size": int(batch_size)}
    common = {"accelerator": "cpu", "devices": 1 if strategy == "auto" else 2, "strategy": strategy, "precision": 32}
    model.train(
        {"autoencoder": 3, "diffusion": 6},
        autoencoder_kwargs=small,
        diffusion_kwargs={**small, "patience": 2},
        **common,
    )
    model.train_classifier("bulk_labels", max_epochs=2, classifier_kwargs=small, progress=False, **common)
    losses = {
        stage: model.history[key].iloc[:, 0].tolist()
        for stage in stages
        for key in model.history
        if key.startswith(stage) and key.endswith("validation_loss")
    }
    name = "".join(os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK")) or strategy
    torch.save({"losses": losses, "weights": model.module.state_dict()}, Path(folder) / f"{name}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
