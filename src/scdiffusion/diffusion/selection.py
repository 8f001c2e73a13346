"""Selection: which of the drawn candidates are kept, given how real they look."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from scdiffusion._registry import Registry

selections = Registry("selection")

# Relative to the best candidate: what is below can only be reached when nothing else is left, and must not underflow.
_LEAST_LOG_RATIO = -600.0


class Selection(ABC):
    """Chooses cells by their scores, for `generate(keep_top=...)`."""

    @abstractmethod
    def select(self, log_ratio: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """Choose `n` of the candidates.

        Parameters
        ----------
        log_ratio
            Logarithm of the ratio of the densities of real and of generated cells where each candidate lies,
            `(n_candidates,)`, on the CPU.
        n
            How many to choose, at most `n_candidates`.
        generator
            Source of randomness on the CPU.

        Returns
        -------
        Their positions, `(n,)`, each once.
        """


@selections.register("rank")
class RankSelection(Selection):
    """The candidates of the highest scores.

    Every generated cell is replaced by one that looks more real, and what lies where real and generated cells are hard
    to tell apart is cut off with the rest: cells become more typical, and variety falls.

    References
    ----------
    Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model* (SCLD), 2023, post-guidance.

    Examples
    --------
    >>> import torch
    >>> RankSelection().select(torch.tensor([0.1, 2.0, -1.0, 0.5]), 2, torch.Generator())
    tensor([1, 3])
    """

    def select(self, log_ratio, n, generator):
        """Take the highest scores, the earlier candidate of two that are equal."""
        return log_ratio.argsort(descending=True, stable=True)[:n].sort().values


@selections.register("rejection")
class RejectionSelection(Selection):
    r"""Rejection sampling: each candidate is accepted with a probability that follows the density ratio.

    With the ratio :math:`r(x) = d(x) / (1 - d(x))` of real to generated density, a candidate is accepted with
    probability

    .. math:: a(x) = \min\bigl(1, r(x) / M\bigr).

    Were :math:`M` a bound on the ratio and the ratio known, accepted cells would be distributed exactly as real ones.
    Here :math:`M` is what makes :math:`n` acceptances the expected number, and a systematic sample, in which each
    candidate has that very probability, makes it exactly :math:`n`. Ratios above :math:`M` are cut off at it: the fewer
    candidates are kept, the more exact.

    References
    ----------
    Azadi et al., *Discriminator Rejection Sampling*, ICLR 2019. Systematic sampling: Madow, *On the Theory of
    Systematic Sampling, II*, Annals of Mathematical Statistics 1949.

    Examples
    --------
    >>> import torch
    >>> RejectionSelection().select(torch.tensor([0.0, 50.0, -50.0, 40.0]), 2, torch.Generator())
    tensor([1, 3])
    """

    def select(self, log_ratio, n, generator):
        """Take a systematic sample of the candidates in random order."""
        probability = self.acceptance(log_ratio, n)
        order = torch.randperm(len(probability), generator=generator)
        cumulative = probability[order].cumsum(0)
        steps = torch.arange(n) + torch.rand(1, generator=generator, dtype=torch.float64)
        # Rounding may leave the last step beyond the end of the cumulative sum.
        taken = torch.searchsorted(cumulative * (n / cumulative[-1]), steps, right=True)
        return order[taken.clamp(max=len(order) - 1)].sort().values

    @staticmethod
    def acceptance(log_ratio: Tensor, n: int) -> Tensor:
        """Probabilities of acceptance, `(n_candidates,)`, which are at most 1 and sum to `n`."""
        log_ratio, order = log_ratio.double().sort(descending=True)
        ratio = (log_ratio - log_ratio[0]).clamp(min=_LEAST_LOG_RATIO).exp()
        # If the first k are accepted for sure, the others share what is left in proportion to their ratios.
        rest = ratio.flip(0).cumsum(0).flip(0)[:n]
        share = (n - torch.arange(n)) / rest
        certain = int((share * ratio[:n] > 1).sum())
        probability = torch.ones_like(ratio)
        if certain < n:
            probability[certain:] = (share[certain] * ratio[certain:]).clamp(max=1)
        return torch.empty_like(ratio).index_copy_(0, order, probability)
