"""SCLD, specific subpopulations: random-forest AUC of four clusters of PBMC 68k.

    python benchmarks/paper/scld_clusters.py pbmc68k.h5ad [--cluster-key louvain --clusters 1 2 3 6]

Which cells a number stands for depends on the clustering: compare the level of the figures, not line by line.
"""

from __future__ import annotations

import pandas as pd
from _shared import LOUVAIN, drawing, log_of, need, parser_of, read, show, some_of, trained
from scld_realism import compare

#: RF AUC of SCLD and of cscGAN in PBMC clusters 1, 2, 3 and 6.
PAPER = [(0.71, 0.82), (0.68, 0.72), (0.70, 0.86), (0.69, 0.75)]


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__, cluster=LOUVAIN)
    parser.add_argument("--clusters", nargs=len(PAPER), default=["1", "2", "3", "6"])
    arguments = parser.parse_args(argv)
    key = arguments.cluster_key
    adata = read(arguments, key)
    need(adata, key, arguments.clusters, arguments.path)
    train, test = (adata[adata.obs["split"] == side].copy() for side in ("train", "test"))
    model, rows = trained(train, arguments, [key]), {}
    for cluster, (scld, cscgan) in zip(arguments.clusters, PAPER, strict=True):
        real = some_of(test[test.obs[key] == cluster], arguments.max_cells, arguments.seed)
        made = model.generate(real.n_obs, {key: cluster}, **drawing(arguments))
        ours = compare(log_of(real), log_of(made))["RF AUC"]
        rows[cluster] = {"cells": real.n_obs, "ours": ours, "SCLD, paper": scld, "cscGAN, paper": cscgan}
    return show(f"Clusters, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
