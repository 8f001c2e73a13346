"""Train on each dataset's training split, generate the test split's size, and compare with the test split.

    python benchmarks/main_job.py DATA_DIR [--datasets pbmc3k ...] [--seeds 0 1 2] [--csv runs.csv]

Prints one row per dataset, mean and standard deviation over seeds: generated cells, the real-vs-real floor (training
cells against test cells) and the reconstruction ceiling (test cells encoded, decoded and drawn), on the same metrics.
One draw of few cells scatters by 0.05 in these, so that several are averaged.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scdiffusion as scd
from scdiffusion import metrics

DATASETS = {
    "pbmc_facs_zheng": "celltype",
    "pbmc3k": "louvain",
    "kang_ctrl_12k": "cell_type",
    "worm_embryo_time": "cell_type",
    "pancreas_endocrinogenesis_739": "clusters",
}
RESPLIT = "pancreas_endocrinogenesis_739"  # too small for one split to say much
LEAST_CELLS_PER_TYPE = 30


def split(adata: ad.AnnData, name: str, seed: int) -> tuple[ad.AnnData, ad.AnnData]:
    is_train = (adata.obs["split"] == "train").to_numpy()
    if name == RESPLIT and seed > 0:
        is_train = np.random.default_rng(seed).permutation(is_train)
    return adata[is_train].copy(), adata[~is_train].copy()


def parser_of(description: str, **defaults: Any) -> argparse.ArgumentParser:
    """Of the benchmarks of one dataset, for :func:`over_seeds`."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="?", help="folder with the h5ad files; without it, --csv is read")
    parser.add_argument("--dataset", choices=list(DATASETS), default="pbmc_facs_zheng")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--max-epochs", type=int, help="of each stage; by default the model's own")
    parser.add_argument("--csv", type=Path, help="where every row is kept")
    parser.set_defaults(**defaults)
    return parser


def over_seeds(
    arguments: argparse.Namespace, run: Callable[[ad.AnnData, ad.AnnData, str, int, int | None], Iterable[dict]]
) -> pd.DataFrame:
    """Rows that `run(train, test, key, seed, max_epochs)` gives, kept as they come; or those that were kept."""
    if not arguments.data:
        return pd.read_csv(arguments.csv)
    warnings.filterwarnings("ignore")
    adata, rows = ad.read_h5ad(arguments.data / f"{arguments.dataset}.h5ad"), []
    for seed in arguments.seeds:
        sides = split(adata, arguments.dataset, seed)
        for row in run(*sides, DATASETS[arguments.dataset], seed, arguments.max_epochs):
            rows.append({**row, "seed": seed})
            print(told(rows[-1]), flush=True)
            if arguments.csv:
                pd.DataFrame(rows).to_csv(arguments.csv, index=False)
    return pd.DataFrame(rows)


def told(row: dict[str, Any]) -> str:
    return " ".join(f"{k}={v:.3f}" if isinstance(v, float) else f"{k}={v}" for k, v in row.items())


def apart(n_train: int, n_test: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training cells to compare with test cells, as many of them or half, and the others, for what is fitted."""
    order, n_floor = rng.permutation(n_train), min(n_test, n_train // 2)
    return order[:n_floor], order[n_floor:]


def holds_counts(cells: ad.AnnData) -> bool:
    return bool((cells.X.data == np.rint(cells.X.data)).all())


def log_of(cells: ad.AnnData) -> sp.csr_matrix:
    """Log-normalised expression of cells with counts, or as it is."""
    return metrics.log_normalise(sp.csr_matrix(cells.X)) if holds_counts(cells) else sp.csr_matrix(cells.X)


def forest_auc(real, other, n_repeats: int = 1) -> float:
    """Mean over splits of the forest's own test set."""
    return float(np.mean([metrics.random_forest_auc(real, other, rng=i) for i in range(n_repeats)]))


def compare(real: sp.csr_matrix, other: sp.csr_matrix) -> dict[str, float]:
    a, b = metrics.log_normalise(real), metrics.log_normalise(other)
    return {
        "genes": forest_auc(a, b),
        "pcs": forest_auc(*metrics.joint_pca(a, b, n_components=50)),
        "library_ks": metrics.ks_distance(metrics.library_size(real), metrics.library_size(other)),
    }


def per_type_knn(train, real, real_types, other, other_types) -> float:
    _, a, b = metrics.reference_pca(train, real, other, n_components=30)
    aucs = []
    for cell_type in np.unique(real_types):
        x, y = a[real_types == cell_type], b[other_types == cell_type]
        n = min(len(x), len(y))
        if n >= LEAST_CELLS_PER_TYPE:
            aucs += [metrics.knn_auc(x[:n], y[:n], rng=i) for i in range(3)]
    return float(np.mean(aucs)) if aucs else float("nan")


def label_accuracies(train, train_types, **sets) -> dict[str, float]:
    names = list(sets)
    pcs = metrics.reference_pca(train, *(sets[name][0] for name in names), n_components=50)
    scale = pcs[0].std(0)
    return {
        f"accuracy_{name}": metrics.label_accuracy(pcs[0] / scale, train_types, x / scale, sets[name][1], C=0.1)
        for name, x in zip(names, pcs[1:], strict=True)
    }


def run(path: Path, name: str, key: str, seed: int, with_ddpm: bool, n_draws: int) -> dict[str, float]:
    adata = ad.read_h5ad(path / f"{name}.h5ad")
    train, test = split(adata, name, seed)
    start = time.perf_counter()
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train, rng=seed)
    model.train(progress=False, rng=seed)
    generated = model.generate(test.n_obs, obs_conditions="observed", rng=seed)
    seconds = time.perf_counter() - start

    def drawn(i: int) -> dict[str, ad.AnnData]:
        """Generated cells, and others of the model, each draw with a seed of its own."""
        sets, own = {"generated": generated}, seed if i == 0 else 1000 * i + seed
        if i:
            sets["generated"] = model.generate(test.n_obs, obs_conditions="observed", rng=own)
        counts = model.posterior_predictive_sample(test.copy(), rng=own).to_scipy_sparse().tocsr()
        sets["ceiling"] = ad.AnnData(counts, test.obs)
        if with_ddpm:
            sets["ddpm1000"] = model.generate(test.n_obs, obs_conditions="observed", sampler="ddpm", rng=own)
        return sets

    rng = np.random.default_rng(seed)
    floor = train.X[rng.choice(train.n_obs, test.n_obs, replace=test.n_obs > train.n_obs)]
    order = rng.permutation(test.n_obs)
    real, types = sp.csr_matrix(test.X), test.obs[key].astype(str).to_numpy()
    log_train, log_real = metrics.log_normalise(sp.csr_matrix(train.X)), metrics.log_normalise(real)
    train_types = train.obs[key].astype(str).to_numpy()
    draws = []
    for i in range(n_draws):
        sets = drawn(i)
        log = {label: metrics.log_normalise(cells.X) for label, cells in sets.items()}
        of_cells = {label: (log[label], cells.obs[key].astype(str).to_numpy()) for label, cells in sets.items()}
        row = {
            f"{metric}_{label}": value
            for label, cells in sets.items()
            for metric, value in compare(real, cells.X).items()
        }
        row["knn_generated"] = per_type_knn(log_train, log_real[order], types[order], *of_cells["generated"])
        draws.append(row | label_accuracies(log_train, train_types, real=(log_real, types), **of_cells))
    return {
        "dataset": name,
        "seed": seed,
        "seconds": seconds,
        "n_latent": model.module.autoencoder.n_latent,
        **{f"{metric}_floor": value for metric, value in compare(real, sp.csr_matrix(floor)).items()},
        **pd.DataFrame(draws).mean().to_dict(),
    }


def table(runs: pd.DataFrame) -> str:
    def cell(values: pd.Series) -> str:
        return f"{values.mean():.3f} ± {values.std(ddof=0):.3f}"

    lines = []
    for name, rows in runs.groupby("dataset", sort=False):
        above_floor = rows["library_ks_generated"] - rows["library_ks_floor"]
        lines.append(
            {
                "dataset": name,
                **{
                    f"RF AUC {space}": f"{cell(rows[f'{short}_generated'])} (floor {rows[f'{short}_floor'].mean():.3f}, "
                    f"ceiling {rows[f'{short}_ceiling'].mean():.3f})"
                    for space, short in (("genes", "genes"), ("50 PCs", "pcs"))
                },
                "library KS above floor": cell(above_floor),
                "type accuracy": f"{cell(rows['accuracy_generated'])} (real {rows['accuracy_real'].mean():.3f})",
                "per-type kNN AUC": cell(rows["knn_generated"]),
                "train + generate": f"{rows['seconds'].mean():.0f} s",
            }
        )
    head = list(lines[0])
    body = [" | ".join(str(line[column]) for column in head) for line in lines]
    return "\n".join(f"| {row} |" for row in [" | ".join(head), " | ".join("---" for _ in head), *body])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--datasets", nargs="+", choices=list(DATASETS), default=list(DATASETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--csv", type=Path, help="where to keep every run")
    parser.add_argument("--ddpm", action="store_true", help="also sample with 1000 steps of DDPM")
    parser.add_argument(
        "--draws", type=int, default=3, help="sets of cells from each model, whose figures are averaged"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    runs = []
    for name in arguments.datasets:
        seeds = range(5) if name == RESPLIT and len(arguments.seeds) > 1 else arguments.seeds
        for seed in seeds:
            row = run(arguments.data, name, DATASETS[name], seed, arguments.ddpm, arguments.draws)
            runs.append(row)
            print(told(row), flush=True)
            if arguments.csv:
                pd.DataFrame(runs).to_csv(arguments.csv, index=False)
    print(table(pd.DataFrame(runs)))


if __name__ == "__main__":
    main()
