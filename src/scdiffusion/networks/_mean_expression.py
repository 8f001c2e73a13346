"""Conditions as SCLD's pre-guidance sees them: a category is the mean expression of its cells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ._condition_encoders import ConditionEncoder, condition_encoders


@condition_encoders.register("mean_expression")
class MeanExpressionConditions(ConditionEncoder):
    """Each category is the mean expression of its training cells, embedded by a small MLP per condition key.

    What is left to the model is the mean of all cells, SCLD's global condition. Profiles are centred on that mean and
    scaled, by one number, to a mean square of one; vectors are summed over the condition keys. As a category is no more
    than its profile, profiles of categories that were never trained on can be asked for (`profiles` of
    :class:`Conditions`). Continuous keys have a learned curve of vectors each.

    Parameters
    ----------
    n_categories
        Number of categories of each categorical key; may be empty.
    n_hidden
        Length of the vectors.
    n_continuous
        Number of continuous keys.
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
    >>> from scdiffusion.networks import Conditions
    >>> encoder = MeanExpressionConditions([3], n_hidden=16, n_genes=50)
    >>> encoder.set_profiles([torch.rand(3, 50)], overall=torch.rand(50))
    >>> codes = torch.tensor([[0], [2], [-1], [-2]])  # the last is to be like the profile of key 0
    >>> encoder(Conditions(codes, profiles={0: torch.rand(50)})).shape
    torch.Size([4, 16])
    """

    reads_profiles = True

    def __init__(
        self,
        n_categories: Sequence[int],
        n_hidden: int = 256,
        n_continuous: int = 0,
        n_genes: int = 1,
        project_profiles: bool = True,
    ) -> None:
        super().__init__(n_hidden, n_continuous)
        n_inputs = min(sum(n_categories), n_genes) if project_profiles else n_genes
        self.register_buffer("overall", torch.zeros(n_genes))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("components", torch.zeros(n_inputs, n_genes) if project_profiles else None)
        for i, n in enumerate(n_categories):
            self.register_buffer(f"profiles_{i}", torch.zeros(n, n_inputs))
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(n_inputs, n_hidden), nn.SiLU(), nn.Linear(n_hidden, n_hidden)) for _ in n_categories
        )

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

    def of_categories(self, conditions):
        """Vectors of each categorical key, `(n_cells, n_hidden)`."""
        for i, (column, layers) in enumerate(zip(conditions.codes.T, self.layers, strict=True)):
            categories = getattr(self, f"profiles_{i}")
            overall = torch.zeros_like(categories[:1])
            given = self.inputs_of(conditions.profiles[i][None]) if i in conditions.profiles else overall
            # The codes -2, as given, and -1, left to the model, count from the end.
            yield layers(torch.cat([categories, given, overall]))[column]
