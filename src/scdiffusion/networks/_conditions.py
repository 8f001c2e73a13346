"""Conditions of cells: what each is, or is to be."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

#: Codes of no category: the model chooses; the cell is to be like the profile of its condition key.
LEFT_TO_MODEL, AS_GIVEN = -1, -2


class Conditions:
    """What each cell is, or is to be: categories and numbers, any of which may be left to the model. Immutable.

    A condition key is addressed by its position: first the categorical ones, in the order of the columns of `codes`,
    then the continuous ones, in the order of the columns of `values`.

    Parameters
    ----------
    codes
        Category codes, `(n_cells, n_categorical)`; -1 where left to the model, -2 where the cell is to be like the
        profile of the key.
    values
        Values of continuous conditions, standardised over the training cells, `(n_cells, n_continuous)`; NaN where
        left to the model. None where there are no continuous conditions.
    profiles
        By position of a categorical key: mean log-normalised expression, `(n_genes,)`, given in place of a category.
        Only some condition encoders can read it (:class:`MeanExpressionConditions`).
    groups
        Which cells share their conditions, as :meth:`grouped` finds.

    Examples
    --------
    >>> import torch
    >>> conditions = Conditions(torch.tensor([[2, 0], [1, -1]]), torch.tensor([[0.5], [-1.2]]))
    >>> conditions.asked
    tensor([[ True,  True,  True],
            [ True, False,  True]])
    >>> conditions.without(0, 2).asked
    tensor([[False,  True, False],
            [False, False, False]])
    """

    def __init__(
        self,
        codes: Tensor,
        values: Tensor | None = None,
        profiles: Mapping[int, Tensor] | None = None,
        groups: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.codes = codes
        self.values = torch.empty((len(codes), 0), device=codes.device) if values is None else values
        self.profiles = dict(profiles or {})
        self.groups = groups

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, cells: slice | Tensor) -> Conditions:
        """The conditions of some of the cells."""
        return Conditions(self.codes[cells], self.values[cells], self.profiles)

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        profiles = {key: profile.to(device) for key, profile in self.profiles.items()}
        return Conditions(self.codes.to(device), self.values.to(device), profiles)

    def grouped(self) -> Conditions:
        """The same conditions, with `groups`, so that a network need not compute the same for each cell of a group.

        These are the row of one cell of each group, `(n_groups,)`, and the group of each cell, `(n_cells,)`; None where
        most cells have conditions of their own. Cells of a group must be at the same timestep.
        """
        columns = [self.codes.double(), self.values.double().nan_to_num(nan=torch.inf)]
        constant = torch.zeros((len(self), 1), device=self.device)  # there may be no condition at all
        distinct, group = torch.unique(torch.cat([constant, *columns], 1), dim=0, return_inverse=True)
        if 2 * len(distinct) > len(self):
            return self
        row = torch.empty(len(distinct), dtype=torch.long, device=self.device)
        row[group] = torch.arange(len(self), device=self.device)
        return Conditions(self.codes, self.values, self.profiles, (row, group))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    @property
    def asked(self) -> Tensor:
        """Which conditions are not left to the model, `(n_cells, n_keys)`."""
        return torch.cat([self.codes != LEFT_TO_MODEL, ~self.values.isnan()], 1)

    def column(self, key: int) -> Tensor:
        """Codes or values of one key, `(n_cells,)`."""
        n_categorical = self.codes.shape[1]
        return self.codes[:, key] if key < n_categorical else self.values[:, key - n_categorical]

    def without(self, *keys: int) -> Conditions:
        """The same conditions with some keys left to the model."""
        if not keys:
            return self
        hidden = torch.zeros_like(self.asked)
        for key in keys:  # a list as index would be copied to the device at each step of sampling
            hidden[:, key] = True
        return self._masked(hidden)

    def dropped(self, rate: float) -> Conditions:
        """The same conditions with each left to the model with probability `rate`, each key of each cell on its own.

        Dropping keys on their own teaches every subset of conditions to one network, the empty one included
        :cite:p:`Ho2022`; with one key it is the usual classifier-free training.
        """
        asked = self.asked
        return self._masked(torch.rand(asked.shape, device=asked.device) < rate)

    def _masked(self, hidden: Tensor) -> Conditions:
        n_categorical = self.codes.shape[1]
        return Conditions(
            self.codes.masked_fill(hidden[:, :n_categorical], LEFT_TO_MODEL),
            self.values.masked_fill(hidden[:, n_categorical:], torch.nan),
            self.profiles,
            self.groups,
        )


class Between(Conditions):
    """Conditions on the way from one to another: numbers are interpolated, and of categories their vectors.

    Parameters
    ----------
    source, target
        Conditions of the same cells.
    weight
        0 at the source, 1 at the target.

    Examples
    --------
    >>> import torch
    >>> ends = [Conditions(torch.tensor([[code]]), torch.tensor([[value]])) for code, value in ((0, 1.0), (2, 5.0))]
    >>> Between(*ends, 0.25).values
    tensor([[2.]])
    """

    def __init__(self, source: Conditions, target: Conditions, weight: float) -> None:
        super().__init__(source.codes, torch.lerp(source.values, target.values, weight))
        self.target_codes, self.weight = target.codes, weight

    def __getitem__(self, cells: slice | Tensor) -> Between:
        """The conditions of some of the cells."""
        return Between(self.source[cells], self.target[cells], self.weight)

    def to(self, device: torch.device | str) -> Between:
        """The same conditions on another device."""
        return Between(self.source.to(device), self.target.to(device), self.weight)

    @property
    def source(self) -> Conditions:
        """Where the way begins, but for the numbers, which are those in between."""
        return Conditions(self.codes, self.values)

    @property
    def target(self) -> Conditions:
        """Where the way ends, but for the numbers, which are those in between."""
        return Conditions(self.target_codes, self.values)

    def grouped(self) -> Between:
        """Without groups, since there are two conditions to each cell."""
        return self

    def _masked(self, hidden: Tensor) -> Between:
        return Between(self.source._masked(hidden), self.target._masked(hidden), self.weight)
