"""Likelihood of several modalities: each has its own, of its own columns and library size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ._base import COUNTS, Likelihood
from ._likelihoods import CountLikelihood, CountParameters


@dataclass
class JointParameters:
    """Parameters of every modality, in the order of the columns.

    Attributes
    ----------
    parts
        Of each modality, `(n_cells, n_features)`.
    """

    parts: tuple[CountParameters, ...]

    @property
    def mean(self) -> Tensor:
        """Expected counts, `(n_cells, n_genes)`, all modalities side by side."""
        return torch.cat([part.mean for part in self.parts], dim=1)

    def head(self, n_cells: int) -> JointParameters:
        """The parameters of the first cells."""
        return JointParameters(tuple(part.head(n_cells) for part in self.parts))


class JointLikelihood(Likelihood):
    """Counts of several modalities side by side, independent given the parameters.

    Parameters
    ----------
    likelihoods
        One for each modality.
    n_features
        Number of columns of each modality.
    has_library_size
        Whether the counts of each modality depend on a library size.
    """

    values, dtype = COUNTS, torch.int32

    def __init__(
        self, likelihoods: Sequence[CountLikelihood], n_features: Sequence[int], has_library_size: Sequence[bool]
    ) -> None:
        stops = torch.tensor([0, *n_features]).cumsum(0).tolist()
        columns = [slice(start, stop) for start, stop in zip(stops, stops[1:], strict=False)]
        self.members = tuple(zip(columns, likelihoods, strict=True))
        self._with_library = [part for part, has in zip(columns, has_library_size, strict=True) if has]
        self.has_library_size = any(has_library_size)
        self.has_dispersion = any(member.has_dispersion for member in likelihoods)
        self.has_zero_inflation = any(member.has_zero_inflation for member in likelihoods)
        self.has_background = any(member.has_background for member in likelihoods)

    @property
    def n_library(self) -> int:
        """Number of library sizes of a cell: one for each modality that has one."""
        return len(self._with_library)

    def library_size(self, expression: Tensor) -> Tensor:
        """Total counts of cells in each modality that has a library size, `(n_cells, n_library)`."""
        sizes = [expression[:, columns].sum(1, keepdim=True) for columns in self._with_library]
        return torch.cat([expression[:, :0], *sizes], dim=1)

    def split(self, p: CountParameters) -> JointParameters:
        """Parameters of all columns as those of each modality, without what its likelihood does not use."""
        return JointParameters(
            tuple(
                CountParameters(
                    p.log_rate[:, columns],
                    p.log_dispersion[:, columns] if member.has_dispersion else None,
                    p.zero_logits[:, columns] if member.has_zero_inflation else None,
                    p.log_background[:, columns] if member.has_background else None,
                )
                for columns, member in self.members
            )
        )

    def log_prob(self, rows: Tensor, columns: Tensor, values: Tensor, p: JointParameters) -> Tensor:
        """Log-likelihood of sparse counts, `(n_cells,)`."""
        total = torch.zeros(())
        for (own, member), part in zip(self.members, p.parts, strict=True):
            here = (columns >= own.start) & (columns < own.stop)
            total = total + member.log_prob(rows[here], columns[here] - own.start, values[here], part)
        return total

    def draw(self, p: JointParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw counts of all modalities, as sorted non-zero entries."""
        drawn = []
        for (own, member), part in zip(self.members, p.parts, strict=True):
            rows, columns, values = member.draw(part, generator)
            drawn.append((rows, columns + own.start, values))
        rows, columns, values = (torch.cat(entries) for entries in zip(*drawn, strict=True))
        order = rows.argsort(stable=True)  # columns are in order within each modality
        return rows[order], columns[order], values[order]
