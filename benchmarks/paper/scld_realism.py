"""SCLD, realism: all cells of PBMC 68k or of the small brain set, random-forest AUC and MMD.

    python benchmarks/paper/scld_realism.py pbmc68k.h5ad --paper PBMC [--preset scld]

Cells are log-normalised; both figures are taken in 50 joint principal components. Positive control: training cells.
"""

from __future__ import annotations

import argparse

import anndata as ad
import pandas as pd
import scipy.sparse as sp
from _shared import LOUVAIN, drawing, log_of, parser_of, read, show, some_of, trained

from scdiffusion import metrics

#: RF AUC and MMD.
PAPER = {
    "PBMC": {
        "positive control": (0.51, 0.05),
        "SCLD": (0.65, 0.77),
        "SCLD + pre-guidance": (0.64, 0.75),
        "SCLD + post-guidance": (0.59, 0.65),
        "ACTIVA": (0.68, 0.80),
        "scGAN": (0.73, 0.90),
    },
    "Brain": {
        "positive control": (0.50, 0.02),
        "SCLD": (0.68, 0.82),
        "SCLD + pre-guidance": (0.68, 0.81),
        "SCLD + post-guidance": (0.61, 0.72),
        "ACTIVA": (0.62, 0.77),
    },
}


def compare(real: sp.csr_matrix, other: sp.csr_matrix) -> dict[str, float]:
    n_cells = min(real.shape[0], other.shape[0])
    a, b = metrics.joint_pca(real[:n_cells], other[:n_cells], n_components=min(50, n_cells))
    return {"RF AUC": metrics.random_forest_auc(a, b), "MMD": metrics.mmd_scld(a, b)}


def read_sides(description: str, argv: list[str] | None) -> tuple[argparse.Namespace, str, ad.AnnData, ad.AnnData]:
    """Arguments, the column of the clusters, training cells, and as many of the test cells as are compared."""
    parser = parser_of(description, cluster=LOUVAIN)
    parser.add_argument("--paper", choices=list(PAPER), default="PBMC", help="whose figures to print beside")
    arguments = parser.parse_args(argv)
    adata = read(arguments, arguments.cluster_key)
    train, test = (adata[adata.obs["split"] == side].copy() for side in ("train", "test"))
    return arguments, arguments.cluster_key, train, some_of(test, arguments.max_cells, arguments.seed)


def main(argv: list[str] | None = None) -> pd.DataFrame:
    arguments, key, train, real = read_sides(__doc__, argv)
    model = trained(train, arguments, [key])
    asked = {"ours": None, "ours + pre-guidance (clusters as observed)": "observed"}
    rows = {
        name: compare(log_of(real), log_of(model.generate(real.n_obs, conditions, **drawing(arguments))))
        for name, conditions in asked.items()
    }
    how = drawing(arguments)
    learning = {name: value for name, value in how.items() if name != "rng"}
    model.train_scorer(max_epochs=arguments.max_epochs, generate_kwargs=learning, progress=False, rng=arguments.seed)
    best = model.generate(real.n_obs, "observed", keep_top=0.8, **how)
    rows["ours + post-guidance"] = compare(log_of(real), log_of(best))
    rows["positive control, here"] = compare(log_of(real), log_of(some_of(train, real.n_obs, arguments.seed)))
    for name, figures in PAPER[arguments.paper].items():
        rows[f"{name}, paper"] = dict(zip(["RF AUC", "MMD"], figures, strict=True))
    return show(f"Realism, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
