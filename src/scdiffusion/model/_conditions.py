"""Reading ``obs_conditions`` into a plan: one row of condition codes per cell to generate."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from scdiffusion.model._checks import did_you_mean

LEFT_TO_MODEL = -1
OBSERVED = "observed"


@dataclass(frozen=True, eq=False)
class TrainingComposition:
    """Which combinations of conditions the model was trained on, and how many cells of each."""

    categories: dict[str, list[str]]
    """Condition key to its categories, in training order."""
    combinations: np.ndarray
    """Codes of the combinations, shape ``(n_combinations, n_keys)``."""
    n_cells: np.ndarray
    """Number of trained cells of every combination, shape ``(n_combinations,)``."""

    @classmethod
    def from_codes(cls, categories: Mapping[str, Sequence[Any]], codes: np.ndarray) -> TrainingComposition:
        """Count the combinations in the codes of the trained cells, shape ``(n_cells, n_keys)``."""
        combinations, _, n_cells = _unique_rows(np.asarray(codes, dtype=np.int64))
        return cls({str(key): [str(c) for c in names] for key, names in categories.items()}, combinations, n_cells)

    @property
    def keys(self) -> list[str]:
        """The condition keys, in the order of the columns of codes."""
        return list(self.categories)

    @property
    def n_trained(self) -> int:
        """Number of cells that the model was trained on."""
        return int(self.n_cells.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the composition as dicts, lists, strings and integers, for a saved model."""
        return {
            "categories": {key: list(names) for key, names in self.categories.items()},
            "combinations": self.combinations.tolist(),
            "n_cells": self.n_cells.tolist(),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainingComposition:
        """Rebuild the composition that :meth:`to_dict` wrote."""
        categories = {key: list(names) for key, names in settings["categories"].items()}
        n_cells = np.array(settings["n_cells"], dtype=np.int64)
        combinations = np.array(settings["combinations"], dtype=np.int64).reshape(len(n_cells), len(categories))
        return cls(categories, combinations, n_cells)

    def sample(self, n: int, rng: np.random.Generator, exact: bool = False) -> np.ndarray:
        """Draw the codes of ``n`` cells, shape ``(n, n_keys)``, in random order.

        If ``exact``, every combination gets its training share of ``n``, rounded by largest remainder, and only the
        order is random.
        """
        if not exact:
            return self.combinations[rng.choice(len(self.n_cells), size=n, p=self.n_cells / self.n_trained)]
        # In integers, so that n = n_trained returns the training composition to the cell.
        counts, remainders = np.divmod(n * self.n_cells, self.n_trained)
        counts[np.argsort(-remainders, kind="stable")[: n - counts.sum()]] += 1
        return rng.permutation(np.repeat(self.combinations, counts, axis=0), axis=0)

    def code(self, key: str, category: Any) -> int:
        """Return the code of a category as users may write it; -1 (left to the model) for None and NaN."""
        if pd.api.types.is_scalar(category) and pd.isna(category):
            return LEFT_TO_MODEL
        for spelling in _spellings(category):
            if spelling in self._codes[key]:
                return self._codes[key][spelling]
        raise ValueError(f"{key!r} has no category {category!r}.{did_you_mean(category, self.categories[key])}")

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {key: {name: code for code, name in enumerate(names)} for key, names in self.categories.items()}


def read_conditions(
    obs_conditions: Any, n_cells: int | None, composition: TrainingComposition, rng: np.random.Generator
) -> np.ndarray:
    """Read what the user asked for into one row of condition codes per cell.

    Parameters
    ----------
    obs_conditions
        - ``None``: every condition is left to the model.
        - ``"observed"``: the training composition, combinations in their training proportions, in random order.
        - a dict with, for any of the keys: one category for all cells; a dict of category to number of cells; a list,
          array, Series or Categorical with one category per cell; or ``None``. Numbers of cells (of a
          ``value_counts()``, pass ``.to_dict()``) become blocks in the order given, and meet the lists of other keys
          in that order. If several keys give numbers, the first keeps its blocks and the others are paired with it
          at random.
        - a DataFrame with one row per cell and keys as columns. Its index is not read.

        A key left out, and a category ``None`` or NaN, is left to the model.
    n_cells
        Number of cells; ``None`` for as many as ``obs_conditions`` says, else as many as the model was trained on.
    composition
        What the model was trained on.
    rng
        Orders ``"observed"`` and pairs several keys with numbers of cells.

    Returns
    -------
    Codes, shape ``(n_cells, n_keys)``; -1 is left to the model.

    Raises
    ------
    TypeError
        If ``obs_conditions`` is of another type.
    ValueError
        If a key or category is unknown, or numbers of cells are invalid or disagree.
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

    plan = np.full((_agreed_size(sizes, composition.n_trained), len(composition.keys)), LEFT_TO_MODEL, dtype=np.int64)
    for key, column in columns.items():
        plan[:, composition.keys.index(key)] = column
    return plan


def unseen_combinations(codes: np.ndarray, composition: TrainingComposition) -> list[dict[str, str]]:
    """Return the combinations in a plan that no trained cell has, each once, without what is left to the model."""
    rows, _, _ = _unique_rows(codes)
    return [
        {key: composition.categories[key][code] for key, code in zip(composition.keys, row, strict=True) if code >= 0}
        for row in rows
        if not _agrees_with(row, composition).any()
    ]


def fill_from_training(
    codes: np.ndarray, composition: TrainingComposition, keys_to_fill: Sequence[str], rng: np.random.Generator
) -> np.ndarray:
    """Draw the codes of some keys, where they are left to the model, from training cells with the same conditions.

    Parameters
    ----------
    codes
        The plan, shape ``(n_cells, n_keys)``; left as it is.
    composition
        What the model was trained on.
    keys_to_fill
        Nuisance conditions such as the batch. Several are drawn jointly.
    rng
        Draws the codes.

    Returns
    -------
    The plan with those keys filled. Cells of a combination that was never trained on get the keys' overall proportions.
    """
    filled = codes.copy()
    to_fill = np.isin(composition.keys, list(keys_to_fill))
    rows, group, sizes = _unique_rows(codes)
    cells_of_rows = np.split(np.argsort(group, kind="stable"), np.cumsum(sizes)[:-1])
    for row, cells in zip(rows, cells_of_rows, strict=True):
        gaps = np.flatnonzero(to_fill & (row < 0))
        if not len(gaps):
            continue
        weights = composition.n_cells * _agrees_with(row, composition)
        if not weights.any():
            weights = composition.n_cells
        drawn = rng.choice(len(weights), size=len(cells), p=weights / weights.sum())
        filled[np.ix_(cells, gaps)] = composition.combinations[np.ix_(drawn, gaps)]
    return filled


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
    """Return the codes of one key: one for all cells (no axis), or one per cell."""
    if isinstance(request, Mapping):
        numbers_of = {
            category: _whole_number(number, f"The number of cells of {category!r} in obs_conditions[{key!r}]")
            for category, number in request.items()
        }
        codes = np.array([composition.code(key, category) for category in numbers_of], dtype=np.int64)
        return np.repeat(codes, list(numbers_of.values()))
    if not pd.api.types.is_list_like(request, allow_sets=False):
        return np.asarray(composition.code(key, request))
    if getattr(request, "ndim", 1) != 1:
        raise ValueError(f"obs_conditions[{key!r}] must hold one category per cell, not {request.ndim} dimensions.")
    # Every distinct category is looked up once; factorize codes gaps as -1, which is the last of the looked-up codes.
    positions, distinct = pd.factorize(pd.Series(list(request), dtype=object))
    return np.array([*(composition.code(key, category) for category in distinct), LEFT_TO_MODEL])[positions]


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
    if not _is_whole(value) or value < minimum:
        raise ValueError(f"{what} must be {'a positive' if minimum else 'zero or a positive'} integer, not {value!r}.")
    return int(value)


def _spellings(category: Any) -> Iterator[str]:
    """How a value may be called in training: a gap turns a column of 101 into 101.0, for instance."""
    yield str(category)
    if _is_whole(category):
        yield str(int(category))
        yield str(float(category))


def _is_whole(value: Any) -> bool:
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return is_number and float(value).is_integer()


def _agrees_with(row: np.ndarray, composition: TrainingComposition) -> np.ndarray:
    """Return which training combinations have the codes of a row of a plan, -1 agreeing with all of them."""
    return ((composition.combinations == row) | (row < 0)).all(axis=1)


def _unique_rows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct rows, which of them every row is, and how often each occurs."""
    ids = np.zeros(len(codes), dtype=np.int64)
    # One number per row sorts faster than np.unique(axis=0); renumbering at every key keeps it small.
    for column in codes.T:
        ids = np.unique(ids * (column.max() + 2) + column + 1, return_inverse=True)[1]
    _, first, ids, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    return codes[first], ids, counts
