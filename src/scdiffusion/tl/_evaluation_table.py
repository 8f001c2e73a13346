"""The table of an evaluation: all figures of two AnnData, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from tqdm.auto import tqdm

from scdiffusion.tl._comparison import Scope, build_pools
from scdiffusion.tl._evaluation_input import Cells, read
from scdiffusion.tl._metric_table import CHANCE, Context, Metric, choose
from scdiffusion.tl._verdicts import judge, tolerance

# of the composition, in total variation distance
NOTABLE_DIFFERENCE = 0.1
FIGURES = ["generated", "generated_sd", "floor", "floor_sd", "baseline"]
COLUMNS = ["metric", "group", "space", "n_cells", *FIGURES, "better", "verdict"]


def compare(
    sides: Mapping[str, AnnData],
    *,
    groupby: str | None,
    donor_key: str | None,
    baseline: bool,
    metrics: str | Sequence[str] | None,
    layer: str | None,
    n_cells: int | None,
    n_splits: int,
    rng: int | np.random.Generator | None,
    progress: bool,
    few_genes: bool = False,
) -> pd.DataFrame:
    """The table of :func:`scdiffusion.tl.evaluate` for AnnData by name of the side; parameters are as there.

    Few genes, as those of a panel of proteins, need no more than to be shared.
    """
    data = read(sides, groupby, layer, donor_key=donor_key, few_genes=few_genes)
    has_counts = data.cells["real"].counts is not None
    given = {"groupby": groupby is not None, "train": "train" in sides, "donor_key": donor_key is not None}
    chosen = choose(metrics, given, counts=has_counts)
    seed = int(np.random.default_rng(rng).integers(2**31 - 1))
    needs_pcs = any(metric.space == "pcs" for metric in chosen)
    pools = build_pools(data.cells, data.genes, baseline=baseline, pcs=needs_pcs, seed=seed)

    notes = data.notes
    if baseline and not has_counts:
        notes.append("The baseline resamples each gene on its own, because a negative binomial needs counts.")
    groups = [] if groupby is None else sorted(_types(data.cells["real"]) | _types(data.cells["generated"]))
    if groups:
        notes += _note_on_composition(data.cells)
    scopes = {
        "all": pools.all(n_cells),
        "types": pools.types(groups, n_cells),
        "held out": pools.held_out().all(n_cells),
    }
    if donor_key is not None:
        scopes["donors"] = pools.held_out_donors().all(n_cells)
    tasks = [(metric, scopes[metric.scope]) for metric in chosen]
    for group in groups:
        scope = pools.group(group, n_cells)
        tasks += [(metric, scope) for metric in chosen if metric.by_group]
    rows = []
    bar = tqdm(tasks, desc="Evaluating", disable=not progress)
    for metric, scope in bar:
        bar.set_postfix_str(metric.name)
        rows.append(make_row(metric, scope, pools.context, n_splits, seed, notes))
    table = make_table(rows, n_splits)
    for side in ("generated", "real"):
        missing = [group for group in groups if group not in _types(data.cells[side])]
        table.loc[table["group"].isin(missing), "verdict"] = f"missing in {side}"
    notes += _note_on_copies(table, n_splits)
    table.attrs = {"notes": notes, "n_genes": len(data.genes), "groupby": groupby, "n_splits": n_splits}
    return table


def make_row(
    metric: Metric, scope: Scope, context: Context, n_splits: int, seed: int, notes: list[str]
) -> dict[str, Any]:
    """The figures of one row, or the reason why there are none; what a reader should know is added to the notes."""
    row = {"metric": metric.name, "group": scope.group, "n_cells": len(scope), "better": metric.better}
    if metric.better == "floor":
        row["better"] = np.nan
    if len(scope) < metric.min_cells:
        return row | {"verdict": "too small"}
    try:
        row |= scope.figures(metric, context, n_splits, seed)
    except ValueError as error:  # of degenerate cells, e.g. all the same; the other figures still stand
        notes.append(f"{metric.name} of {scope.group} is undefined: {error}")
        return row | {"verdict": "undefined"}
    if metric.better == "floor":
        row["better"] = row["floor"]
    return row


def make_table(rows: Sequence[Mapping[str, Any]], n_splits: int) -> pd.DataFrame:
    """The rows with their verdicts."""
    return judge(
        pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(FIGURES, float) | {"better": object}), n_splits
    )


def _types(cells: Cells) -> set[str]:
    return set(cells.labels) - {None}


def _note_on_composition(cells: dict[str, Cells]) -> list[str]:
    real, generated = (Counter(cells[side].labels) for side in ("real", "generated"))
    difference = sum(abs(real[x] / real.total() - generated[x] / generated.total()) for x in real | generated) / 2
    if difference < NOTABLE_DIFFERENCE:
        return []
    return [
        f"{difference:.0%} of the generated cells would have to change type to match the real composition: rows 'all' "
        "of metrics on all cells judge that, too."
    ]


def _note_on_copies(table: pd.DataFrame, n_splits: int) -> list[str]:
    of_all = table[(table["group"] == "all") & (table["better"] == CHANCE)]
    alike = of_all.loc[CHANCE - of_all["generated"] > tolerance(of_all, n_splits), "metric"]
    if alike.empty:
        return []
    return [
        f"{', '.join(alike)} below {CHANCE} by more than chance: generated cells are nearer to the real ones than these "
        "to each other, as copies of them would be. Pass as real cells that were held out from training."
    ]
