"""CITE-seq: train on the training split, generate RNA and proteins, and compare with the test split.

    python benchmarks/multiomics.py DATA_DIR [--seeds 0 1 2] [--csv runs.csv]

Prints one row per modality and one for how the two go together, mean and standard deviation over seeds: generated cells,
the real-vs-real floor (training cells against test cells), the reconstruction ceiling (test cells encoded, decoded and
drawn) and, between modalities, a baseline whose cells have the RNA of one and the proteins of another cell of their type.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import scipy.sparse as sp

import scdiffusion as scd
from scdiffusion import metrics

DATASET = "pbmc10k_citeseq_6661"
N_REPEATS = 3  # of the forest's own split


def read(path: Path) -> tuple[mudata.MuData, mudata.MuData]:
    """Training and test split."""
    adata = ad.read_h5ad(path / f"{DATASET}.h5ad")
    adata.obs["label"] = adata.obs["label"].astype(str).astype("category")
    proteins = ad.AnnData(sp.csr_matrix(adata.obsm["protein"]), obs=adata.obs[[]])
    mdata = mudata.MuData({"rna": ad.AnnData(adata.X, obs=adata.obs[[]], var=adata.var), "protein": proteins})
    mdata.obs = adata.obs
    is_train = (adata.obs["split"] == "train").to_numpy()
    return mdata[is_train].copy(), mdata[~is_train].copy()


def forest_auc(real, other) -> float:
    return float(np.mean([metrics.random_forest_auc(real, other, rng=i) for i in range(N_REPEATS)]))


def compare(real: dict[str, sp.csr_matrix], other: dict[str, sp.csr_matrix]) -> dict[str, float]:
    """Figures of other cells beside the same real ones; counts by modality."""
    (rna, protein), (other_rna, other_protein) = (
        [metrics.log_normalise(sp.csr_matrix(side[name])) for name in ("rna", "protein")] for side in (real, other)
    )
    raw, other_raw = (np.log1p(side["protein"].toarray()) for side in (real, other))
    return {
        "RNA, RF AUC": forest_auc(rna, other_rna),
        "RNA, RF AUC in 50 PCs": forest_auc(*metrics.joint_pca(rna, other_rna, n_components=50)),
        "protein, RF AUC, log-normalised": forest_auc(protein, other_protein),
        "protein, RF AUC, log counts": forest_auc(raw, other_raw),
        "RNA-protein correlation error": metrics.cross_correlation_error(rna, protein, other_rna, other_protein),
    }


def run(path: Path, seed: int) -> pd.DataFrame:
    train, test = read(path)
    start = time.perf_counter()
    scd.SCDiffusion.setup_mudata(
        train, modalities={"rna_layer": "rna", "protein_layer": "protein"}, condition_keys="label"
    )
    model = scd.SCDiffusion(train, rng=seed)
    model.train(progress=False, rng=seed)
    generated = model.generate(test.n_obs, "observed", rng=seed)
    seconds = time.perf_counter() - start

    rng = np.random.default_rng(seed)
    drawn = model.posterior_predictive_sample(test.copy(), rng=seed)
    chosen = rng.choice(train.n_obs, test.n_obs, replace=False)
    labels = train.obs["label"].to_numpy()[chosen]
    partner = np.arange(len(chosen))
    for label in np.unique(labels):
        partner[labels == label] = rng.permutation(partner[labels == label])
    sides = {
        "generated": {name: part.X for name, part in generated.mod.items()},
        "floor": {name: sp.csr_matrix(part.X)[chosen] for name, part in train.mod.items()},
        "ceiling": {name: draws.to_scipy_sparse().tocsr() for name, draws in drawn.items()},
    }
    sides["shuffled"] = {**sides["floor"], "protein": sides["floor"]["protein"][partner]}
    real = {name: sp.csr_matrix(part.X) for name, part in test.mod.items()}
    figures = pd.DataFrame({side: compare(real, other) for side, other in sides.items()})
    figures.loc[figures.index != "RNA-protein correlation error", "shuffled"] = np.nan
    return figures.rename_axis("metric").reset_index().assign(seed=seed, seconds=seconds)


def table(runs: pd.DataFrame) -> str:
    lines = ["| metric | generated | floor | ceiling | apart, within types |", "|---|---|---|---|---|"]
    for metric, rows in runs.groupby("metric", sort=False):
        cells = [f"{rows['generated'].mean():.3f} ± {rows['generated'].std(ddof=0):.3f}"]
        cells += [f"{rows[side].mean():.3f}" for side in ("floor", "ceiling", "shuffled")]
        lines.append(f"| {metric} | {' | '.join(cells).replace('nan', '-')} |")
    return "\n".join([*lines, f"\nTraining and generating: {runs['seconds'].mean():.0f} s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--csv", type=Path, help="where to keep every run")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    runs = pd.DataFrame()
    for seed in arguments.seeds:
        runs = pd.concat([runs, run(arguments.data, seed)])
        print(table(runs), flush=True)
        if arguments.csv:
            runs.to_csv(arguments.csv, index=False)


if __name__ == "__main__":
    main()
