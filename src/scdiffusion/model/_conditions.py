"""Reading ``obs_conditions`` into a plan: one row of condition codes and values per cell to generate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from scdiffusion.model._composition import Plan, TrainingComposition, are_among, is_whole, ranks_of, unique_rows
from scdiffusion.model._messages import did_you_mean
from scdiffusion.networks import LEFT_TO_MODEL

OBSERVED = "observed"
# Two values of a continuous condition that differ by this share of its standard deviation are about the same.
NEARBY = 0.1
# Further than so many standard deviations outside the range of training, single precision ends, and all meaning before.
FURTHEST = 1e6


def read_conditions(
    obs_conditions: Any, n_cells: int | None, composition: TrainingComposition, rng: np.random.Generator
) -> Plan:
    """Read what the user asked for into one row of condition codes and values per cell.

    Parameters
    ----------
    obs_conditions
        - ``None``: every condition is left to the model.
        - ``"observed"``: the training composition, combinations in their training proportions, in random order.
        - a dict with, for any of the keys: one category or number for all cells; a dict of category or number to
          number of cells; a list, array, Series or Categorical with one per cell; or ``None``. Numbers of cells (of a
          ``value_counts()``, pass ``.to_dict()``) become blocks in the order given, and meet the lists of other keys
          in that order. If several keys give numbers, the first keeps its blocks and the others are paired with it
          at random.
        - a DataFrame with one row per cell and keys as columns. Its index is not read.

        A key left out, and a category or number ``None`` or NaN, is left to the model.
    n_cells
        Number of cells; ``None`` for as many as ``obs_conditions`` says, else as many as the model was trained on.
    composition
        What the model was trained on.
    rng
        Orders ``"observed"`` and pairs several keys with numbers of cells.

    Raises
    ------
    TypeError
        If ``obs_conditions`` is of another type, or an entry can be no category.
    ValueError
        If a key or category is unknown, a value is not a finite number or out of all proportion, or numbers of cells
        are invalid or disagree.
    """
    n_cells = None if n_cells is None else _whole_number(n_cells, "n_cells", minimum=1)
    if isinstance(obs_conditions, str) and obs_conditions == OBSERVED:
        return composition.sample(n_cells or composition.n_trained, rng, exact=True)

    requests = _requests(obs_conditions, composition)
    columns = {key: _read_request(key, request, composition) for key, request in requests.items()}
    sizes = {f"obs_conditions[{key!r}]": len(column) for key, column in columns.items() if column.ndim}
    if isinstance(obs_conditions, pd.DataFrame):
        sizes["obs_conditions"] = len(obs_conditions)
    if n_cells is not None:
        sizes["n_cells"] = n_cells

    counted = [key for key, request in requests.items() if isinstance(request, Mapping)]
    for key in counted[1:]:
        columns[key] = rng.permutation(columns[key])

    n_cells = _agreed_size(sizes, composition.n_trained)
    codes = np.full((n_cells, len(composition.categories)), LEFT_TO_MODEL, dtype=np.int64)
    values = np.full((n_cells, len(composition.continuous)), np.nan)
    for key, column in columns.items():
        if key in composition.continuous:
            values[:, composition.continuous.index(key)] = column
        else:
            codes[:, composition.keys.index(key)] = column
    _check_reach(values, composition)
    return Plan(codes, values)


def unseen_combinations(codes: np.ndarray, composition: TrainingComposition) -> list[dict[str, str]]:
    """Return the combinations in a plan that no trained cell has, each once, without what is left to the model."""
    names = composition.categories
    rows = codes[unique_rows(codes)[0]]
    return [
        {key: names[key][code] for key, code in zip(names, row, strict=True) if code >= 0}
        for row in rows[~are_among(rows, composition.combinations)]
    ]


def beyond_training(values: np.ndarray, composition: TrainingComposition) -> list[str]:
    """Say which values in a plan, shape ``(n_cells, n_continuous)``, lie outside the range of training, and how far."""
    messages = []
    for key, asked, trained, deviation in zip(
        composition.continuous, values.T, composition.values.T, composition.standard_deviations, strict=True
    ):
        low, high = trained.min(), trained.max()
        distance = np.nan_to_num(np.maximum(low - asked, asked - high), nan=0.0)
        if (distance > 0).any():
            furthest = distance.argmax()
            messages.append(
                f"{key}={asked[furthest]:g} lies outside the training cells' range, {low:g} to {high:g}, by "
                f"{distance[furthest] / deviation:.2g} of their standard deviations"
            )
    return messages


def fill_from_training(
    plan: Plan, composition: TrainingComposition, keys_to_fill: Sequence[str], rng: np.random.Generator
) -> Plan:
    """Draw some conditions, where they are left to the model, from training cells with the same ones otherwise.

    Parameters
    ----------
    plan
        Left as it is.
    composition
        What the model was trained on.
    keys_to_fill
        Nuisance conditions such as the batch. Several are drawn jointly.
    rng
        Draws the cells to take them from.

    Returns
    -------
    The plan with those keys filled. Of the training cells with the same categories, those with about the same values
    count. Cells of a combination that was never trained on get the keys' overall proportions.
    """
    codes, numbers = plan.codes.copy(), plan.values.copy()
    to_fill = np.isin(composition.keys, list(keys_to_fill))
    nearby = NEARBY * composition.standard_deviations
    first, group, sizes = unique_rows(np.column_stack([plan.codes, ranks_of(np.round(plan.values / nearby))]))
    cells_of_rows = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    for row, values, cells in zip(plan.codes[first], plan.values[first], cells_of_rows, strict=True):
        gaps = to_fill & np.concatenate([row < 0, np.isnan(values)])
        if not gaps.any():
            continue
        weights = composition.n_cells * _agrees_with(row, composition)
        if not weights.any():
            weights = composition.n_cells
        distance = np.nansum(((composition.values - values) / nearby) ** 2, axis=1)
        weights = weights * np.exp((distance[weights > 0].min() - distance).clip(max=0) / 2)
        drawn = rng.choice(len(weights), size=len(cells), p=weights / weights.sum())
        of_codes, of_numbers = np.flatnonzero(gaps[: len(row)]), np.flatnonzero(gaps[len(row) :])
        codes[np.ix_(cells, of_codes)] = composition.combinations[np.ix_(drawn, of_codes)]
        numbers[np.ix_(cells, of_numbers)] = composition.values[np.ix_(drawn, of_numbers)]
    return Plan(codes, numbers)


def _requests(obs_conditions: Any, composition: TrainingComposition) -> dict[str, Any]:
    """Return what is asked of every key, once the keys are known to be the model's."""
    if obs_conditions is None:
        return {}
    if not isinstance(obs_conditions, (Mapping, pd.DataFrame)):
        error = ValueError if isinstance(obs_conditions, str) else TypeError
        given = repr(obs_conditions) if isinstance(obs_conditions, str) else type(obs_conditions).__name__
        example = next(({key: names[0]} for key, names in composition.categories.items()), {"cell_type": "B cell"})
        raise error(
            f"obs_conditions must be None, {OBSERVED!r}, a dict such as {example}, or a DataFrame with one row per "
            f"cell, not {given}."
        )
    keys = list(obs_conditions)
    for key in keys:
        if not composition.keys:
            raise ValueError(
                f"The model was trained without conditions and cannot be asked for {key!r}. Train one with "
                f"SCDiffusion.setup_anndata(adata, condition_keys=[{key!r}])."
            )
        if key not in composition.keys:
            raise ValueError(f"The model has no condition {key!r}.{did_you_mean(key, composition.keys)}")
        if keys.count(key) > 1:
            raise ValueError(f"obs_conditions has several columns {key!r}. Give every condition once.")
    return {key: obs_conditions[key] for key in keys}


def _read_request(key: str, request: Any, composition: TrainingComposition) -> np.ndarray:
    """Return the codes or values of one key: one for all cells (no axis), or one per cell."""
    read, left, dtype, entry = composition.code, LEFT_TO_MODEL, np.int64, "category"
    if key in composition.continuous:
        read, left, dtype, entry = composition.value, np.nan, np.float64, "number"
    if isinstance(request, Mapping):
        numbers_of = {
            category: _whole_number(number, f"The number of cells of {category!r} in obs_conditions[{key!r}]")
            for category, number in request.items()
        }
        return np.repeat(np.array([read(key, name) for name in numbers_of], dtype=dtype), list(numbers_of.values()))
    if not pd.api.types.is_list_like(request, allow_sets=False):
        return np.asarray(read(key, request))
    if getattr(request, "ndim", 1) != 1:
        raise ValueError(f"obs_conditions[{key!r}] must hold one {entry} per cell, not {request.ndim} dimensions.")
    # Everything distinct is looked up once; factorize codes gaps as -1, which is the last of what was looked up.
    try:
        positions, distinct = pd.factorize(pd.Series(list(request), dtype=object))
    except TypeError as error:
        raise TypeError(f"obs_conditions[{key!r}] must hold one {entry} per cell: {error}.") from error
    return np.array([*(read(key, name) for name in distinct), left], dtype=dtype)[positions]


def _check_reach(values: np.ndarray, composition: TrainingComposition) -> None:
    for key, asked, trained, deviation in zip(
        composition.continuous, values.T, composition.values.T, composition.standard_deviations, strict=True
    ):
        low, high = trained.min(), trained.max()
        far = asked[np.maximum(low - asked, asked - high) > FURTHEST * deviation]
        if len(far):
            raise ValueError(
                f"{key}={far[0]:g} is out of all proportion to the training cells, which range from {low:g} to {high:g}."
            )


def _agreed_size(sizes: dict[str, int], default: int) -> int:
    if not sizes:
        return default
    (first, n_cells), *others = sizes.items()
    for other, n_other in others:
        if n_other != n_cells:
            remedy = "leave n_cells out" if other == "n_cells" else "make them agree"
            raise ValueError(f"{first} asks for {n_cells} cells, but {other} for {n_other}: {remedy}.")
    if n_cells == 0:
        raise ValueError(f"{first} asks for 0 cells. Ask for one or more.")
    return n_cells


def _whole_number(value: Any, what: str, minimum: int = 0) -> int:
    if not is_whole(value) or value < minimum:
        raise ValueError(f"{what} must be {'a positive' if minimum else 'zero or a positive'} integer, not {value!r}.")
    return int(value)


def _agrees_with(row: np.ndarray, composition: TrainingComposition) -> np.ndarray:
    """Return which training combinations have the codes of a row of a plan, -1 agreeing with all of them."""
    return ((composition.combinations == row) | (row < 0)).all(axis=1)
