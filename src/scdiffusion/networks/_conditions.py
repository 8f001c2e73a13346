"""Conditions of cells, and encoders that make one vector per cell of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scdiffusion._registry import Registry

condition_encoders = Registry("condition encoder")


class Conditions:
    """What each cell is, or is to be: categories and numbers, any of which may be left to the model. Immutable.

    A condition key is addressed by its position: first the categorical ones, in the order of the columns of `codes`,
    then the continuous ones, in the order of the columns of `values`.

    Parameters
    ----------
    codes
        Category codes, `(n_cells, n_categorical)`; -1 where left to the model.
    values
        Values of continuous conditions, standardised over the training cells, `(n_cells, n_continuous)`; NaN where
        left to the model. None where there are no continuous conditions.

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

    def __init__(self, codes: Tensor, values: Tensor | None = None) -> None:
        self.codes = codes
        self.values = torch.empty((len(codes), 0), device=codes.device) if values is None else values

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, cells: slice | Tensor) -> Conditions:
        """The conditions of some of the cells."""
        return Conditions(self.codes[cells], self.values[cells])

    def to(self, device: torch.device | str) -> Conditions:
        """The same conditions on another device."""
        return Conditions(self.codes.to(device), self.values.to(device))

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.codes.device

    @property
    def asked(self) -> Tensor:
        """Which conditions are not left to the model, `(n_cells, n_keys)`."""
        return torch.cat([self.codes >= 0, ~self.values.isnan()], 1)

    def column(self, key: int) -> Tensor:
        """Codes or values of one key, `(n_cells,)`."""
        n_categorical = self.codes.shape[1]
        return self.codes[:, key] if key < n_categorical else self.values[:, key - n_categorical]

    def without(self, *keys: int) -> Conditions:
        """The same conditions with some keys left to the model."""
        hidden = torch.zeros_like(self.asked)
        hidden[:, list(keys)] = True
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
            self.codes.masked_fill(hidden[:, :n_categorical], -1),
            self.values.masked_fill(hidden[:, n_categorical:], torch.nan),
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

    def encoded(self, encoder: nn.Module) -> Tensor:
        """What a condition encoder makes of them, `(n_cells, n_hidden)`."""
        return torch.lerp(encoder(self.source), encoder(self.target), self.weight)

    def _masked(self, hidden: Tensor) -> Between:
        return Between(self.source._masked(hidden), self.target._masked(hidden), self.weight)


class NumberEmbedding(nn.Module):
    """A small network from a number to a vector, so that numbers between those of training have one too.

    NaN, a number left to the model, has a learned vector of its own.
    """

    def __init__(self, n_hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden))
        self.missing = nn.Parameter(0.5 * torch.randn(n_hidden))

    def forward(self, value: Tensor) -> Tensor:
        """Embed numbers, `(n_cells,)`, as `(n_cells, n_hidden)`."""
        return torch.where(value.isnan()[:, None], self.missing, self.layers(value.nan_to_num()[:, None]))


@condition_encoders.register("embedding")
class EmbeddingConditions(nn.Module):
    """One learned vector per category, and a learned curve of vectors per continuous key, summed over the keys.

    Each key has one vector more, which stands for "left to the model": it is what the network learns from when a
    condition is dropped in training.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical key; may be empty.
    n_hidden
        Length of the vectors.
    n_continuous
        Number of continuous keys.

    Examples
    --------
    >>> import torch
    >>> encoder = EmbeddingConditions([3, 2], n_hidden=16)
    >>> encoder(Conditions(torch.tensor([[0, 1], [2, -1]]))).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_categories: Sequence[int], n_hidden: int, n_continuous: int = 0) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.embeddings = nn.ModuleList(nn.Embedding(n + 1, n_hidden) for n in n_categories)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.5)
        self.curves = nn.ModuleList(NumberEmbedding(n_hidden) for _ in range(n_continuous))

    def forward(self, conditions: Conditions) -> Tensor:
        """Embed conditions as `(n_cells, n_hidden)`."""
        if isinstance(conditions, Between):
            return conditions.encoded(self)
        total = torch.zeros(len(conditions), self.n_hidden, device=conditions.device)
        for column, embedding in zip(conditions.codes.T, self.embeddings, strict=True):
            total = total + embedding(torch.where(column < 0, embedding.num_embeddings - 1, column))
        for column, curve in zip(conditions.values.T, self.curves, strict=True):
            total = total + curve(column)
        return total
