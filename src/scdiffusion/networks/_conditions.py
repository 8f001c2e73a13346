"""Condition encoders: from category codes to one vector per cell."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from scdiffusion._registry import Registry

condition_encoders = Registry("condition encoder")


@condition_encoders.register("embedding")
class EmbeddingConditions(nn.Module):
    """One learned vector per category, summed over the condition keys.

    Each key has one vector more, which stands for "left to the model": it is what the network learns from when a
    condition is dropped in training.

    Parameters
    ----------
    n_categories
        Number of categories of each condition key; may be empty.
    n_hidden
        Length of the vectors.
    n_genes
        Ignored; so that all condition encoders are made alike.

    Examples
    --------
    >>> import torch
    >>> encoder = EmbeddingConditions([3, 2], n_hidden=16)
    >>> encoder(torch.tensor([[0, 1], [2, -1]])).shape
    torch.Size([2, 16])
    """

    def __init__(self, n_categories: Sequence[int], n_hidden: int = 256, n_genes: int | None = None) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        self.embeddings = nn.ModuleList(nn.Embedding(n + 1, n_hidden) for n in n_categories)
        for embedding in self.embeddings:
            nn.init.normal_(embedding.weight, std=0.5)

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes, `(n_cells, n_keys)`, -1 for what is left to the model, as `(n_cells, n_hidden)`."""
        total = torch.zeros(len(codes), self.n_hidden, device=codes.device)
        for column, embedding in zip(codes.T, self.embeddings, strict=True):
            total = total + embedding(torch.where(column < 0, embedding.num_embeddings - 1, column))
        return total


def drop_conditions(codes: Tensor, rate: float) -> Tensor:
    """Replace each code by -1 with probability `rate`, each condition key on its own.

    Dropping keys on their own teaches every subset of conditions to one network, the empty one included
    :cite:p:`Ho2022`; with one key it is the usual classifier-free training.
    """
    return codes.masked_fill(torch.rand(codes.shape, device=codes.device) < rate, -1)
