"""Can cells of a combination of conditions that was never seen be generated?

    python benchmarks/unseen.py DATA_DIR [--tasks donors stimulated seen] [--seeds 0 1 2] [--csv runs.csv]

- "donors": four pairs of cell type and donor held out of kang_ctrl_12k at once.
- "stimulated": the stimulated cells of each type held out of kang_stim_ctrl_1556 in turn.
- "seen": nothing held out; control cells of the test split made stimulated, against its real stimulated cells.

Every way of generating is compared with (a) the same type under the other conditions as it is, and (b) these cells
shifted by the mean difference in other types (scGen's arithmetic in log-normalised expression). Energy distance is
unbiased, in 30 principal components that are fitted on cells from which nothing that is compared is drawn: cells vary
more along components that were fitted on them. Floor: one half of the real cells against the other. Accuracies are
those of logistic regression trained on training cells. LFC: stimulated against control, the slope of generated on real
log-fold changes, against separate halves of the control cells.

--choose holds out other pairs, and takes cells of the training split only: what the default was chosen by.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from interpolation import markdown

import scdiffusion as scd
from scdiffusion import metrics

Pair = tuple[str, str]
TYPES = ["B cells", "CD14+ Monocytes", "CD4 T cells", "CD8 T cells", "FCGR3A+ Monocytes"]
LEAST_CELLS = 5  # of both conditions, for a type to tell what the condition changes
UNCHANGED, MEAN_SHIFT = "(a) other conditions", "(b) mean shift"


@dataclass(frozen=True)
class Task:
    dataset: str
    keys: tuple[str, str]
    rounds: list[list[Pair]]
    """Pairs that are compared after one training, without them unless `is_seen`."""
    is_seen: bool = False


KANG = ("kang_ctrl_12k", ("cell_type", "donor"))
STIM = ("kang_stim_ctrl_1556", ("cell_type", "condition"))
TASKS = {
    "donors": Task(
        *KANG, [[("B cells", "1015"), ("CD14+ Monocytes", "1016"), ("CD4 T cells", "101"), ("NK cells", "1256")]]
    ),
    "stimulated": Task(*STIM, [[(cell_type, "stim")] for cell_type in TYPES]),
    "seen": Task(*STIM, [[(cell_type, "stim") for cell_type in TYPES]], is_seen=True),
}
CHOOSING = {
    "donors": Task(
        *KANG,
        [
            [("CD14+ Monocytes", "1244"), ("NK cells", "1015"), ("CD8 T cells", "1016"), ("B cells", "101")],
            [("CD4 T cells", "1488"), ("FCGR3A+ Monocytes", "101"), ("B cells", "1488"), ("CD8 T cells", "1015")],
        ],
    ),
    "stimulated": Task(*STIM, [[(cell_type, "ctrl")] for cell_type in TYPES]),
}


@dataclass(frozen=True)
class Round:
    """Cells of one training and comparison."""

    keys: tuple[str, str]
    train: ad.AnnData
    reference: ad.AnnData
    """What principal components are fitted on."""
    starts: ad.AnnData
    """What counterfactuals and baselines are made of."""
    real: ad.AnnData

    def of(self, cells: ad.AnnData, *pair: str) -> np.ndarray:
        """Which cells are of a type and, where it is given, of the other condition."""
        return np.logical_and.reduce([cells.obs[key] == name for key, name in zip(self.keys, pair, strict=False)])

    def start_of(self, pair: Pair) -> ad.AnnData:
        return self.starts[self.of(self.starts, pair[0]) & ~self.of(self.starts, *pair)].copy()


def rounds(adata: ad.AnnData, task: Task, choosing: bool) -> Iterator[tuple[list[Pair], Round]]:
    is_test = (adata.obs["split"] == "test").to_numpy()
    if choosing:
        adata = adata[~is_test].copy()
        is_test = np.random.default_rng(0).random(adata.n_obs) < 0.25
    for pairs in task.rounds:
        labels = list(zip(*(adata.obs[key].astype(str) for key in task.keys), strict=True))
        held_out = np.array([label in pairs for label in labels])
        if task.is_seen:
            train, test = adata[~is_test].copy(), adata[is_test].copy()
            yield pairs, Round(task.keys, train, train, test, test)
        else:
            train = adata[~is_test & ~held_out].copy()
            yield pairs, Round(task.keys, train, adata[is_test & ~held_out].copy(), train, adata[held_out].copy())


def mean_shift(cells: Round, start: ad.AnnData, pair: Pair) -> np.ndarray:
    log, train, shifts = metrics.log_normalise(cells.train.X).toarray(), cells.train, []
    for cell_type in train.obs[cells.keys[0]].unique():
        there = cells.of(train, cell_type, pair[1])
        elsewhere = cells.of(train, cell_type) & ~there
        if cell_type != pair[0] and min(there.sum(), elsewhere.sum()) >= LEAST_CELLS:
            shifts.append(log[there].mean(0) - log[elsewhere].mean(0))
    return metrics.log_normalise(start.X).toarray() + np.mean(shifts, 0)


Way = Callable[[scd.SCDiffusion, dict[str, str], int, ad.AnnData, int], ad.AnnData]


def generating(**settings) -> Way:
    return lambda model, asked, n_cells, start, seed: model.generate(n_cells, asked, rng=seed, **settings)


def changing(key: str, **settings) -> Way:
    return lambda model, asked, n_cells, start, seed: scd.tl.counterfactual(
        model, start, {key: asked[key]}, rng=seed, **settings
    )


def ways_of(key: str) -> dict[str, Way]:
    return {
        "generate: joint": generating(compose="joint"),
        "generate: sum": generating(compose="sum"),
        "generate: joint, classifier-free 0.5": generating(
            compose="joint", guidance="classifier_free", guidance_scale=0.5
        ),
        "generate: joint, classifier-free 1": generating(compose="joint", guidance="classifier_free", guidance_scale=1),
        "generate: classifier 2": generating(compose="joint", guidance="classifier", guidance_scale=2),
        "generate: joint + classifier 1": generating(compose="joint", guidance={"classifier_free": 0, "classifier": 1}),
        "**generate: shift (default)**": generating(),
        "**counterfactual: shift (default)**": changing(key),
        "counterfactual: refined": changing(key, method="refined"),
    }


def slope(real, other, control, rng: np.random.Generator) -> float:
    halves = np.array_split(rng.permutation(control.shape[0]), 2)
    sides = [(sp.vstack([x, control[half]]), len(half)) for x, half in zip((real, other), halves, strict=True)]
    labels = [np.repeat(["stim", "ctrl"], [x.shape[0] - n, n]) for x, n in sides]
    return metrics.lfc_slope(sides[0][0], labels[0], sides[1][0], labels[1], groups="stim")


def compare(cells: Round, pair: Pair, sets: dict[str, sp.csr_matrix], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    real = metrics.log_normalise(cells.real[cells.of(cells.real, *pair)].X)
    sets = {"real": real, **sets}
    train = metrics.log_normalise(cells.train.X)
    reference = metrics.log_normalise(cells.reference.X)
    _, *pcs = metrics.reference_pca(reference, *sets.values(), n_components=30, rng=seed)
    of_train, *in_train = metrics.reference_pca(train, *sets.values(), n_components=50, rng=seed)
    scale = of_train.std(0)
    rows = []
    for (name, expression), x, y in zip(sets.items(), pcs, in_train, strict=True):
        a, b = np.array_split(rng.permutation(x), 2) if name == "real" else (pcs[0], x)
        row = {"cells": name, "energy": metrics.energy_distance(a, b, unbiased=True)}
        for key, label in zip(cells.keys, pair, strict=True):
            labels = cells.train.obs[key].astype(str).to_numpy()
            row[f"accuracy {key}"] = metrics.label_accuracy(
                of_train / scale, labels, y / scale, np.repeat(label, len(y)), C=0.1
            )
        if cells.keys[1] == "condition":
            control = metrics.log_normalise(cells.start_of(pair).X)
            row["LFC slope"] = slope(real, expression, control, rng)
        rows.append(row)
    return pd.DataFrame(rows)


def run(task: Task, pairs: list[Pair], cells: Round, seed: int) -> pd.DataFrame:
    scd.SCDiffusion.setup_anndata(cells.train, condition_keys=list(cells.keys))
    model = scd.SCDiffusion(cells.train, rng=seed)
    model.train(progress=False, rng=seed)
    model.train_classifier(progress=False, rng=seed)
    tables = []
    for pair in pairs:
        start = cells.start_of(pair)
        sets = {UNCHANGED: metrics.log_normalise(start.X), MEAN_SHIFT: sp.csr_matrix(mean_shift(cells, start, pair))}
        n_cells = int(cells.of(cells.real, *pair).sum())
        for name, way in ways_of(cells.keys[1]).items():
            if not (task.is_seen and name.strip("*").startswith("generate")):
                made = way(model, dict(zip(cells.keys, pair, strict=True)), n_cells, start, seed)
                sets[name] = metrics.log_normalise(made.X)
        tables.append(compare(cells, pair, sets, seed).assign(pair=", ".join(pair), seed=seed))
    return pd.concat(tables)


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """Means over pairs and seeds, and on how many of them the energy distance is below both baselines'."""
    energy = runs.pivot_table(index=["pair", "seed"], columns="cells", values="energy")
    table = runs.drop(columns=["pair", "seed"]).groupby("cells", sort=False).mean()
    for name, baseline in {"below (a)": UNCHANGED, "below (b)": MEAN_SHIFT}.items():
        table[name] = energy.lt(energy[baseline], axis=0).mean()[table.index]
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the h5ad files")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--choose", action="store_true", help="other pairs, training split only")
    parser.add_argument("--csv", type=Path, help="where to keep every row")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    tasks, tables = CHOOSING if arguments.choose else TASKS, []
    for name in (name for name in arguments.tasks if name in tasks):
        adata = ad.read_h5ad(arguments.data / f"{tasks[name].dataset}.h5ad")
        adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
        for seed in arguments.seeds:
            for pairs, cells in rounds(adata, tasks[name], arguments.choose):
                start = time.perf_counter()
                tables.append(run(tasks[name], pairs, cells, seed).assign(task=name))
                print(f"{name}, seed {seed}, {pairs}: {time.perf_counter() - start:.0f} s", flush=True)
                if arguments.csv:
                    pd.concat(tables).to_csv(arguments.csv, index=False)
    for name, table in pd.concat(tables).groupby("task", sort=False):
        print(f"\n{name}: means over pairs and seeds\n")
        print(markdown(summary(table.drop(columns="task").dropna(axis=1, how="all"))))
        print(f"\n{name}: energy distance by pair\n")
        print(markdown(table.pivot_table(index="cells", columns="pair", values="energy", sort=False)))


if __name__ == "__main__":
    main()
