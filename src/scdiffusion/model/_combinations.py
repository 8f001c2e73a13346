"""Where the cells of each combination of conditions lie in the latents, and how to get from one to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from scdiffusion.model._composition import Plan, are_among, unique_rows


class Detour(NamedTuple):
    """Trained combinations that differ from one that was never trained on in a single condition."""

    key: int
    """Position of that condition key."""
    codes: np.ndarray
    """Their codes of it, shape ``(n_detours,)``."""
    shifts: np.ndarray
    """From each to the combination that was never trained on, shape ``(n_detours, n_features)``."""
    n_cells: np.ndarray
    """Trained cells of each, shape ``(n_detours,)``."""


@dataclass(frozen=True, eq=False)
class CombinationMeans:
    """Means of the training cells of every combination of categories, among the features that the diffusion sees."""

    codes: np.ndarray
    """Codes of the combinations, shape ``(n_combinations, n_keys)``."""
    n_cells: np.ndarray
    """Cells of each, shape ``(n_combinations,)``."""
    means: np.ndarray
    """Mean features of each, shape ``(n_combinations, n_features)``."""
    variance: float
    """Mean squared distance of cells to the mean of their combination."""

    @classmethod
    def from_cells(cls, codes: np.ndarray, features: Tensor) -> CombinationMeans:
        """Take the means of cells, from their codes ``(n_cells, n_keys)`` and features ``(n_cells, n_features)``."""
        first, ids, n_cells = unique_rows(codes)
        member = sp.csr_matrix((1 / n_cells[ids], (ids, np.arange(len(ids)))))
        means = member @ features.double().cpu().numpy()
        variance = float(((features.cpu().numpy() - means[ids]) ** 2).sum(1).mean())
        return cls(codes[first], n_cells, means, variance)

    def to_dict(self) -> dict[str, Any]:
        """Return the means as arrays and numbers, for a saved model."""
        return asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> CombinationMeans:
        """Rebuild the means that :meth:`to_dict` wrote."""
        return cls(**settings)

    def shift(self, source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
        r"""What changes cells of one combination into another, estimated from all that differ in the same way.

        .. math:: \frac{\sum_p w_p (\mu_{q(p)} - \mu_p)}{\sum_p w_p}, \qquad
            w_p = \Bigl[\lVert \mu_p - \mu_s \rVert^2 + v \Bigl(\tfrac1{n_p} + \tfrac1{n_{q(p)}}\Bigr)\Bigr]^{-1}

        over trained combinations :math:`p` that have the source's categories where source and target differ, and a
        trained partner :math:`q(p)` with those of the target. :math:`v` is the variance within combinations, so that
        many cells count more, and so do cells near the source :math:`s`; the target itself, if it was trained on, is
        the partner that counts most.

        Parameters
        ----------
        source, target
            Codes, shape ``(n_keys,)``; -1 is any. What the target leaves open stays as it is.

        Returns
        -------
        What to add to the features, shape ``(n_features,)``; None if there is no such combination.
        """
        changed = (target >= 0) & (source != target)
        starts = np.flatnonzero((self.codes[:, changed] == source[changed]).all(1))
        partners = self.codes[starts].copy()
        partners[:, changed] = target[changed]
        ends = np.array([self._rows.get(tuple(partner), -1) for partner in partners.tolist()], dtype=np.int64)
        starts, ends = starts[ends >= 0], ends[ends >= 0]
        if not len(starts):
            return None
        uncertainty = self.variance * (1 / self.n_cells[starts] + 1 / self.n_cells[ends])
        here = ((self.codes == source) | (source < 0)).all(1)
        if here.any():
            mean = np.average(self.means[here], axis=0, weights=self.n_cells[here])
            uncertainty = uncertainty + ((self.means[starts] - mean) ** 2).sum(1)
        return np.average(self.means[ends] - self.means[starts], axis=0, weights=1 / uncertainty.clip(1e-12))

    def approach(self, key: int, features: np.ndarray) -> tuple[int, np.ndarray]:
        r"""The trained category nearest to some cells, and what takes its cells to theirs.

        The difference of means is shrunk by :math:`1 - v / (n \lVert d \rVert^2)`, for :math:`n` cells and variance
        :math:`v` within combinations, as much of it as is expected by chance (James & Stein, 1961).

        Parameters
        ----------
        key
            Position of the condition key.
        features
            Of the cells, shape ``(n_cells, n_features)``.

        Returns
        -------
        Code of the category, and what to add to the features, shape ``(n_features,)``.
        """
        codes = np.unique(self.codes[:, key])
        rows = [self.codes[:, key] == code for code in codes]
        means = np.stack([np.average(self.means[row], axis=0, weights=self.n_cells[row]) for row in rows])
        differences = features.mean(0) - means
        lengths = (differences**2).sum(1)
        nearest = int(np.argmin(lengths + [self.variance / self.n_cells[row].sum() for row in rows]))
        by_chance = self.variance / len(features) / max(lengths[nearest], 1e-12)
        return int(codes[nearest]), max(0.0, 1 - by_chance) * differences[nearest]

    def detour(self, target: np.ndarray) -> Detour | None:
        """The trained combinations from which it is not far to one that was never trained on.

        Of the conditions that may differ, it is the one whose change moves cells the least.

        Parameters
        ----------
        target
            Codes, shape ``(n_keys,)``; -1 is left to the model.

        Returns
        -------
        None if no trained combination that differs in one condition can be shifted.
        """
        detours = [detour for key in np.flatnonzero(target >= 0) if (detour := self._detour(target, key))]
        lengths = [np.average(np.linalg.norm(way.shifts, axis=1), weights=way.n_cells) for way in detours]
        return detours[int(np.argmin(lengths))] if detours else None

    def _detour(self, target: np.ndarray, key: int) -> Detour | None:
        others = target.copy()
        others[key] = -1
        ways = {}
        for row in np.flatnonzero(((self.codes == others) | (others < 0)).all(1)):
            source = others.copy()
            source[key] = self.codes[row, key]
            code = int(source[key])
            if code not in ways:
                ways[code] = [self.shift(source, target), 0]
            ways[code][1] += self.n_cells[row]
        ways = {code: way for code, way in ways.items() if way[0] is not None}
        if not ways:
            return None
        shifts, n_cells = zip(*ways.values(), strict=True)
        return Detour(key, np.array(list(ways)), np.stack(shifts), np.array(n_cells))

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(codes): row for row, codes in enumerate(self.codes.tolist())}


def start_from_trained(plan: Plan, means: CombinationMeans, rng: np.random.Generator) -> tuple[Plan, np.ndarray | None]:
    """Replace combinations that were never trained on by trained ones, in proportion to their cells.

    Parameters
    ----------
    plan
        What cells are to be; left as it is.
    means
        What combinations were trained on, and where they are.
    rng
        Draws the trained combinations.

    Returns
    -------
    What cells are to be drawn as, and by what to shift their features then, shape ``(n_cells, n_features)``, None if
    there is nothing to shift.
    """
    n_keys = means.codes.shape[1]
    codes, shifts = plan.codes.copy(), None
    first, group, _ = unique_rows(plan.codes[:, :n_keys])
    rows = plan.codes[first, :n_keys]
    for which in np.flatnonzero(~are_among(rows, means.codes)):
        if (detour := means.detour(rows[which])) is None:
            continue
        shifts = np.zeros((len(codes), means.means.shape[1])) if shifts is None else shifts
        cells = np.flatnonzero(group == which)
        drawn = rng.choice(len(detour.codes), size=len(cells), p=detour.n_cells / detour.n_cells.sum())
        codes[cells, detour.key] = detour.codes[drawn]
        shifts[cells] = detour.shifts[drawn]
    return plan._replace(codes=codes), shifts
