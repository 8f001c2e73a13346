"""How `SCDiffusion` draws cells: chunk by chunk, through the diffusion to latents, and from these to expression."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor
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
    covariates
        What the decoder is told, as :class:`~scdiffusion.autoencoders.Autoencoder` takes it.
    library
        Expected total counts, `(n_cells,)`; by default drawn.
    origin
        Expression of cells to start from, `(n_cells, n_genes)`; by default pure noise.
    origin_covariates
        What the encoder is told of these.
    level
        Share of the process that the origin is noised to and denoised from.
    shift
        What to add to the features that are drawn, `(n_cells, n_features)`; by default nothing.
    batch_size
        Cells in a chunk.
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
    batch_size: int = 4096


class Drawn(NamedTuple):
    """A chunk of drawn cells: which ones, their latents `(n_chunk, n_latent)` and expression `(n_chunk, n_genes)`."""

    rows: slice
    latents: np.ndarray
    expression: sp.csr_matrix


class DrawingMixin:
    """Drawing cells."""

    def _draw_cells(
        self, drawing: Drawing, seed: np.random.SeedSequence, desc: str, *, progress: bool
    ) -> Iterator[Drawn]:
        """Draw chunk by chunk, each from its own child of the seed, so that none depends on what was drawn before."""
        n_cells = len(drawing.conditions)
        starts = range(0, n_cells, drawing.batch_size)
        with tqdm(total=n_cells, desc=desc, unit="cell", disable=not progress) as bar:
            for start, chunk_seed in zip(starts, seed.spawn(len(starts)), strict=True):
                rows = slice(start, min(start + drawing.batch_size, n_cells))
                yield self._draw_chunk(drawing, rows, chunk_seed)
                bar.update(rows.stop - rows.start)

    def _draw_chunk(self, drawing: Drawing, rows: slice, seed: np.random.SeedSequence) -> Drawn:
        generator = torch.Generator(self.device).manual_seed(int(seed.generate_state(1, np.uint64)[0] >> 1))
        conditions = drawing.conditions[rows].to(self.device)

        def part(of_cells: Tensor | None) -> Tensor | None:
            return None if of_cells is None else of_cells[rows].to(self.device)

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
            features = features + drawing.shift[rows].to(features)
        expression = self._draw_expression(
            features,
            part(drawing.covariates),
            generator,
            None if drawing.library is None else drawing.library[rows],
        )
        return Drawn(rows, self.module.split(features)[0].cpu().numpy(), expression)
