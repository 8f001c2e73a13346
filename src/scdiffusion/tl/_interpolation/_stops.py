"""Which real cells go from state to state, in what pairs, and what they are at each."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from scdiffusion.model._checks import did_you_mean, name_some
from scdiffusion.model._composition import LEFT_TO_MODEL, Plan
from scdiffusion.model._conditions import NEARBY, fill_from_training, read_conditions
from scdiffusion.networks import Conditions

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion

MAX_CELLS = 1000  # by default; the pairing of 5,000 takes seconds, of 10,000 most of a minute


def read_stops(model: SCDiffusion, key: str, source: Any, target: Any) -> list[Any]:
    """Categories, or numbers, of the states to pass in turn."""
    composition = model.composition
    available = [name for name in composition.keys if name not in model.covariate_keys]
    if not available:
        raise ValueError(
            "Interpolation needs a condition, and the model was trained without. Train one with "
            f"SCDiffusion.setup_anndata(adata, condition_keys=[{key!r}])."
        )
    if key not in available:
        raise ValueError(f"The model has no condition {key!r}.{did_you_mean(key, available)}")
    given = [source, *(target if pd.api.types.is_list_like(target) else [target])]
    if len(given) < 2 or any(pd.isna(stop) for stop in given):
        raise ValueError(f"Name a source and one target or several; got {source!r} and {target!r}.")
    if key in composition.continuous:
        stops = [composition.value(key, stop) for stop in given]
    else:
        stops = [composition.categories[key][composition.code(key, stop)] for stop in given]
    twice = [stop for stop, following in pairwise(stops) if stop == following]
    if twice:
        raise ValueError(f"There is no way from {twice[0]!r} to itself: source and targets must differ.")
    return stops


def cells_of(adata: AnnData, model: SCDiffusion, key: str, stop: Any) -> np.ndarray:
    """Rows of the cells of a state; of a number, those of about the same."""
    if key not in adata.obs:
        raise ValueError(f"adata.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
    column, composition = adata.obs[key], model.composition
    if key not in composition.continuous:
        rows = np.flatnonzero(column.astype(str) == stop)
        if not len(rows):
            there = column.dropna().astype(str).unique()
            raise ValueError(f"adata has no cells with {key}={stop!r}, only {name_some(there)}.")
        return rows
    near = NEARBY * composition.standard_deviations[composition.continuous.index(key)]
    distance = np.abs(column.to_numpy(float) - stop)
    rows = np.flatnonzero(distance <= near)
    if not len(rows):
        nearest = column.iloc[int(np.nanargmin(distance))]
        raise ValueError(
            f"adata has no cells with {key} within {near:.2g} of {stop:g}; the nearest is at {nearest:g}. "
            "Real cells are needed at the source and at each target; method='condition' does without at the last one."
        )
    return rows


def draw_rows(populations: list[np.ndarray], n_cells: int | None, rng: np.random.Generator) -> list[np.ndarray]:
    """As many rows of each population; of those with fewer cells, each as often as any other."""
    available = len(populations[0])
    n_cells = min(available, MAX_CELLS) if n_cells is None else n_cells
    if n_cells != int(n_cells) or not 1 <= n_cells <= available:
        raise ValueError(f"n_cells must be between 1 and {available}, the cells of the source; got {n_cells!r}.")
    first, *others = (np.resize(rng.permutation(rows), int(n_cells)) for rows in populations)
    return [np.sort(first), *others]


def assign(a: Tensor, b: Tensor) -> np.ndarray:
    """Order of the rows of `b` in which the sum of their squared distances to those of `a` is least."""
    return linear_sum_assignment(cdist(a.cpu().numpy(), b.cpu().numpy(), "sqeuclidean"))[1]


def plans_at(
    model: SCDiffusion, obs: pd.DataFrame, key: str, stops: list[Any], keep: list[str], rng: np.random.Generator
) -> list[Plan]:
    """What the cells are at each stop, with the covariates of their start, and what they are to keep of it."""
    composition, covariates = model.composition, model.covariate_keys
    missing = [name for name in keep if name not in obs]
    if missing:
        raise ValueError(f"adata.obs has no column {missing[0]!r}, which is to be kept.")
    kept = obs[[name for name in dict.fromkeys([*keep, *covariates]) if name in obs]]
    at_stops = [read_conditions(kept.assign(**{key: stop}), len(obs), composition, rng) for stop in stops]
    start = fill_from_training(at_stops[0], composition, covariates, rng)
    same = np.isin(composition.keys, covariates)
    n_categorical = len(composition.categories)
    return [
        Plan(
            np.where(same[:n_categorical], start.codes, plan.codes),
            np.where(same[n_categorical:], start.values, plan.values),
        )
        for plan in at_stops
    ]


def shown(model: SCDiffusion, plan: Plan) -> Conditions:
    """Conditions as the diffusion is shown them: without the covariates."""
    conditions = model.module.conditions(torch.from_numpy(plan.codes), torch.from_numpy(plan.values)).to(model.device)
    return conditions.without(*map(model.composition.keys.index, model.covariate_keys))


def plan_between(source: Plan, target: Plan, weight: float) -> Plan:
    """What cells are on the way: numbers in between, and no category where it is neither that nor this."""
    if weight in (0, 1):
        return target if weight else source
    differ = source.codes != target.codes
    return Plan(np.where(differ, LEFT_TO_MODEL, source.codes), (1 - weight) * source.values + weight * target.values)
