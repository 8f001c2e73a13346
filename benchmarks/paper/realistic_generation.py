"""scDiffusion, realistic generation: unconditional cells of Tabula Muris, lung fibrosis or PBMC 68k.

    python benchmarks/paper/realistic_generation.py tabula_muris.h5ad [--preset scdiffusion]

The paper compares with the cells that it was trained on; here, with cells that were held out. Floor: training cells.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from _shared import drawing, log_of, parser_of, read, show, some_of, trained

from scdiffusion import metrics

#: Means over the three datasets.
PAPER = {"SCC": 0.984, "MMD": 0.018, "LISI": 0.887, "RF AUC": 0.697}


def compare(real: sp.csr_matrix, other: sp.csr_matrix) -> dict[str, float]:
    n_cells = min(real.shape[0], other.shape[0])
    a, b = metrics.joint_pca(real[:n_cells], other[:n_cells], n_components=min(50, n_cells))
    return {
        "SCC": metrics.gene_mean_correlation(real, other),
        "MMD": metrics.mmd_scdiffusion(a, b),
        "LISI": metrics.lisi(np.concatenate([a, b]), np.repeat(["real", "other"], n_cells)),
        "RF AUC": metrics.random_forest_auc(a, b),
    }


def main(argv: list[str] | None = None) -> pd.DataFrame:
    arguments = parser_of(__doc__).parse_args(argv)
    adata = read(arguments)
    train, test = (adata[adata.obs["split"] == side].copy() for side in ("train", "test"))
    model = trained(train, arguments, [])
    real = some_of(test, arguments.max_cells, arguments.seed)
    generated = model.generate(real.n_obs, **drawing(arguments))
    rows = {
        "ours": compare(log_of(real), log_of(generated)),
        "floor": compare(log_of(real), log_of(some_of(train, real.n_obs, arguments.seed))),
        "scDiffusion, paper (mean of three datasets)": PAPER,
    }
    return show(f"Realistic generation, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
