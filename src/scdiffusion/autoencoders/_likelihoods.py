"""Likelihoods of counts: scored and drawn at a cost that follows the non-zeros."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scdiffusion._registry import Registry

from ._base import COUNTS, Likelihood

likelihoods = Registry("likelihood")

# Above this rate of the compound Poisson process (below) hardly any draw is zero and drawing directly is cheaper.
_DIRECT_RATE = 4.0
# Of a Bernoulli: the logarithm of a zero's probability must stay finite.
_LOG_LARGEST_PROBABILITY = -1e-3


@dataclass
class CountParameters:
    """Parameters of a count distribution for each cell and gene.

    Attributes
    ----------
    log_rate
        Logarithm of the expected count (before zero inflation), `(n_cells, n_genes)`.
    log_dispersion
        Logarithm of the inverse dispersion theta, `(n_cells, n_genes)` or broadcastable; None for Poisson.
    zero_logits
        Logits of the probability of a zero beyond the negative binomial's own, `(n_cells, n_genes)`; None otherwise. Of a
        mixture, those of the background.
    log_background
        Logarithm of the background's expected count as a share of the other, broadcastable; None without a background.
    """

    log_rate: Tensor
    log_dispersion: Tensor | None = None
    zero_logits: Tensor | None = None
    log_background: Tensor | None = None

    @property
    def mean(self) -> Tensor:
        """Expected counts, `(n_cells, n_genes)`."""
        rate = self.log_rate.exp()
        if self.zero_logits is None:
            return rate
        background = 0 if self.log_background is None else self.zero_logits.sigmoid() * self.log_background.exp()
        return rate * (torch.sigmoid(-self.zero_logits) + background)

    def head(self, n_cells: int) -> CountParameters:
        """The parameters of the first cells."""

        def take(values: Tensor | None) -> Tensor | None:
            return values if values is None or len(values) == 1 < len(self.log_rate) else values[:n_cells]

        return CountParameters(
            self.log_rate[:n_cells], take(self.log_dispersion), take(self.zero_logits), take(self.log_background)
        )

    def reweighted(self, log_factors: Tensor) -> CountParameters:
        """The same expected totals, of which each gene's share is multiplied by a factor, `(n_genes,)`."""
        log_mean = self.log_rate if self.zero_logits is None else self.log_rate + F.logsigmoid(-self.zero_logits)
        gained = (log_mean + log_factors).logsumexp(1, keepdim=True) - log_mean.logsumexp(1, keepdim=True)
        return replace(self, log_rate=self.log_rate + log_factors - gained)

    def at(self, rows: Tensor, columns: Tensor) -> CountParameters:
        """The parameters of single entries, each `(n_entries,)`."""

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.expand_as(self.log_rate)[rows, columns]

        return CountParameters(self.log_rate[rows, columns], take(self.log_dispersion), take(self.zero_logits))


class CountLikelihood(Likelihood):
    r"""A distribution on counts, seen as compound Poisson.

    Each member writes its probability of a zero as :math:`e^{-\lambda}`. A negative binomial count is the sum of
    :math:`N \sim \mathrm{Poisson}(\lambda)` draws of a logarithmic series :cite:p:`Quenouille1949`, so that most
    entries, which are zero, cost one comparison, and only the others are drawn.
    """

    values, dtype, has_library_size = COUNTS, torch.int32, True
    has_dispersion = True
    has_zero_inflation = False
    has_background = False
    largest = float("inf")  # count

    @property
    def inflates_zeros(self) -> bool:
        """Whether there are zeros beside those of the distribution itself, and no background in their place."""
        return self.has_zero_inflation and not self.has_background

    @property
    def members(self) -> tuple[tuple[slice, CountLikelihood], ...]:
        """Columns of each modality, and their likelihood: here all columns."""
        return ((slice(None), self),)

    @abstractmethod
    def zero_rate(self, p: CountParameters) -> Tensor:
        r""":math:`\lambda = -\log P(x = 0)`, zero inflation aside; the shape of the parameters."""

    @abstractmethod
    def log_prob_positive(self, counts: Tensor, p: CountParameters) -> Tensor:
        """Log-probability of counts above zero, zero inflation aside, `(n_entries,)`."""

    @abstractmethod
    def draw_term(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        """One term of the compound sum for each entry: at least 1."""

    @abstractmethod
    def draw_direct(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        """Draw the count itself, zero included, for each entry."""

    def log_prob(self, rows: Tensor, columns: Tensor, counts: Tensor, p: CountParameters) -> Tensor:
        """Log-likelihood of sparse counts, `(n_cells,)`."""
        at = p.at(rows, columns)
        if p.zero_logits is None:
            log_zero = -self.zero_rate(p)  # (n_cells, n_genes)
            positive = self.log_prob_positive(counts, at) + self.zero_rate(at)
        else:
            log_kept = F.logsigmoid(-p.zero_logits)
            log_zero = torch.logaddexp(F.logsigmoid(p.zero_logits), log_kept - self.zero_rate(p))
            positive = self.log_prob_positive(counts, at) + log_kept[rows, columns] - log_zero[rows, columns]
        return log_zero.sum(1).index_add(0, rows, positive)

    def draw(self, p: CountParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw counts, as sorted non-zero entries."""
        rate = self.zero_rate(p)
        unit = torch.rand(rate.shape, generator=generator, device=rate.device)
        # P(N = 0) = exp(-rate); the direct draws may still turn out zero and are dropped below.
        candidate = (unit > torch.exp(-rate)) | (rate >= _DIRECT_RATE)
        if p.zero_logits is not None:
            kept = torch.rand(rate.shape, generator=generator, device=rate.device) >= p.zero_logits.sigmoid()
            candidate &= kept
        rows, columns = candidate.nonzero(as_tuple=True)
        entry_rate, entry_unit, at = rate[rows, columns], unit[rows, columns], p.at(rows, columns)
        direct = entry_rate >= _DIRECT_RATE
        counts = torch.empty_like(entry_rate)
        counts[direct] = self.draw_direct(_select(at, direct), generator)
        compound = ~direct
        counts[compound] = self._draw_compound(
            entry_rate[compound], entry_unit[compound], _select(at, compound), generator
        )
        positive = counts > 0
        return rows[positive], columns[positive], counts[positive]

    def _draw_compound(
        self, rate: Tensor, unit: Tensor, p: CountParameters, generator: torch.Generator | None
    ) -> Tensor:
        """Sum of N > 0 terms, where N is read off the same uniform draw that said the entry is not zero."""
        total = self.draw_term(p, generator)
        rate, unit = rate.double(), unit.double()
        pmf = torch.exp(-rate) * rate  # P(N = 1)
        cdf = torch.exp(-rate) + pmf
        active = torch.arange(len(total), device=total.device)
        n_terms = 1
        while True:
            more = unit > cdf
            active = active[more]
            if len(active) == 0:
                return total
            n_terms += 1
            rate, unit, p = rate[more], unit[more], _select(p, more)
            pmf = pmf[more] * rate / n_terms
            # The upper clamp ends the walk when rounding keeps the cumulative sum just below a unit of nearly 1.
            cdf = torch.where(pmf < 1e-12, torch.ones_like(pmf), cdf[more] + pmf)
            total[active] += self.draw_term(p, generator)


def _select(p: CountParameters, mask: Tensor) -> CountParameters:
    return CountParameters(p.log_rate[mask], None if p.log_dispersion is None else p.log_dispersion[mask])


@likelihoods.register("nb")
class NegativeBinomial(CountLikelihood):
    r"""Negative binomial with mean :math:`\mu` and inverse dispersion :math:`\theta`: variance :math:`\mu + \mu^2/\theta`."""

    def zero_rate(self, p: CountParameters) -> Tensor:
        # P(0) = (theta / (theta + mu))^theta, with log(1 + mu / theta) = softplus(log mu - log theta)
        return p.log_dispersion.exp() * F.softplus(p.log_rate - p.log_dispersion)

    def log_prob_positive(self, counts: Tensor, p: CountParameters) -> Tensor:
        theta, logits = p.log_dispersion.exp(), p.log_rate - p.log_dispersion
        return (
            counts * F.logsigmoid(logits)
            - theta * F.softplus(logits)
            + torch.lgamma(counts + theta)
            - torch.lgamma(theta)
            - torch.lgamma(counts + 1)
        )

    def draw_term(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        # Kemp (1981): x = 1 + floor(log v / log(1 - (1 - q)^u)), with log(1 - q) = -softplus(log mu - log theta)
        log_1mq = -F.softplus(p.log_rate - p.log_dispersion).double()
        u, v = torch.rand((2, *log_1mq.shape), generator=generator, device=log_1mq.device, dtype=torch.float64)
        term = 1 + torch.floor(torch.log(v) / torch.log(-torch.expm1(u * log_1mq)))
        return term.to(p.log_rate.dtype)

    def draw_direct(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        theta = p.log_dispersion.exp()
        return torch.poisson(
            torch._standard_gamma(theta, generator=generator) * torch.exp(p.log_rate - p.log_dispersion),
            generator=generator,
        )


@likelihoods.register("zinb")
class ZeroInflatedNegativeBinomial(NegativeBinomial):
    """Negative binomial with a further probability of zero for each entry."""

    has_zero_inflation = True


@likelihoods.register("nb_mixture")
class NegativeBinomialMixture(NegativeBinomial):
    """Mixture of two negative binomials with the same dispersion, the lower one a background.

    As of proteins :cite:p:`Gayoso2021`, of which antibodies that bind to nothing leave counts in every cell.
    """

    has_zero_inflation = has_background = True

    def log_prob(self, rows: Tensor, columns: Tensor, counts: Tensor, p: CountParameters) -> Tensor:
        """Log-likelihood of sparse counts, `(n_cells,)`."""
        parts = [
            (F.logsigmoid(-p.zero_logits), CountParameters(p.log_rate, p.log_dispersion)),
            (F.logsigmoid(p.zero_logits), CountParameters(p.log_rate + p.log_background, p.log_dispersion)),
        ]
        log_zero = torch.logaddexp(*(log_weight - self.zero_rate(part) for log_weight, part in parts))
        positive = torch.logaddexp(
            *(w[rows, columns] + self.log_prob_positive(counts, part.at(rows, columns)) for w, part in parts)
        )
        return log_zero.sum(1).index_add(0, rows, positive - log_zero[rows, columns])

    def draw(self, p: CountParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw counts, as sorted non-zero entries."""
        unit = torch.rand(p.log_rate.shape, generator=generator, device=p.log_rate.device)
        log_rate = torch.where(unit < p.zero_logits.sigmoid(), p.log_rate + p.log_background, p.log_rate)
        return super().draw(CountParameters(log_rate, p.log_dispersion), generator)


@likelihoods.register("poisson")
class Poisson(CountLikelihood):
    """Poisson with the given rate."""

    has_dispersion = False

    def zero_rate(self, p: CountParameters) -> Tensor:
        return p.log_rate.exp()

    def log_prob_positive(self, counts: Tensor, p: CountParameters) -> Tensor:
        return counts * p.log_rate - p.log_rate.exp() - torch.lgamma(counts + 1)

    def draw_term(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        return torch.ones_like(p.log_rate)

    def draw_direct(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        return torch.poisson(p.log_rate.exp(), generator=generator)


@likelihoods.register("bernoulli")
class Bernoulli(Poisson):
    """One or zero, such as whether a peak is open, with a probability of the given rate."""

    largest = 1.0

    def _log_probability(self, p: CountParameters) -> Tensor:
        return p.log_rate.clamp(max=_LOG_LARGEST_PROBABILITY)

    def zero_rate(self, p: CountParameters) -> Tensor:
        return -torch.log1p(-self._log_probability(p).exp())

    def log_prob_positive(self, counts: Tensor, p: CountParameters) -> Tensor:
        return self._log_probability(p)

    def draw(self, p: CountParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Draw ones, as sorted non-zero entries."""
        rows, columns, counts = super().draw(p, generator)
        return rows, columns, counts.clamp(max=1)

    def draw_direct(self, p: CountParameters, generator: torch.Generator | None) -> Tensor:
        return torch.bernoulli(self._log_probability(p).exp(), generator=generator)
