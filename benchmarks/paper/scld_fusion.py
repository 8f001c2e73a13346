"""SCLD, Table 4: how the denoiser takes in the clusters' mean expression.

    python benchmarks/paper/scld_fusion.py pbmc68k.h5ad --paper PBMC

Random-forest AUC in 50 joint principal components, with `preset="scld"` and each fusion.
"""

from __future__ import annotations

import pandas as pd
from _shared import drawing, log_of, show, trained
from scld_realism import compare, read_sides

#: RF AUC by fusion.
PAPER = {
    "PBMC": {"concat": 0.64, "add": 0.65, "attention": 0.68},
    "Brain": {"concat": 0.68, "add": 0.68, "attention": 0.69},
}


def main(argv: list[str] | None = None) -> pd.DataFrame:
    (arguments, key, train, real), rows = read_sides(__doc__, argv), {}
    for fusion, paper in PAPER[arguments.paper].items():
        model = trained(train, arguments, [key], preset="scld", fusion=fusion)
        made = model.generate(real.n_obs, "observed", **drawing(arguments))
        rows[fusion] = {"RF AUC, ours": compare(log_of(real), log_of(made))["RF AUC"], "RF AUC, paper": paper}
    return show(f"Fusion of conditions, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
