from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion.autoencoders import COUNTS

from ._base import Interpolation, Leg, interpolations


@interpolations.register("expression")
@dataclass(frozen=True)
class ExpressionInterpolation(Interpolation):
    """Counts between those of a real cell and its partner: direct interpolation, as a baseline.

    Each count of the cell is kept with a probability of one minus the weight, each of its partner with the weight, so
    that expected counts lie on a straight line, and counts stay counts. Log-normalised expression is averaged. The
    direct interpolation that scDiffusion's paper compares with is another: of pairs at random, not near to each other.
    """

    def counts(
        self, leg: Leg, weight: float, covariates: Tensor | None, generator: torch.Generator
    ) -> tuple[sp.csr_matrix, None]:
        if leg.model._values != COUNTS:
            return (1 - weight) * leg.start + weight * leg.end, None
        seed = torch.randint(2**62, (), generator=generator, device=generator.device)
        rng = np.random.default_rng(int(seed))
        return _thinned(leg.start, 1 - weight, rng) + _thinned(leg.end, weight, rng), None


def _thinned(counts: sp.csr_matrix, share: float, rng: np.random.Generator) -> sp.csr_matrix:
    kept = rng.binomial(counts.data.astype(np.int64), share).astype(np.int32)
    thinned = sp.csr_matrix((kept, counts.indices, counts.indptr), counts.shape, copy=True)
    thinned.eliminate_zeros()
    return thinned
