"""What a model was trained on: its conditions, and how many cells there were of each combination."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from scdiffusion.model._messages import did_you_mean
from scdiffusion.networks import LEFT_TO_MODEL


class Plan(NamedTuple):
    """What cells are to be, one row per cell."""

    codes: np.ndarray
    """Category codes, shape ``(n_cells, n_categorical)``; -1 is left to the model."""
    values: np.ndarray
    """Values of the continuous conditions, shape ``(n_cells, n_continuous)``; NaN is left to the model."""

    def take(self, rows: np.ndarray) -> Plan:
        """The plan of the cells in some rows."""
        return Plan(self.codes[rows], self.values[rows])


@dataclass(frozen=True, eq=False)
class TrainingComposition:
    """Which combinations of conditions the model was trained on, and how many cells of each."""

    categories: dict[str, list[str]]
    """Categorical condition key to its categories, in training order."""
    combinations: np.ndarray
    """Codes of the combinations, shape ``(n_combinations, n_categorical)``."""
    n_cells: np.ndarray
    """Number of trained cells of every combination, shape ``(n_combinations,)``."""
    continuous: list[str] = field(default_factory=list)
    """Continuous condition keys."""
    values: np.ndarray | None = None
    """Values of the continuous conditions in the combinations, shape ``(n_combinations, n_continuous)``."""

    def __post_init__(self) -> None:
        if self.values is None:
            object.__setattr__(self, "values", np.empty((len(self.n_cells), 0)))

    @classmethod
    def from_codes(
        cls,
        categories: Mapping[str, Sequence[Any]],
        codes: np.ndarray,
        continuous: Sequence[str] = (),
        values: np.ndarray | None = None,
    ) -> TrainingComposition:
        """Count the combinations in the codes and values of the trained cells, each ``(n_cells, n_keys)``."""
        codes = np.asarray(codes, dtype=np.int64)
        values = np.empty((len(codes), 0)) if values is None else np.asarray(values, dtype=np.float64)
        first, _, n_cells = unique_rows(np.column_stack([codes, ranks_of(values)]))
        names = {str(key): [str(c) for c in names] for key, names in categories.items()}
        return cls(names, codes[first], n_cells, list(continuous), values[first])

    @property
    def keys(self) -> list[str]:
        """The condition keys: the categorical ones, in the order of the columns of codes, then the continuous ones."""
        return [*self.categories, *self.continuous]

    @property
    def n_trained(self) -> int:
        """Number of cells that the model was trained on."""
        return int(self.n_cells.sum())

    def to_dict(self) -> dict[str, Any]:
        """Return the composition as dicts, lists, strings and numbers, for a saved model."""
        return {
            "categories": {key: list(names) for key, names in self.categories.items()},
            "combinations": self.combinations.tolist(),
            "n_cells": self.n_cells.tolist(),
            "continuous": list(self.continuous),
            "values": self.values.tolist(),
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> TrainingComposition:
        """Rebuild the composition that :meth:`to_dict` wrote."""
        categories = {key: list(names) for key, names in settings["categories"].items()}
        continuous = list(settings["continuous"])
        n_cells = np.array(settings["n_cells"], dtype=np.int64)
        combinations = np.array(settings["combinations"], dtype=np.int64).reshape(len(n_cells), len(categories))
        values = np.array(settings["values"], dtype=np.float64).reshape(len(n_cells), len(continuous))
        return cls(categories, combinations, n_cells, continuous, values)

    def sample(self, n: int, rng: np.random.Generator, exact: bool = False) -> Plan:
        """Draw the conditions of ``n`` cells, in random order.

        If ``exact``, every combination gets its training share of ``n``, rounded by largest remainder, and only the
        order is random.
        """
        if not exact:
            return self._rows(rng.choice(len(self.n_cells), size=n, p=self.n_cells / self.n_trained))
        # In integers, so that n = n_trained returns the training composition to the cell.
        counts, remainders = np.divmod(n * self.n_cells, self.n_trained)
        counts[np.argsort(-remainders, kind="stable")[: n - counts.sum()]] += 1
        return self._rows(rng.permutation(np.repeat(np.arange(len(counts)), counts)))

    def _rows(self, drawn: np.ndarray) -> Plan:
        return Plan(self.combinations[drawn], self.values[drawn])

    @cached_property
    def largest(self) -> np.ndarray:
        """Code of the category with the most trained cells, of each key, shape ``(n_categorical,)``."""
        return np.array([np.bincount(column, self.n_cells).argmax() for column in self.combinations.T], dtype=np.int64)

    @cached_property
    def standard_deviations(self) -> np.ndarray:
        """Standard deviation of each continuous condition over the trained cells, shape ``(n_continuous,)``."""
        shares = self.n_cells[:, None] / self.n_trained
        return np.sqrt((shares * (self.values - (shares * self.values).sum(0)) ** 2).sum(0))

    def value(self, key: str, number: Any) -> float:
        """Return the value of a continuous condition as users may write it; NaN (left to the model) for None and NaN."""
        if pd.api.types.is_scalar(number) and pd.isna(number):
            return np.nan
        try:
            value = float(number)
        except (TypeError, ValueError):
            value = np.inf
        if not np.isfinite(value):
            raise ValueError(
                f"{key!r} is continuous and needs a finite number, e.g. {self._example(key)}; got {number!r}."
            )
        return value

    def _example(self, key: str) -> float:
        return float(np.median(self.values[:, self.continuous.index(key)]))

    def code(self, key: str, category: Any) -> int:
        """Return the code of a category as users may write it; -1 (left to the model) for None and NaN."""
        if pd.api.types.is_scalar(category) and pd.isna(category):
            return LEFT_TO_MODEL
        for spelling in _spellings(category):
            if spelling in self._codes[key]:
                return self._codes[key][spelling]
        raise ValueError(f"{key!r} has no category {category!r}.{did_you_mean(category, self.categories[key])}")

    def is_category(self, key: str, value: Any) -> bool:
        """Whether a value names a category of a key, as users may write it."""
        return any(spelling in self._codes[key] for spelling in _spellings(value))

    @cached_property
    def _codes(self) -> dict[str, dict[str, int]]:
        return {key: {name: code for code, name in enumerate(names)} for key, names in self.categories.items()}


def ranks_of(values: np.ndarray) -> np.ndarray:
    """Return the rank of every value among the distinct ones of its column, NaN being one of them."""
    columns = [np.unique(column, return_inverse=True)[1] for column in values.T]
    return np.column_stack(columns) if columns else np.empty(values.shape, dtype=np.int64)


def unique_rows(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return where each distinct row first stands, which of them every row is, and how often each occurs."""
    ids = np.zeros(len(codes), dtype=np.int64)
    # One number per row sorts faster than np.unique(axis=0); renumbering at every key keeps it small.
    for column in codes.T:
        ids = np.unique(ids * (column.max() + 2) + column + 1, return_inverse=True)[1]
    _, first, ids, counts = np.unique(ids, return_index=True, return_inverse=True, return_counts=True)
    return first, ids, counts


def are_among(codes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return which rows agree with a known one in all that they do not leave to the model, shape ``(n_rows,)``."""
    agree = np.zeros(len(codes), dtype=bool)
    is_asked = codes >= 0
    first, which, _ = unique_rows(is_asked)
    for number, asked in enumerate(is_asked[first]):
        rows = np.flatnonzero(which == number)
        ids = unique_rows(np.concatenate([known, codes[rows]])[:, asked])[1]
        agree[rows] = np.isin(ids[len(known) :], ids[: len(known)])
    return agree


def _spellings(category: Any) -> Iterator[str]:
    """How a value may be called in training: a gap turns a column of 101 into 101.0, for instance."""
    yield str(category)
    if is_whole(category):
        yield str(int(category))
        yield str(float(category))


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of any numeric type, and not a boolean."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    return is_number and float(value).is_integer()
