"""Which cells are compared with which: equal numbers on both sides, and a floor beside every figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from scdiffusion.metrics import joint_pca, reference_pca
from scdiffusion.tl._baseline import independent_genes
from scdiffusion.tl._evaluation_input import Cells
from scdiffusion.tl._metric_table import Context, Metric, Side

MIN_CELLS = 30
# more cells hardly move the components
MAX_REFERENCE, MAX_JOINT = 10_000, 5000
N_REFERENCE_PCS, N_JOINT_PCS = 30, 50


@dataclass(frozen=True)
class Scope:
    """Some real cells and, from each source, as many others; in random order, so that the first k are a sample."""

    group: str
    real: Cells
    others: dict[str, Cells]  # "generated", "floor" and perhaps "baseline"
    _joint: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.real)

    def figures(self, metric: Metric, context: Context, n_splits: int, seed: int) -> dict[str, Any]:
        """Return the metric for every source, and its standard deviation except for the baseline.

        The deviation is that of figures on random halves of both sides, drawn without replacement. Of a statistic
        whose mean does not depend on n their variance is V(n/2) - V(n): the V(n) that is sought where V falls as 1/n,
        and more where it falls faster, so that the deviation errs on the safe side.
        """
        n_cells = min(len(self), metric.max_cells)
        row: dict[str, Any] = {"n_cells": n_cells}
        for name in self.others:
            real, other = self._sides(name, metric.space, n_cells)
            row["space"] = _name_of(metric.space, real.X, self.real, context)
            row[name] = metric.compute(real, other, context)
            if name == "baseline":
                continue
            if metric.sd is not None:
                row[f"{name}_sd"] = metric.sd(real, context)
                continue
            rngs = [np.random.default_rng([seed, split]) for split in range(n_splits)]
            halves = [metric.compute(_half(real, rng), _half(other, rng), context) for rng in rngs]
            row[f"{name}_sd"] = float(np.std(halves, ddof=1))
        return row

    def _sides(self, name: str, space: str, n_cells: int) -> tuple[Side, Side]:
        real, other = self.real, self.others[name]
        X, Y = self._joint_pcs(name) if space == "joint" else (getattr(real, space), getattr(other, space))
        return _first(X, real.labels, n_cells), _first(Y, other.labels, n_cells)

    def _joint_pcs(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self._joint:
            real, other = self.real.log[:MAX_JOINT], self.others[name].log[:MAX_JOINT]
            n_components = min(N_JOINT_PCS, real.shape[0] // 2, real.shape[1] - 1)
            self._joint[name] = joint_pca(real, other, n_components=n_components)
        return self._joint[name]


@dataclass(frozen=True)
class Pools:
    """The cells that scopes are taken from, each pool in random order."""

    cells: dict[str, Cells]  # "real", "generated", "floor" and perhaps "baseline"
    context: Context

    def all(self, n_cells: int | None) -> Scope:
        """All cells, whatever their type."""
        return self._scope("all", {name: np.arange(len(cells)) for name, cells in self.cells.items()}, n_cells)

    def group(self, group: str, n_cells: int | None) -> Scope:
        """Cells of one type. Where training cells lack it, the floor is taken from the real ones."""
        rows = self._rows_of(group)
        if len(rows["floor"]) < MIN_CELLS and len(rows["real"]) >= 2 * MIN_CELLS:
            pools = self.held_out()
            return pools._scope(group, pools._rows_of(group), n_cells)
        return self._scope(group, rows, n_cells)

    def types(self, groups: Sequence[str], n_cells: int | None) -> Scope:
        """As many cells of a type from every pool, so that composition plays no part; small types are left out."""
        rows = {name: [np.array([], int)] for name in self.cells}
        for group in groups:
            rows_of = self._rows_of(group)
            n = min(map(len, rows_of.values()))
            for name in rows if n >= MIN_CELLS else []:
                rows[name].append(rows_of[name][:n])
        # in the order of the pool, which is random
        return self._scope("all", {name: np.sort(np.concatenate(parts)) for name, parts in rows.items()}, n_cells)

    def held_out(self) -> Pools:
        """Take the floor from the real cells as well, so that it holds no cell that was trained on."""
        real = self.cells["real"]
        half = len(real) // 2
        return replace(self, cells={**self.cells, "real": real[:half], "floor": real[half:]})

    def held_out_donors(self) -> Pools:
        """Likewise, whole donors on each side, which take the place of the types."""
        real = self.cells["real"]
        donors = pd.unique(real.donors)  # the cells are in random order: the larger donors tend to come first
        in_floor = np.isin(real.donors, donors[1::2])
        real = replace(real, labels=real.donors)
        return replace(self, cells={**self.cells, "real": real[~in_floor], "floor": real[in_floor]})

    def _rows_of(self, group: str) -> dict[str, np.ndarray]:
        return {name: np.flatnonzero(cells.labels == group) for name, cells in self.cells.items()}

    def _scope(self, group: str, rows: dict[str, np.ndarray], n_cells: int | None) -> Scope:
        n = min([len(r) for r in rows.values()] + ([] if n_cells is None else [n_cells]))
        real, *others = (cells[rows[name][:n]] for name, cells in self.cells.items())
        return Scope(group, real, dict(zip(list(self.cells)[1:], others, strict=True)))


def build_pools(cells: dict[str, Cells], genes: pd.Index, *, baseline: bool, pcs: bool, seed: int) -> Pools:
    """Split the training cells, or else the real ones, into a floor and a reference for axes and classifiers.

    Principal components follow the noise of the cells they are fitted on, so the reference is compared with nothing.
    """
    rng = np.random.default_rng([seed, 0])
    shuffled = {name: side[rng.permutation(len(side))] for name, side in cells.items()}
    real, generated, train = (shuffled.get(name) for name in ("real", "generated", "train"))
    if train is None:
        aside = min(len(real) // 3, MAX_REFERENCE)
        half = (len(real) - aside) // 2
        reference, real, floor = real[:aside], real[aside : aside + half], real[aside + half :]
    else:
        aside = min(max(len(train) // 3, len(train) - len(real)), MAX_REFERENCE)
        reference, floor = train[:aside], train[aside : aside + len(real)]
    pools = {"real": real, "generated": generated, "floor": floor}
    _check_sizes(cells, pools)
    if baseline:
        pools["baseline"] = independent_genes(reference if train is None else train, real.labels, len(real), rng)
    train_pcs = None
    if pcs:
        n_components = min(N_REFERENCE_PCS, len(reference) // 3, len(genes) - 1)
        logs = [side.log for side in (*pools.values(), *([] if train is None else [train]))]
        coordinates = iter(reference_pca(reference.log, *logs, n_components=n_components, rng=seed))
        reference = replace(reference, pcs=next(coordinates))
        pools = {name: replace(side, pcs=next(coordinates)) for name, side in pools.items()}
        train_pcs = next(coordinates, None)
    if reference.labels is not None:
        reference = reference[reference.labels != np.array(None)]
    name = "real cells held aside" if train is None else "train"
    train_donors = None if train is None else train.donors
    context = Context(name, Side(reference.pcs, reference.labels), reference.log, train_pcs, genes, train_donors)
    return Pools(pools, context)


def _check_sizes(cells: dict[str, Cells], pools: dict[str, Cells]) -> None:
    if min(map(len, pools.values())) >= MIN_CELLS:
        return
    sizes = ", ".join(f"{name} has {len(side)}" for name, side in cells.items())
    needed = f"{3 * MIN_CELLS} real" if "train" not in cells else f"{MIN_CELLS} real, {2 * MIN_CELLS} training"
    raise ValueError(
        f"Too few cells to compare ({sizes}): at least {needed} and {MIN_CELLS} generated ones are needed."
    )


def _name_of(space: str, X: Any, cells: Cells, context: Context) -> str:
    if space in ("pcs", "joint"):
        return f"{X.shape[1]} PCs fitted on {context.name if space == 'pcs' else 'both sides'}"
    return "log-normalised" if space == "log" or cells.counts is None else "counts"


def _first(X: Any, labels: np.ndarray | None, n_cells: int) -> Side:
    return Side(X[:n_cells], None if labels is None else labels[:n_cells])


def _half(side: Side, rng: np.random.Generator) -> Side:
    rows = rng.permutation(side.X.shape[0])[: side.X.shape[0] // 2]
    return Side(side.X[rows], None if side.labels is None else side.labels[rows])
