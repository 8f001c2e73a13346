"""How `SCDiffusion` draws cells: chunk by chunk, through the diffusion to latents, and from these to expression."""

from __future__ import annotations

import numbers
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
from tqdm.auto import tqdm

from scdiffusion.diffusion import Guide, Sampler
from scdiffusion.model._composition import ranks_of, unique_rows
from scdiffusion.model._selection import Cut
from scdiffusion.networks import Conditions


@dataclass(frozen=True)
class Drawing:
    """What is to be drawn, and how.

    Parameters
    ----------
    conditions
        Of the cells.
    sampler, n_steps, guide
        The reverse process.
    covariates
        What the decoder is told, as :class:`~scdiffusion.autoencoders.Autoencoder` takes it.
    library
        Expected total counts, `(n_cells, n_library)`, NaN where they are to be drawn; by default all are.
    origin
        Expression of cells to start from, `(n_cells, n_genes)`; by default pure noise.
    origin_covariates
        What the encoder is told of these.
    level
        Share of the process that the origin is noised to and denoised from.
    shift
        What to add to the features that are drawn, `(n_cells, n_features)`; by default nothing.
    log_factors
        Logarithms of what to multiply the genes' shares of the counts with, `(n_genes,)`; by default nothing.
    cut
        Which of the cells to keep; by default all. Not for cells with an origin.
    batch_size
        Cells in a chunk.

    Raises
    ------
    ValueError
        If `batch_size` is not a positive integer.
    """

    conditions: Conditions
    sampler: Sampler
    n_steps: int | None
    guide: Guide | None = None
    covariates: Tensor | None = None
    library: np.ndarray | None = None
    origin: sp.csr_matrix | None = None
    origin_covariates: Tensor | None = None
    level: float = 1.0
    shift: Tensor | None = None
    log_factors: Tensor | None = None
    cut: Cut | None = None
    batch_size: int = 4096

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, numbers.Integral) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, not {self.batch_size!r}.")

    @property
    def chunks(self) -> list[slice]:
        """The cells that are drawn together."""
        n_cells = len(self.conditions)
        return [slice(i, min(i + self.batch_size, n_cells)) for i in range(0, n_cells, self.batch_size)]

    def groups(self, rows: slice) -> Tensor:
        """Number of the group of each of some rows, within which candidates compete, `(n_rows,)`."""
        parts = self.conditions.codes, self.conditions.values, self.library, self.shift
        columns = np.column_stack([part[rows] for part in parts if part is not None])
        return torch.from_numpy(unique_rows(ranks_of(columns if self.cut.per_condition else columns[:, :0]))[1])


class Drawn(NamedTuple):
    """A chunk of drawn cells.

    Attributes
    ----------
    rows
        Which ones.
    asked
        Which row of the conditions each was drawn for, `(n_chunk,)`: its own, or one with the same conditions, or where
        cells of all conditions compete any other of the chunk.
    latents, expression
        `(n_chunk, n_latent)` and `(n_chunk, n_genes)`.
    log_ratio
        What they were selected by, `(n_chunk,)`; None where all are kept.
    n_candidates
        How many they were selected from.
    """

    rows: slice
    asked: np.ndarray
    latents: np.ndarray
    expression: sp.csr_matrix
    log_ratio: np.ndarray | None
    n_candidates: int


class DrawingMixin:
    """Drawing cells."""

    def _draw_cells(
        self,
        drawing: Drawing,
        seed: np.random.SeedSequence,
        desc: str,
        *,
        progress: bool,
        only: Sequence[int] | None = None,
    ) -> Iterator[Drawn]:
        """Draw chunk by chunk, each from its own child of the seed, so that none depends on what was drawn before.

        While the diffusion draws a chunk, a thread decodes and scores the one before. All chunks are drawn, or `only`
        those of some numbers.
        """
        chunks = list(zip(drawing.chunks, seed.spawn(len(drawing.chunks)), strict=True))
        chunks = chunks if only is None else [chunks[number] for number in only]
        n_cells = sum(rows.stop - rows.start for rows, _ in chunks)
        # The number of threads that torch computes with is a setting of each thread that calls it.
        worker = ThreadPoolExecutor(1, "scdiffusion", torch.set_num_threads, (torch.get_num_threads(),))
        pending: deque[Future[Drawn]] = deque()
        with tqdm(total=n_cells, desc=desc, unit=" cells", disable=not progress) as bar:

            def finished() -> Drawn:
                drawn = pending.popleft().result()
                bar.update(len(drawn.asked))
                return drawn

            try:
                for rows, chunk_seed in chunks:
                    pending.append(worker.submit(self._start_chunk(drawing, rows, chunk_seed)))
                    if len(pending) > 1:
                        yield finished()
                if pending:
                    yield finished()
            finally:
                worker.shutdown(cancel_futures=True)

    def _start_chunk(self, drawing: Drawing, rows: slice, seed: np.random.SeedSequence) -> Callable[[], Drawn]:
        """Draw features of a chunk of cells; what is returned draws their expression, and selects among them."""
        first, second = (int(word >> 1) for word in seed.generate_state(2, np.uint64))
        generator, selecting = torch.Generator(self.device).manual_seed(first), torch.Generator().manual_seed(second)
        cut, asked = drawing.cut, torch.arange(rows.stop - rows.start)  # from the first row of the chunk
        if cut is not None:
            group = drawing.groups(rows)
            asked = cut.candidates(group, selecting)
        conditions = drawing.conditions[rows][asked].to(self.device)

        def part(of_cells: Tensor | None) -> Tensor | None:
            return None if of_cells is None else of_cells[rows][asked].to(self.device)

        origin = None
        if drawing.origin is not None:
            origin = self._features(drawing.origin[rows], part(drawing.origin_covariates), generator)
        features = self.module.sample(
            conditions,
            drawing.sampler,
            drawing.n_steps,
            generator,
            drawing.guide,
            origin=origin,
            level=drawing.level,
        )
        if drawing.shift is not None:
            features = features + part(drawing.shift).to(features)

        def finish() -> Drawn:
            latents = self.module.split(features)[0].cpu().numpy()
            covariates = part(drawing.covariates)
            expression = self._draw_expression(
                features,
                covariates,
                generator,
                None if drawing.library is None else drawing.library[rows][asked],
                None if drawing.log_factors is None else drawing.log_factors.to(self.device),
            )
            drawn = Drawn(rows, rows.start + asked.numpy(), latents, expression, None, len(asked))
            if cut is None:
                return drawn
            log_ratio = self._log_ratio(expression, covariates, latents)
            kept = cut.keep(log_ratio, asked, group, selecting).numpy()
            return Drawn(rows, drawn.asked[kept], latents[kept], expression[kept], log_ratio.numpy()[kept], len(asked))

        return finish
