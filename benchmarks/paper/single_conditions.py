"""scDiffusion, conditional generation: each cell type, or organ, of Tabula Muris, told by CellTypist.

    python benchmarks/paper/single_conditions.py tabula_muris.h5ad [--celltype-key celltype]

CellTypist is trained on training cells. kNN AUC by type, in 50 joint principal components (0.5 is perfect).
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _shared import drawing, log_of, parser_of, read, show, trained
from per_type import knn_auc, told_types, typist_of

from scdiffusion import metrics

#: Mean accuracies on Tabula Muris.
PAPER = {"scDiffusion": 0.93, "scDesign3": 0.99, "cscGAN": 0.04, "real cells": 0.98}
LARGEST = 1000  # cells of each type, as in the paper


def main(argv: list[str] | None = None) -> pd.DataFrame:
    arguments = parser_of(__doc__, celltype="celltype").parse_args(argv)
    key = arguments.celltype_key
    adata = read(arguments, key)
    train, test = (adata[adata.obs["split"] == side].copy() for side in ("train", "test"))
    model, typist = trained(train, arguments, [key]), typist_of(train, key)
    rng, rows = np.random.default_rng(arguments.seed), {}
    for name in model.composition.categories[key]:
        real = test[test.obs[key] == name][: min(LARGEST, arguments.max_cells)].copy()
        if real.n_obs < 2:
            continue
        made = model.generate(real.n_obs, {key: name}, **drawing(arguments))
        pcs = metrics.joint_pca(log_of(real), log_of(made), n_components=min(50, real.n_obs))
        rows[name] = {
            "cells": real.n_obs,
            "accuracy, ours": (told_types(typist, made) == name).mean(),
            "accuracy, real": (told_types(typist, real) == name).mean(),
            "kNN AUC": knn_auc(*pcs, rng),
        }
    table = show(f"Single conditions, {arguments.path.stem}", rows)
    means = {"ours": {"accuracy": table["accuracy, ours"].mean()}, "real": {"accuracy": table["accuracy, real"].mean()}}
    show("Mean accuracy", {**means, **{f"{name}, paper": {"accuracy": value} for name, value in PAPER.items()}})
    return table


if __name__ == "__main__":
    main()
