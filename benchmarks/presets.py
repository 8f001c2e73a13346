"""The papers' models against the default, each trained for as long as the default takes.

    python benchmarks/presets.py DATA_DIR [--dataset pbmc_facs_zheng] [--seeds 0 1 2] [--csv runs.csv]

The default is trained first, to its own end; the others get that time, in equal shares of their stages. Log-normalised
values are compared on both sides, since that is what the papers' models generate. `preset="scdiffusion"` is run with
standardised latents, as here, and with latents as they are, as published. `preset="scld"` is run without its
post-guidance (`keep_top="none"`): the scorer learns from thousands of cells drawn by 1000 steps of DDPM, which would come
on top of that time. Floor: training cells in the place of generated ones; principal components and the classifier of
types are learned from the others.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown
from main_job import apart, forest_auc, label_accuracies, log_of, over_seeds, parser_of, per_type_knn

import scdiffusion as scd
from scdiffusion import metrics

MODELS: dict[str, dict[str, Any]] = {
    "default": {},
    "scdiffusion": {"preset": "scdiffusion"},
    "scdiffusion, latents as they are": {"preset": "scdiffusion", "standardise_latents": False},
    "scld": {"preset": "scld", "keep_top": "none"},
}
STAGES = {"scdiffusion": ("autoencoder", "diffusion", "classifier")}
FLOOR = "training cells"


def train(
    model: scd.SCDiffusion, stages: tuple[str, ...], seconds: float | None, seed: int, max_epochs: int | None
) -> None:
    """Train to the end, or each stage for its share of some seconds."""
    if seconds is None:
        model.train(max_epochs, progress=False, rng=seed)
        return
    share = {"seconds": max(1, round(seconds / len(stages)))}
    for stage in stages:
        epochs = {**dict.fromkeys(stages, 0), stage: max_epochs}
        model.train(epochs, progress=False, rng=seed, max_time=share)


def run(
    train_cells: ad.AnnData, test: ad.AnnData, key: str, seed: int, max_epochs: int | None
) -> Iterator[dict[str, Any]]:
    train_types, types = (cells.obs[key].astype(str).to_numpy() for cells in (train_cells, test))
    log_train, log_real, rng = log_of(train_cells), log_of(test), np.random.default_rng(seed)
    order = rng.permutation(test.n_obs)
    floor, reference = apart(train_cells.n_obs, test.n_obs, rng)

    def quality(other: sp.csr_matrix, other_types: np.ndarray) -> dict[str, float]:
        _, a, b = metrics.reference_pca(log_train[reference], log_real, other, n_components=30, rng=seed)
        accuracy = label_accuracies(
            log_train[reference], train_types[reference], real=(log_real, types), other=(other, other_types)
        )
        return {
            "RF AUC genes": forest_auc(log_real, other),
            "RF AUC 50 PCs": forest_auc(*metrics.joint_pca(log_real, other, n_components=50)),
            "MMD": metrics.mmd_unbiased(a, b),
            "type accuracy": accuracy["accuracy_other"],
            "type accuracy, real": accuracy["accuracy_real"],
            "per-type kNN AUC": per_type_knn(log_train[reference], log_real[order], types[order], other, other_types),
        }

    yield {"model": FLOOR, **quality(log_train[floor], train_types[floor])}
    budget = None
    for label, settings in MODELS.items():
        scd.SCDiffusion.setup_anndata(train_cells, condition_keys=key)
        model = scd.SCDiffusion(train_cells, rng=seed, **settings)
        start = time.perf_counter()
        train(model, STAGES.get(settings.get("preset"), ("autoencoder", "diffusion")), budget, seed, max_epochs)
        seconds = time.perf_counter() - start
        budget = budget or seconds
        start = time.perf_counter()
        cells = model.generate(test.n_obs, "observed", rng=seed)
        generating = time.perf_counter() - start
        judged = quality(log_of(cells), cells.obs[key].astype(str).to_numpy())
        yield {"model": label, **judged, "training, s": seconds, "generating, s": generating}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    runs = over_seeds(parser_of(__doc__).parse_args(argv), run)
    table = runs.drop(columns="seed").groupby("model", sort=False).mean()
    print(markdown(table, digits=3).replace("nan", "-"))
    return runs


if __name__ == "__main__":
    main()
