"""Post-guidance: more cells are drawn than are asked for, and those that look most real are kept."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from scdiffusion.diffusion import Selection, selections
from scdiffusion.model._composition import Plan

#: Says that all cells are to be kept, where None leaves it to the preset.
KEEP_ALL = "none"


@dataclass(frozen=True)
class Cut:
    """How many candidates are drawn for the cells that are asked for, and which of them are kept.

    Parameters
    ----------
    keep_top
        Share of the candidates to keep.
    selection
        Which to keep.
    per_condition
        Whether cells compete with those of the same conditions only.
    """

    keep_top: float
    selection: Selection
    per_condition: bool

    def candidates(self, group: Tensor, generator: torch.Generator) -> Tensor:
        """For which row each candidate is drawn.

        Parameters
        ----------
        group
            Number of the group of each row, `(n_rows,)`; candidates compete within it.
        generator
            Source of randomness on the CPU.

        Returns
        -------
        Sorted rows, `(n_candidates,)`: each as often as any other of its group, or once more.
        """
        candidates = []
        for rows in _members(group):
            # 7 / 0.7 must be 10, whatever floating point makes of it.
            again, once_more = divmod(math.ceil(len(rows) / self.keep_top - 1e-9), len(rows))
            candidates += [rows.repeat(again), rows[torch.randperm(len(rows), generator=generator)[:once_more]]]
        return torch.cat(candidates).sort().values

    def keep(self, log_ratio: Tensor, asked: Tensor, group: Tensor, generator: torch.Generator) -> Tensor:
        """Which candidate fills each row, `(n_rows,)`.

        Parameters
        ----------
        log_ratio
            Of the candidates, `(n_candidates,)`, as for :class:`~scdiffusion.diffusion.Selection`.
        asked
            As :meth:`candidates` returned it.
        group, generator
            As for :meth:`candidates`.
        """
        kept = torch.empty_like(group)
        for rows, candidates in zip(_members(group), _members(group[asked]), strict=True):
            kept[rows] = candidates[self.selection.select(log_ratio[candidates], len(rows), generator)]
        return kept


def _members(group: Tensor) -> tuple[Tensor, ...]:
    """Where each of the groups, numbered from 0, has its members."""
    return group.argsort(stable=True).split(group.bincount().tolist())


def read_keep_top(keep_top: float | str, selection: str | Selection = "rank", per_condition: bool = True) -> Cut | None:
    """Read and check what `generate` is told of selection; None keeps all cells.

    Raises
    ------
    ValueError
        If `keep_top` is out of range, the selection does not exist, or there is one without `keep_top`.
    """
    if isinstance(keep_top, str) and keep_top == KEEP_ALL:
        if selection != "rank" or not per_condition:
            raise ValueError("To select cells, say which share of them to keep: keep_top=0.8.")
        return None
    if isinstance(keep_top, bool) or not isinstance(keep_top, numbers.Real) or not 0 < keep_top <= 1:
        raise ValueError(
            f"keep_top must be a share of the cells, above 0 and at most 1, e.g. 0.8, or {KEEP_ALL!r} to keep all "
            f"without scoring them; got {keep_top!r}."
        )
    return Cut(float(keep_top), selections.resolve(selection), bool(per_condition))


def selection_provenance(
    cut: Cut | None, plan: Plan, drawn: Plan, n_candidates: int, categories: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What `uns` says of selection.

    Parameters
    ----------
    cut
        How cells were selected; None for not at all.
    plan, drawn
        What was asked for, and what the cells are that were kept.
    n_candidates
        Number of cells that these were selected from.
    categories
        Categories of each condition key.
    """
    if cut is None:
        return {}
    provenance = {
        "keep_top": cut.keep_top,
        "selection": type(cut.selection).__name__,
        "select_per_condition": cut.per_condition,
        "kept_fraction": len(drawn.codes) / n_candidates,
    }
    if not cut.per_condition:
        provenance["shares"] = {
            key: pd.DataFrame(
                {"asked": _shares(asked, len(names)), "kept": _shares(kept, len(names))},
                index=pd.Index(names, name=key),
            )
            for (key, names), asked, kept in zip(categories.items(), plan.codes.T, drawn.codes.T, strict=True)
            if (asked >= 0).any()
        }
    return provenance


def joined_provenance(parts: Sequence[Mapping[str, Any]], n_cells: Sequence[int]) -> dict[str, Any]:
    """What `uns` says of cells that were drawn in parts, from what it says of each, and their numbers of cells."""
    joined, n_cells = dict(parts[0]), np.asarray(n_cells)
    if "kept_fraction" in joined:
        joined["kept_fraction"] = float(n_cells.sum() / (n_cells / [part["kept_fraction"] for part in parts]).sum())
    if "shares" in joined:
        weights = n_cells / n_cells.sum()
        joined["shares"] = {
            key: sum(part["shares"][key] * weight for part, weight in zip(parts, weights, strict=True))
            for key in joined["shares"]
        }
    return joined


def _shares(codes: np.ndarray, n_categories: int) -> np.ndarray:
    """Share of each category among the cells that do not leave it to the model."""
    n_cells = np.bincount(codes[codes >= 0], minlength=n_categories)
    return n_cells / max(n_cells.sum(), 1)
