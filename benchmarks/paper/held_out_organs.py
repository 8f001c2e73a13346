"""scDiffusion, out of distribution: three pairs of organ and cell type of Tabula Muris that are left out of training.

    python benchmarks/paper/held_out_organs.py tabula_muris.h5ad [--organ-key organ --celltype-key celltype]

CellTypist is trained on all cells, as in the paper, and asked for the cell type.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from _shared import drawing, log_of, need, parser_of, read, show, trained
from per_type import told_types, typist_of

from scdiffusion import metrics

#: Organ and cell type; the paper's accuracies of generated and of real cells.
PAPER = {
    ("Mammary_Gland", "B cell"): (0.98, 0.92),
    ("Thymus", "memory B cell"): (0.968, 0.969),
    ("Spleen", "macrophage"): (0.966, 0.995),
}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    arguments = parser_of(__doc__, organ="organ", celltype="celltype").parse_args(argv)
    keys = [arguments.organ_key, arguments.celltype_key]
    adata = read(arguments, *keys)
    for key, names in zip(keys, zip(*PAPER, strict=True), strict=True):
        need(adata, key, names, arguments.path)
    pairs = list(zip(*(adata.obs[key] for key in keys), strict=True))
    absent = [pair for pair in PAPER if pair not in pairs]
    if absent:
        raise SystemExit(f"{arguments.path.name} has no cells of {absent[0]}: the experiment is about them.")
    typist = typist_of(adata, keys[1])
    model = trained(adata[[pair not in PAPER for pair in pairs]].copy(), arguments, keys)
    rows = {}
    for organ, cell_type in PAPER:
        in_organ, of_type = (adata.obs[key] == name for key, name in zip(keys, (organ, cell_type), strict=True))
        real, elsewhere = adata[in_organ & of_type], adata[~in_organ & of_type]
        n_cells = min(real.n_obs, arguments.max_cells)
        made = model.generate(n_cells, dict(zip(keys, (organ, cell_type), strict=True)), **drawing(arguments))
        _, *pcs = metrics.reference_pca(*map(log_of, (model.adata, real, made, elsewhere)), n_components=30)
        paper, paper_real = PAPER[organ, cell_type]
        rows[f"{organ}, {cell_type}"] = {
            "accuracy, ours": (told_types(typist, made) == cell_type).mean(),
            "scDiffusion, paper": paper,
            "accuracy, real": (told_types(typist, real.copy()) == cell_type).mean(),
            "real, paper": paper_real,
            **{
                f"energy distance, {name}": metrics.energy_distance(pcs[0], x, unbiased=True) if len(x) > 1 else np.nan
                for name, x in zip(("ours", "other organs"), pcs[1:], strict=True)
            },
        }
    return show(f"Out of distribution, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
