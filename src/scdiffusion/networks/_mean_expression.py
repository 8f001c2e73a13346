"""Conditions as SCLD's pre-guidance sees them: a category is the mean expression of its cells."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ._conditions import condition_encoders

# Code of "like the profile that is given", beside -1, "left to the model": the last rows of the table of profiles.
AS_GIVEN = -2


@condition_encoders.register("mean_expression")
class MeanExpressionConditions(nn.Module):
    """Each category is the mean expression of its training cells, embedded by a small MLP per condition key.

    What is left to the model is the mean of all cells, SCLD's global condition. Profiles are centred on that mean and
    scaled, by one number, to a mean square of one; vectors are summed over the condition keys. As a category is no more
    than its profile, profiles of categories that were never trained on can be asked for (:meth:`given`).

    Parameters
    ----------
    n_categories
        Number of categories of each condition key; may be empty.
    n_hidden
        Length of the vectors.
    n_genes
        Number of genes.
    project_profiles
        Whether the MLP sees profiles by their coordinates among the training profiles' principal components, as many
        as there are categories, instead of gene by gene. Training profiles lose nothing by it. Of a new profile, what
        no training profile could teach the network to read is left out, instead of going through weights that are
        still random there.

    References
    ----------
    Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model*, arXiv 2312.14220, Eq. 8.

    Examples
    --------
    >>> import torch
    >>> encoder = MeanExpressionConditions([3], n_hidden=16, n_genes=50)
    >>> encoder.set_profiles([torch.rand(3, 50)], overall=torch.rand(50))
    >>> encoder(torch.tensor([[0], [2], [-1]])).shape
    torch.Size([3, 16])
    """

    def __init__(
        self, n_categories: Sequence[int], n_hidden: int = 256, n_genes: int = 1, project_profiles: bool = True
    ) -> None:
        super().__init__()
        self.n_hidden = n_hidden
        n_inputs = min(sum(n_categories), n_genes) if project_profiles else n_genes
        self.register_buffer("overall", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("components", torch.zeros(n_inputs, n_genes) if project_profiles else None)
        for i, n in enumerate(n_categories):
            self.register_buffer(f"profiles_{i}", torch.zeros(n, n_inputs))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(n_inputs, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden)) for _ in n_categories
        )
        self._given: dict[int, Tensor] = {}

    @torch.no_grad()
    def set_profiles(self, profiles: Sequence[Tensor], overall: Tensor) -> None:
        """Set what the categories are.

        Parameters
        ----------
        profiles
            Mean log-normalised expression of each category, `(n_categories, n_genes)`, one tensor per condition key.
        overall
            Mean log-normalised expression of all cells, `(n_genes,)`.
        """
        self.overall.copy_(overall)
        self.scale.fill_(1.0)
        if not profiles:
            return
        centred = torch.cat(list(profiles)) - overall
        if self.components is not None:
            self.components.copy_(torch.linalg.svd(centred, full_matrices=False).Vh[: len(self.components)])
        self.scale.copy_(self.inputs_of(torch.cat(list(profiles))).square().mean().sqrt().clamp(min=1e-6))
        for i, rows in enumerate(profiles):
            getattr(self, f"profiles_{i}").copy_(self.inputs_of(rows))

    def inputs_of(self, profiles: Tensor) -> Tensor:
        """What the MLP sees of profiles, `(n_profiles, n_genes)`."""
        centred = profiles - self.overall
        return (centred if self.components is None else centred @ self.components.T) / self.scale

    @contextmanager
    def given(self, profiles: Mapping[int, Tensor]) -> Iterator[None]:
        """Let the code -2 stand for a profile, `(n_genes,)`, by the position of the condition key."""
        self._given = {key: self.inputs_of(profile[None]) for key, profile in profiles.items()}
        try:
            yield
        finally:
            self._given = {}

    def forward(self, codes: Tensor) -> Tensor:
        """Embed codes, `(n_cells, n_keys)`, -1 for what is left to the model, as `(n_cells, n_hidden)`."""
        total = torch.zeros(len(codes), self.n_hidden, device=codes.device)
        for i, (column, layers) in enumerate(zip(codes.T, self.layers, strict=True)):
            categories = getattr(self, f"profiles_{i}")
            overall = torch.zeros_like(categories[:1])
            table = layers(torch.cat([categories, self._given.get(i, overall), overall]))
            total = total + table[column]
        return total
