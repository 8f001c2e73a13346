"""Condition encoders: one vector per cell of its conditions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from scdiffusion._registry import Registry

from ._conditions import Between, Conditions

condition_encoders = Registry("condition encoder")


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


class ConditionEncoder(nn.Module, ABC):
    """Sums one vector per condition key: of a continuous key by a learned curve, of a category as a subclass says.

    A subclass is made with `n_categories`, `n_hidden`, `n_continuous` and `n_genes`.

    Attributes
    ----------
    n_hidden
        Length of the vectors.
    sees_conditions
        Whether the vectors tell conditions apart. Where they do not, only classifiers can bring conditions in.
    reads_profiles
        Whether an expression profile may be given in place of a category.
    """

    sees_conditions: bool = True
    reads_profiles: bool = False

    def __init__(self, n_hidden: int, n_continuous: int) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.curves = nn.ModuleList(NumberEmbedding(n_hidden) for _ in range(n_continuous))

    @abstractmethod
    def of_categories(self, conditions: Conditions) -> Iterable[Tensor]:
        """Vectors of each categorical key, `(n_cells, n_hidden)`."""

    def forward(self, conditions: Conditions) -> Tensor:
        """Embed conditions as `(n_cells, n_hidden)`."""
        if isinstance(conditions, Between):
            return torch.lerp(self(conditions.source), self(conditions.target), conditions.weight)
        total = torch.zeros(len(conditions), self.n_hidden, device=conditions.device)
        for vectors in self.of_categories(conditions):
            total = total + vectors
        for column, curve in zip(conditions.values.T, self.curves, strict=True):
            total = total + curve(column)
        return total


@condition_encoders.register("embedding")
class EmbeddingConditions(ConditionEncoder):
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
    n_genes
        Ignored; so that all condition encoders are made alike.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.networks import Conditions
    >>> encoder = EmbeddingConditions([3, 2], n_hidden=16)
    >>> encoder(Conditions(torch.tensor([[0, 1], [2, -1]]))).shape
    torch.Size([2, 16])
    """

    def __init__(
        self, n_categories: Sequence[int], n_hidden: int = 256, n_continuous: int = 0, n_genes: int | None = None
    ) -> None:
        super().__init__(n_hidden, n_continuous)
        self.embeddings = nn.ModuleList(nn.Embedding(n + 1, n_hidden) for n in n_categories)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.5)

    def of_categories(self, conditions):
        """Vectors of each categorical key, `(n_cells, n_hidden)`."""
        for column, embedding in zip(conditions.codes.T, self.embeddings, strict=True):
            yield embedding(torch.where(column < 0, embedding.num_embeddings - 1, column))


@condition_encoders.register("none")
class NoConditions(ConditionEncoder):
    """Keeps conditions from the denoiser, which is then unconditional: a zero vector for every cell.

    Conditions come in by classifiers alone, as in scDiffusion. Parameters are those of :class:`EmbeddingConditions`.

    Examples
    --------
    >>> import torch
    >>> from scdiffusion.networks import Conditions
    >>> bool(NoConditions([3], n_hidden=16)(Conditions(torch.tensor([[0], [2]]))).any())
    False
    """

    sees_conditions = False

    def __init__(
        self, n_categories: Sequence[int], n_hidden: int = 256, n_continuous: int = 0, n_genes: int | None = None
    ) -> None:
        super().__init__(n_hidden, n_continuous=0)

    def of_categories(self, conditions):
        """Nothing."""
        return ()

    def forward(self, conditions):
        """Zeros, `(n_cells, n_hidden)`."""
        return torch.zeros(len(conditions), self.n_hidden, device=conditions.device)
