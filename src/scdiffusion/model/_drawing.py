"""How `SCDiffusion` draws cells: chunk by chunk, through the diffusion to latents, and from these to expression."""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from tqdm.auto import tqdm

from scdiffusion.diffusion import Guide, Sampler
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
    library
        Expected total counts, `(n_cells,)`; by default drawn.
    origin
        Expression of cells to start from, `(n_cells, n_genes)`; by default pure noise.
    level
        Share of the process that the origin is noised to and denoised from.
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
    library: np.ndarray | None = None
    origin: sp.csr_matrix | None = None
    level: float = 1.0
    batch_size: int = 4096

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, numbers.Integral) or self.batch_size < 1:
            raise ValueError(f"batch_size must be a positive integer, not {self.batch_size!r}.")

    @property
    def chunks(self) -> list[slice]:
        """The cells that are drawn together."""
        n_cells = len(self.conditions)
        return [slice(i, min(i + self.batch_size, n_cells)) for i in range(0, n_cells, self.batch_size)]


class Drawn(NamedTuple):
    """A chunk of drawn cells: which ones, their latents `(n_chunk, n_latent)` and expression `(n_chunk, n_genes)`."""

    rows: slice
    latents: np.ndarray
    expression: sp.csr_matrix


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

        All chunks are drawn, or `only` those of some numbers.
        """
        chunks = list(zip(drawing.chunks, seed.spawn(len(drawing.chunks)), strict=True))
        chunks = chunks if only is None else [chunks[number] for number in only]
        n_cells = sum(rows.stop - rows.start for rows, _ in chunks)
        with tqdm(total=n_cells, desc=desc, unit=" cells", disable=not progress) as bar:
            for rows, chunk_seed in chunks:
                yield self._draw_chunk(drawing, rows, chunk_seed)
                bar.update(rows.stop - rows.start)

    def _draw_chunk(self, drawing: Drawing, rows: slice, seed: np.random.SeedSequence) -> Drawn:
        generator = torch.Generator(self.device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        conditions = drawing.conditions[rows].to(self.device)
        features = self.module.sample(
            conditions,
            drawing.sampler,
            drawing.n_steps,
            generator,
            drawing.guide,
            origin=None if drawing.origin is None else self._features(drawing.origin[rows], generator),
            level=drawing.level,
        )
        expression = self._draw_expression(
            features,
            conditions.codes[:, -1] if self.batch_key else None,
            generator,
            None if drawing.library is None else drawing.library[rows],
        )
        return Drawn(rows, self.module.split(features)[0].cpu().numpy(), expression)
