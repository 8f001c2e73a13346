"""Minibatches: expression read from where it lies, latents from one tensor in memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import scipy.sparse as sp
import torch
import torch.distributed as dist
from torch import Tensor

from scdiffusion.networks import Conditions

from ._expression import Expression

# An epoch over more cells than this many batches is cut into several, so that validation comes often enough.
_MOST_BATCHES = 400
# An epoch over fewer cells is repeated, so that validation and logging cost little beside training.
_LEAST_BATCHES = 25
# Cells in memory at a time, which minibatches are mixed of.
_BUFFER = 2**15


class RandomLoader:
    """What loaders of random minibatches share: how many make an epoch, and which part is this process's.

    Parameters
    ----------
    batch_size
        Cells in a minibatch, of each process.
    rng
        Seed of the order, the same in all processes.

    Attributes
    ----------
    n_processes
        Number of processes that train together; :func:`fit_stage` sets it.
    """

    n_processes = 1

    def __init__(self, batch_size: int, rng: int) -> None:
        self.batch_size, self.rng = batch_size, rng

    def _n_batches(self, n_cells: int, least: int = 1) -> int:
        return min(max(-(-n_cells // (self.batch_size * self.n_processes)), least), _MOST_BATCHES)

    @property
    def _own(self) -> slice:
        """Which of the cells, or runs of cells, in the order that all processes share, are this process's."""
        return slice(dist.get_rank() if self.n_processes > 1 else 0, None, self.n_processes)


class ExpressionLoader(RandomLoader):
    """Dense minibatches of expression, with their batch codes, in random order.

    Each cell comes up once before any comes up twice. Cells that are slow to read apart are read in runs of consecutive
    ones, in random order, and minibatches are drawn from many runs at a time. The next minibatch is made while the
    last one is used.

    Parameters
    ----------
    expression
        Where to read.
    cells
        Which rows to use, sorted, `(n_cells,)`.
    batch
        Batch codes of all rows; None where there are no batches.
    batch_size, rng
        As for :class:`RandomLoader`.
    """

    def __init__(
        self, expression: Expression, cells: np.ndarray, batch: np.ndarray | None, batch_size: int, rng: int = 0
    ) -> None:
        super().__init__(batch_size, rng)
        self.expression, self.cells, self.batch = expression, cells, batch
        self._minibatches: Iterator[tuple[Tensor, Tensor | None]] | None = None

    def __len__(self) -> int:
        return self._n_batches(len(self.cells))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        if self._minibatches is None:
            self._minibatches = _ahead(self._draw())
        for _ in range(len(self)):
            yield next(self._minibatches)

    def _draw(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        rng = np.random.default_rng(self.rng)
        expression, cells = sp.csr_matrix((0, self.expression.shape[1]), dtype=np.float32), np.empty(0, dtype=np.int64)
        for read in self._read_cells(rng):
            # Cells left over from before come first, so that none comes up twice before they do.
            order = np.concatenate([np.arange(len(cells)), len(cells) + rng.permutation(len(read))])
            expression = sp.vstack([expression, self.expression.take(read)], format="csr")
            cells = np.concatenate([cells, read])
            n_whole = len(order) // self.batch_size * self.batch_size
            for rows in order[:n_whole].reshape(-1, self.batch_size):
                yield _dense(expression[rows], self.batch, cells[rows])
            expression, cells = expression[order[n_whole:]], cells[order[n_whole:]]

    def _read_cells(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Give the cells of this process, sorted, a buffer at a time, pass after pass."""
        # Few cells make shorter runs, for every process to have its share and for batches to be mixed of several.
        length = int(np.clip(len(self.cells) // (8 * self.n_processes), 1, self.expression.run_length))
        runs, run_of = np.unique(self.cells // length, return_inverse=True)
        while True:
            order = rng.permutation(len(runs))[self._own]
            for some in np.split(order, range(_BUFFER // length, len(order), _BUFFER // length)):
                yield self.cells[np.isin(run_of, some)]


class FixedExpression:
    """The same held-out cells in the same minibatches at every validation.

    Parameters
    ----------
    expression
        Where to read.
    cells
        Which rows to use, `(n_cells,)`.
    batch
        Batch codes of all rows; None where there are no batches.
    batch_size
        Cells in a minibatch.
    most
        At most so many cells, evenly spread, which are kept in memory.
    """

    def __init__(
        self, expression: Expression, cells: np.ndarray, batch: np.ndarray | None, batch_size: int, most: int = 10_000
    ) -> None:
        self.cells = cells[:: -(-len(cells) // most)]
        self.expression, self.batch, self.batch_size = expression.take(self.cells), batch, batch_size

    def __len__(self) -> int:
        return -(-len(self.cells) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        for start in range(0, len(self.cells), self.batch_size):
            rows = slice(start, start + self.batch_size)
            yield _dense(self.expression[rows], self.batch, self.cells[rows])


def _dense(expression: sp.csr_matrix, batch: np.ndarray | None, cells: np.ndarray) -> tuple[Tensor, Tensor | None]:
    return torch.from_numpy(expression.toarray()), None if batch is None else torch.from_numpy(batch[cells])


def _ahead(items: Iterator) -> Iterator:
    """The same endless items, each made in a thread while the one before is used."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(next, items)
        while True:
            item = upcoming.result()
            upcoming = thread.submit(next, items)
            yield item


class LatentLoader(RandomLoader):
    """Minibatches of standardised latents, drawn anew from each cell's posterior whenever the cell comes up.

    Parameters
    ----------
    mean, scale
        Mean and standard deviation of each cell's latents, `(n_cells, n_features)`.
    conditions
        Of the cells.
    batch_size, rng
        As for :class:`RandomLoader`.
    """

    def __init__(self, mean: Tensor, scale: Tensor, conditions: Conditions, batch_size: int, rng: int = 0) -> None:
        super().__init__(batch_size, rng)
        self.mean, self.scale, self.conditions = mean, scale, conditions
        self._order = np.random.default_rng(rng)
        self._pending = torch.empty(0, dtype=torch.long, device=mean.device)

    def to(self, device: torch.device | str) -> None:
        """Keep everything on another device, so that minibatches need no copying."""
        self.mean, self.scale, self._pending = (part.to(device) for part in (self.mean, self.scale, self._pending))
        self.conditions = self.conditions.to(device)

    def __len__(self) -> int:
        return self._n_batches(len(self.mean), least=_LEAST_BATCHES)

    def __iter__(self) -> Iterator[tuple[Tensor, Conditions]]:
        for _ in range(len(self)):
            while len(self._pending) < self.batch_size:
                order = torch.from_numpy(self._order.permutation(len(self.mean))[self._own])
                self._pending = torch.cat([self._pending, order.to(self.mean.device)])
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


class FixedLabelled:
    """Features of real cells, labelled 1, and of generated ones, labelled 0, all in one minibatch.

    Parameters
    ----------
    real, generated
        `(n_real, n_features)` and `(n_generated, n_features)`.
    """

    def __init__(self, real: Tensor, generated: Tensor) -> None:
        self.features = torch.cat([real, generated])
        self.is_real = torch.cat([torch.ones(len(real)), torch.zeros(len(generated))])

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.features, self.is_real


class LabelledLoader(RandomLoader):
    """The same in random minibatches, of which those of an epoch hold each cell once.

    Parameters
    ----------
    real, generated
        As for :class:`FixedLabelled`.
    batch_size, rng
        As for :class:`RandomLoader`.
    """

    def __init__(self, real: Tensor, generated: Tensor, batch_size: int, rng: int = 0) -> None:
        super().__init__(batch_size, rng)
        self.cells = FixedLabelled(real, generated)
        self._order = np.random.default_rng(rng)

    def __len__(self) -> int:
        return self._n_batches(len(self.cells.features))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.from_numpy(self._order.permutation(len(self.cells.features))[self._own])
        for chosen in order.split(self.batch_size)[: len(self)]:
            yield self.cells.features[chosen], self.cells.is_real[chosen]
