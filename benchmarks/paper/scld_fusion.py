"""SCLD, Table 4: how the denoiser takes in the clusters' mean expression.

    python benchmarks/paper/scld_fusion.py pbmc68k.h5ad --paper PBMC

Random-forest AUC in 50 joint principal components, with `preset="scld"` and each fusion.
"""

from __future__ import annotations

import pandas as pd
from _shared import LOUVAIN, drawing, log_of, parser_of, read, show, some_of, trained
from scld_realism import compare

#: RF AUC by fusion.
PAPER = {
    "PBMC": {"concat": 0.64, "add": 0.65, "attention": 0.68},
    "Brain": {"concat": 0.68, "add": 0.68, "attention": 0.69},
}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__, cluster=LOUVAIN)
    parser.add_argument("--paper", choices=list(PAPER), default="PBMC", help="whose figures to print beside")
    arguments = parser.parse_args(argv)
    key = arguments.cluster_key
    adata = read(arguments, key)
    train, test = (adata[adata.obs["split"] == side].copy() for side in ("train", "test"))
    real, rows = some_of(test, arguments.max_cells, arguments.seed), {}
    for fusion, paper in PAPER[arguments.paper].items():
        model = trained(train, arguments, [key], preset="scld", fusion=fusion)
        made = model.generate(real.n_obs, "observed", **drawing(arguments))
        rows[fusion] = {"RF AUC, ours": compare(log_of(real), log_of(made))["RF AUC"], "RF AUC, paper": paper}
    return show(f"Fusion of conditions, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
