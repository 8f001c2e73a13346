"""scVI and scANVI as they come, with a diffusion on top, and our own model, on the metrics of `tl.evaluate`.

    python benchmarks/scvi_models.py DATA_DIR [--datasets pbmc3k ...] [--seeds 0 1 2] [--csv runs.csv]

Each dataset's training split is learned by scVI, by scANVI from it, and by ours; the cells of the test split are
compared with as many generated ones:

- scVI prior: standard normal latents, scVI's decoder, library sizes of training cells drawn at random;
- scANVI prior: the same, latents drawn for the labels of training cells through scANVI's hierarchy;
- scVI + diffusion, scANVI + diffusion: `SCDiffusion.from_scvi_model`, library sizes drawn with the latents;
- ours.

Prints a table per dataset, mean and standard deviation over seeds, beside the floor (training cells against test cells)
and the reconstruction ceiling of scVI (test cells encoded, decoded and drawn). Prior and ours see nothing of the test
split. One seed takes about ten minutes on pbmc3k with two cores, most of it scVI's training.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from main_job import split
from scvi.model import SCANVI, SCVI

import scdiffusion as scd

DATASETS = {"pbmc3k": "louvain", "kang_ctrl_12k": "cell_type"}
WITHOUT_LABELS = {
    "random_forest_auc_genes": "RF AUC genes",
    "random_forest_auc": "RF AUC 50 PCs",
    "knn_auc": "kNN AUC",
    "mmd_unbiased": "MMD",
    "energy_distance": "energy distance",
    "library_size": "library KS",
    "gene_mean_error": "gene mean error",
    "gene_variance_error": "gene variance error",
    "gene_correlation_error": "gene correlation error",
}
WITH_LABELS = {
    "label_accuracy": "type accuracy",
    "lfc_slope": "LFC slope",
    "train_on_synthetic_f1": "train on synthetic F1",
}


def anndata_of(counts: sp.csr_matrix, train: ad.AnnData, labels: np.ndarray | None, key: str) -> ad.AnnData:
    obs = pd.DataFrame(index=pd.Index([f"generated_{i}" for i in range(counts.shape[0])]))
    if labels is not None:
        obs[key] = labels
    return ad.AnnData(counts, obs, train.var[[]])


@torch.inference_mode()
def from_prior(model: SCVI | SCANVI, train: ad.AnnData, n_cells: int, key: str, seed: int) -> ad.AnnData:
    """Latents from the model's prior, decoded with the library sizes, and for scANVI the labels, of training cells."""
    torch.manual_seed(seed)
    cells = np.random.default_rng(seed).choice(train.n_obs, n_cells, replace=n_cells > train.n_obs)
    library = torch.from_numpy(np.asarray(train.X[cells].sum(1), dtype=np.float32)).log()  # (n_cells, 1)
    z, labels = torch.randn(n_cells, model.module.n_latent), None
    if isinstance(model, SCANVI):
        codes = torch.from_numpy(np.asarray(model.adata_manager.get_from_registry("labels"))[cells]).long()
        mean, variance = model.module.decoder_z1_z2(z, codes)
        z, labels = mean + variance.sqrt() * torch.randn_like(mean), train.obs[key].astype(str).to_numpy()[cells]
    drawn = []
    for rows in torch.arange(n_cells).split(512):
        px = model.module.generative(z[rows], library[rows], torch.zeros(len(rows), 1).long())["px"]
        drawn.append(sp.csr_matrix(px.sample().numpy()))
    return anndata_of(sp.vstack(drawn, format="csr"), train, labels, key)


def with_diffusion(model: SCVI | SCANVI, key: str, n_cells: int, seed: int) -> ad.AnnData:
    borrowed = scd.SCDiffusion.from_scvi_model(model, condition_keys=key, rng=seed)
    borrowed.train(progress=False, rng=seed)
    return borrowed.generate(n_cells, obs_conditions="observed", rng=seed)


def ours(train: ad.AnnData, key: str, n_cells: int, seed: int) -> ad.AnnData:
    train = train.copy()
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(progress=False, rng=seed)
    return model.generate(n_cells, obs_conditions="observed", rng=seed)


def run(train: ad.AnnData, test: ad.AnnData, key: str, seed: int, epochs: int | None, likelihood: str) -> pd.DataFrame:
    torch.manual_seed(seed)
    n_cells, quiet = test.n_obs, {"enable_progress_bar": False}
    SCVI.setup_anndata(train, labels_key=key)
    scvi_model = SCVI(train, gene_likelihood=likelihood)
    scvi_model.train(epochs, early_stopping=True, **quiet)
    scanvi_model = SCANVI.from_scvi_model(scvi_model, unlabeled_category="unlabelled")
    scanvi_model.train(epochs and max(1, epochs // 5), **quiet)

    def reconstructed() -> ad.AnnData:
        counts = scvi_model.posterior_predictive_sample(test.copy()).to_scipy_sparse().tocsr()
        return anndata_of(counts, train, test.obs[key].astype(str).to_numpy(), key)

    candidates: dict[str, Callable[[], ad.AnnData]] = {
        "scVI ceiling": reconstructed,
        "scVI prior": lambda: from_prior(scvi_model, train, n_cells, key, seed),
        "scVI + diffusion": lambda: with_diffusion(scvi_model, key, n_cells, seed),
        "scANVI prior": lambda: from_prior(scanvi_model, train, n_cells, key, seed),
        "scANVI + diffusion": lambda: with_diffusion(scanvi_model, key, n_cells, seed),
        "ours": lambda: ours(train, key, n_cells, seed),
    }
    tables = []
    for name, make in candidates.items():
        start = time.perf_counter()
        cells = make()
        seconds = time.perf_counter() - start
        has_labels = key in cells.obs
        names = [*WITHOUT_LABELS, *(WITH_LABELS if has_labels else ())]
        table = scd.tl.evaluate(
            test, cells, train=train, groupby=key if has_labels else None, metrics=names, baseline=False, n_splits=2,
            rng=seed, progress=False,
        )  # fmt: skip
        table = table[table["group"] == "all"].assign(candidate=name, seed=seed, seconds=seconds)
        auc = table.set_index("metric")["generated"]["random_forest_auc_genes"]
        print(f"  seed {seed} {name}: {seconds:.0f} s, RF AUC genes {auc:.3f}", flush=True)
        tables.append(table)
    return pd.concat(tables)


def markdown(runs: pd.DataFrame) -> str:
    """One row per metric; the floor is the labelled comparison's where there is one."""
    names = list(dict.fromkeys(runs["candidate"]))
    lines = [["metric", "better", "floor", *names]]
    lines.append(["---"] * len(lines[0]))
    for metric, title in (WITHOUT_LABELS | WITH_LABELS).items():
        rows = runs[runs["metric"] == metric]
        figures = [rows.loc[rows["candidate"] == name, "generated"] for name in names]
        shown = [f"{x.mean():.3f} ± {x.std(ddof=0):.3f}" if len(x) else "" for x in figures]
        better = rows["better"].iloc[0] if isinstance(rows["better"].iloc[0], str) else f"{rows['better'].mean():.3g}"
        lines.append([title, better, f"{rows['floor'].mean():.3f}", *shown])
    seconds = runs.groupby("candidate")["seconds"].mean()
    lines.append(["seconds on top of the trained model", "", "", *(f"{seconds[name]:.0f}" for name in names)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, help="of scVI; default: its own")
    parser.add_argument("--likelihood", default="zinb", help="of scVI and scANVI; default: theirs, zinb")
    parser.add_argument("--n-genes", type=int, help="most expressed genes only; default: all")
    parser.add_argument("--csv", type=Path, help="where to keep every figure")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    kept = []
    for name in arguments.datasets:
        adata, key = ad.read_h5ad(arguments.data / f"{name}.h5ad"), DATASETS[name]
        adata.X = sp.csr_matrix(adata.X)
        order = np.argsort(-np.asarray(adata.X.sum(0)).ravel())[: arguments.n_genes]
        adata = adata[:, np.sort(order)].copy()
        print(name, flush=True)
        for seed in arguments.seeds:
            table = run(*split(adata, name, seed), key, seed, arguments.epochs, arguments.likelihood)
            kept.append(table.assign(dataset=name))
            if arguments.csv:
                pd.concat(kept).to_csv(arguments.csv, index=False)
        runs = pd.concat(kept)
        print(f"\n{markdown(runs[runs['dataset'] == name])}\n", flush=True)


if __name__ == "__main__":
    main()
