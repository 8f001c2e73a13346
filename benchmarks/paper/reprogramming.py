"""scDiffusion, Gradient Interpolation: the time course of mouse embryonic reprogramming.

    python benchmarks/paper/reprogramming.py reprogramming.h5ad [--day-key day] [--method gradient]

- Whole-day gaps: days 0, 1, ..., 8 are trained on, and each half day between is interpolated.
- Held out: days 3.5 and 4 are left out of 0, 0.5, ..., 8, and interpolated between 3 and 4.5.

By default cells are interpolated by `"refined"`, or by the paper's Gradient Interpolation where the denoiser sees no
conditions, as with `preset="scdiffusion"`, which log-normalised files are learned with.

Against the real cells of those days, beside direct interpolation of pairs of real cells, and the paper's figures.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from _shared import drawing, log_of, need, parser_of, read, show, some_of, trained

import scdiffusion as scd
from scdiffusion import metrics

OURS, DIRECT = "ours", "direct interpolation"
#: Days to interpolate, and those that each lies between.
GAPS = {f"{day}.5": (str(day), str(day + 1)) for day in range(8)}
HELD_OUT = {"3.5": ("3", "4.5"), "4": ("3", "4.5")}
#: MMD and LISI.
PAPER = {
    "whole-day gaps": {OURS: (0.322, 0.449), DIRECT: (0.521, 0.322)},
    "3.5": {OURS: (0.047, 0.64), DIRECT: (0.129, 0.20)},
    "4": {OURS: (0.055, 0.38), DIRECT: (0.117, 0.34)},
}
N_STATES = 7  # thirds of the way and its half are among them


def day_of(label: str) -> str:
    """One name for D3.5, 3.5 and 3.50."""
    try:
        return f"{float(label.lstrip('Dd')):g}"
    except ValueError:
        raise SystemExit(f"{label!r} is no day: numbers are needed, with or without a D before them.") from None


def compare(real: sp.csr_matrix, other: sp.csr_matrix) -> dict[str, float]:
    n_cells = min(real.shape[0], other.shape[0])
    a, b = metrics.joint_pca(real[:n_cells], other[:n_cells], n_components=min(50, n_cells))
    sides = np.repeat(["real", "other"], n_cells)
    return {"MMD": metrics.mmd_scdiffusion(a, b), "LISI": metrics.lisi(np.concatenate([a, b]), sides)}


def interpolated(
    adata: ad.AnnData, targets: dict[str, tuple[str, str]], arguments: argparse.Namespace
) -> dict[str, dict[str, dict[str, float]]]:
    """Train without the target days, interpolate each, and compare."""
    key, rng = arguments.day_key, np.random.default_rng(arguments.seed)
    model = trained(adata[~adata.obs[key].isin(list(targets))].copy(), arguments, [key])
    sees_conditions = model.module.denoiser.condition_encoder.sees_conditions
    method = arguments.method or ("refined" if sees_conditions else "gradient")
    if method == "gradient" and key not in model.classifiers_:
        model.train_classifier(key, max_epochs=arguments.max_epochs, progress=False, rng=arguments.seed)
    results = {}
    for day, (source, target) in targets.items():
        real = some_of(adata[adata.obs[key] == day], arguments.max_cells, arguments.seed)
        states = scd.tl.interpolate(
            model, adata, key, source, target, n_states=N_STATES, method=method, **drawing(arguments)
        )
        weight = (float(day) - float(source)) / (float(target) - float(source))
        made = states[states.obs["state"] == round(weight * (N_STATES - 1))]
        ends = [log_of(adata[adata.obs[key] == name]) for name in (source, target)]
        pairs = [end[rng.integers(end.shape[0], size=real.n_obs)] for end in ends]
        direct = sp.csr_matrix((1 - weight) * pairs[0] + weight * pairs[1])
        results[day] = {OURS: compare(log_of(real), log_of(made)), DIRECT: compare(log_of(real), direct)}
    return results


def main(argv: list[str] | None = None) -> pd.DataFrame:
    parser = parser_of(__doc__, day="day")
    parser.add_argument("--method", help="of scdiffusion.tl.interpolate; the paper's is gradient")
    arguments = parser.parse_args(argv)
    adata = read(arguments, arguments.day_key)
    adata.obs[arguments.day_key] = adata.obs[arguments.day_key].map(day_of).astype("category")
    need(adata, arguments.day_key, [*GAPS, "8", *HELD_OUT, *(name for name, _ in GAPS.values())], arguments.path)
    days = adata.obs[arguments.day_key]
    adata = adata[days.isin([*GAPS, *(name for ends in GAPS.values() for name in ends)])].copy()

    by_day = interpolated(adata, GAPS, arguments)
    gaps = {
        name: {measure: np.mean([rows[name][measure] for rows in by_day.values()]) for measure in ("MMD", "LISI")}
        for name in (OURS, DIRECT)
    }
    results = {"whole-day gaps": gaps, **interpolated(adata, HELD_OUT, arguments)}
    rows = {
        f"{name}, {what}": {**row, **dict(zip(["MMD, paper", "LISI, paper"], PAPER[what][name], strict=True))}
        for what, of_what in results.items()
        for name, row in of_what.items()
    }
    return show(f"Time course, {arguments.path.stem}", rows)


if __name__ == "__main__":
    main()
