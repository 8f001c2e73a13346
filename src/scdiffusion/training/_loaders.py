"""Minibatches: expression straight from a sparse matrix, latents from one tensor in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion.networks import Conditions

# An epoch over more cells than this many batches is cut into several, so that validation comes often enough.
_MOST_BATCHES = 400
# An epoch over fewer cells is repeated, so that validation and logging cost little beside training.
_LEAST_BATCHES = 25


class ExpressionLoader:
    """Dense minibatches of expression from a CSR matrix, with their batch codes.

    Parameters
    ----------
    expression
        `(n_cells, n_genes)`.
    batch
        Batch codes, `(n_cells,)`; None where there are no batches.
    batch_size
        Cells in a minibatch.
    shuffle
        Whether each epoch goes through the cells in a new random order.
    """

    def __init__(self, expression: sp.csr_matrix, batch: np.ndarray | None, batch_size: int, *, shuffle: bool) -> None:
        self.expression, self.batch, self.batch_size, self.shuffle = expression, batch, batch_size, shuffle
        self._pending = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        n_batches = -(-self.expression.shape[0] // self.batch_size)
        return min(n_batches, _MOST_BATCHES) if self.shuffle else n_batches

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for step in range(len(self)):
            if self.shuffle:
                cells = self._next_random()
            else:
                start = step * self.batch_size
                cells = np.arange(start, min(start + self.batch_size, self.expression.shape[0]))
            x = torch.from_numpy(self.expression[cells].toarray())
            yield x, None if self.batch is None else torch.from_numpy(self.batch[cells])

    def _next_random(self) -> np.ndarray:
        """The next cells of an endless sequence of permutations, drawn from torch's generator."""
        while len(self._pending) < self.batch_size:
            self._pending = np.concatenate([self._pending, torch.randperm(self.expression.shape[0]).numpy()])
        cells, self._pending = self._pending[: self.batch_size], self._pending[self.batch_size :]
        return np.sort(cells)


class LatentLoader:
    """Minibatches of standardised latents, drawn anew from each cell's posterior whenever the cell comes up.

    Parameters
    ----------
    mean, scale
        Mean and standard deviation of each cell's latents, `(n_cells, n_features)`.
    conditions
        Of the cells.
    batch_size
        Cells in a minibatch.
    """

    def __init__(self, mean: Tensor, scale: Tensor, conditions: Conditions, batch_size: int) -> None:
        self.mean, self.scale, self.conditions, self.batch_size = mean, scale, conditions, batch_size
        self._pending = torch.empty(0, dtype=torch.long, device=mean.device)

    def __len__(self) -> int:
        return min(max(len(self.mean) // self.batch_size, _LEAST_BATCHES), _MOST_BATCHES)

    def __iter__(self) -> Iterator[tuple[Tensor, Conditions]]:
        for _ in range(len(self)):
            while len(self._pending) < self.batch_size:
                order = torch.randperm(len(self.mean), device=self.mean.device)
                self._pending = torch.cat([self._pending, order])
            cells, self._pending = self._pending[: self.batch_size], self._pending[self.batch_size :]
            mean = self.mean[cells]
            yield mean + self.scale[cells] * torch.randn_like(mean), self.conditions[cells]


class FixedLatents:
    """The same held-out latents, noise and timesteps at every validation, so that only the network changes the loss.

    Parameters
    ----------
    mean, scale, conditions
        As for :class:`LatentLoader`.
    n_timesteps
        Number of timesteps of the process; each cell gets evenly spread ones.
    least
        At least this many noised latents, repeating cells where there are fewer.
    """

    def __init__(
        self,
        mean: Tensor,
        scale: Tensor,
        conditions: Conditions,
        n_timesteps: int,
        least: int = 4096,
        most: int = 20_000,
    ) -> None:
        generator = torch.Generator(device=mean.device).manual_seed(0)
        cells = torch.arange(min(max(least, len(mean)), most), device=mean.device) % len(mean)

        def noise() -> Tensor:
            return torch.randn((len(cells), mean.shape[1]), generator=generator, device=mean.device)

        timesteps = torch.linspace(0, n_timesteps - 1, len(cells), device=mean.device).long()
        order = torch.randperm(len(cells), generator=generator, device=mean.device)
        self.tensors = (mean[cells] + scale[cells] * noise(), conditions[cells], noise(), timesteps[order])

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Conditions, Tensor, Tensor]]:
        yield self.tensors


class LabelledLoader:
    """Minibatches of features of real cells, labelled 1, and of generated ones, labelled 0.

    Parameters
    ----------
    real, generated
        `(n_real, n_features)` and `(n_generated, n_features)`.
    batch_size
        Cells in a minibatch; None for all cells in one, in their order, and else each epoch is in a new random order.
    """

    def __init__(self, real: Tensor, generated: Tensor, batch_size: int | None = None) -> None:
        self.features = torch.cat([real, generated])
        self.is_real = torch.cat([torch.ones(len(real)), torch.zeros(len(generated))]).to(real.device)
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.features) // (self.batch_size or len(self.features)))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.batch_size is None:
            yield self.features, self.is_real
            return
        for cells in torch.randperm(len(self.features), device=self.features.device).split(self.batch_size):
            yield self.features[cells], self.is_real[cells]
