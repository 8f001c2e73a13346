import numpy as np
import pytest
import torch
from scipy import stats

from scdiffusion.autoencoders import CountParameters, likelihoods

CASES = [(0.01, 0.5), (0.3, 0.02), (3.0, 0.3), (3.0, 50.0), (40.0, 2.0), (200.0, 20.0), (2.0, 1e3)]
ZERO_LOGIT = -1.0


def parameters(name, mean, theta, n_cells):
    likelihood = likelihoods.resolve(name)
    return likelihood, CountParameters(
        torch.full((n_cells, 1), float(np.log(mean))),
        torch.tensor([[np.log(theta)]], dtype=torch.float32) if likelihood.has_dispersion else None,
        torch.full((n_cells, 1), ZERO_LOGIT) if likelihood.has_zero_inflation else None,
    )


def reference(name, mean, theta):
    """Probability of each count under scipy, and the share of extra zeros."""
    counts = stats.poisson(mean) if name == "poisson" else stats.nbinom(theta, theta / (theta + mean))
    extra = 1 / (1 + np.exp(-ZERO_LOGIT)) if name == "zinb" else 0.0
    return counts, extra


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize(("mean", "theta"), CASES)
def test_draws_follow_the_distribution(name, mean, theta):
    n_cells = 100_000
    likelihood, p = parameters(name, mean, theta, n_cells)
    rows, columns, drawn = likelihood.draw(p, torch.Generator().manual_seed(1))
    assert (drawn > 0).all() and (columns == 0).all() and (rows.diff() > 0).all()
    counts = np.zeros(n_cells)
    counts[rows.numpy()] = drawn.numpy()

    distribution, extra = reference(name, mean, theta)
    edges = np.unique(distribution.ppf(np.linspace(0.05, 0.95, 12)))  # bins with enough expected draws
    cdf = extra + (1 - extra) * distribution.cdf(edges)
    expected = np.diff(np.concatenate([[0], cdf, [1]])) * n_cells
    observed = np.bincount(np.searchsorted(edges, counts, side="left"), minlength=len(expected))
    keep = expected > 5
    observed = np.append(observed[keep], observed[~keep].sum())
    expected = np.append(expected[keep], expected[~keep].sum())
    if expected[-1] < 5:
        observed, expected = observed[:-1], expected[:-1]
    if len(expected) > 1:
        assert stats.chisquare(observed, expected * observed.sum() / expected.sum()).pvalue > 1e-4
    assert counts.mean() == pytest.approx((1 - extra) * mean, rel=0.15)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize(("mean", "theta"), CASES)
def test_log_probability_is_scipys(name, mean, theta):
    distribution, extra = reference(name, mean, theta)
    counts = np.array([0.0, 1, 2, 7, 50, 300])
    likelihood, p = parameters(name, mean, theta, len(counts))
    rows = torch.from_numpy(np.flatnonzero(counts))
    ours = likelihood.log_prob(rows, torch.zeros_like(rows), torch.from_numpy(counts[counts > 0]).float(), p)
    expected = np.log(np.maximum(np.where(counts == 0, extra, 0) + (1 - extra) * distribution.pmf(counts), 1e-300))
    expected = np.where(expected < -600, np.log1p(-extra) + distribution.logpmf(counts), expected)
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-3, atol=2e-2)


def test_draws_repeat_with_the_seed_and_differ_without():
    likelihood, p = parameters("nb", 3.0, 1.0, 500)
    first, again, other = (likelihood.draw(p, torch.Generator().manual_seed(seed))[2] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first[:100], other[:100])


def test_unknown_likelihood_names_the_known_ones():
    with pytest.raises(ValueError, match="Available: bernoulli, nb, nb_mixture, poisson, zinb"):
        likelihoods.resolve("gaussian")


@pytest.mark.parametrize("background", [0.05, 0.5])
def test_mixture_is_scvis(background):
    scvi = pytest.importorskip("scvi.distributions")
    n_cells = 50_000
    p = CountParameters(
        torch.full((n_cells, 1), np.log(30.0)),
        torch.full((1, 1), np.log(4.0)),
        torch.full((n_cells, 1), ZERO_LOGIT),
        torch.full((1, 1), np.log(background)),
    )
    reference = scvi.NegativeBinomialMixture(
        torch.full((n_cells, 1), 30.0 * background), torch.tensor(30.0), torch.tensor(4.0),
        torch.full((n_cells, 1), ZERO_LOGIT),
    )  # fmt: skip
    likelihood = likelihoods.resolve("nb_mixture")
    counts = torch.arange(n_cells).remainder(100).float()[:, None]
    rows, columns = counts.nonzero(as_tuple=True)
    ours = likelihood.log_prob(rows, columns, counts[rows, columns], p)
    torch.testing.assert_close(ours, reference.log_prob(counts)[:, 0], rtol=1e-3, atol=1e-3)

    rows, _, drawn = likelihood.draw(p, torch.Generator().manual_seed(0))
    assert drawn.sum() / n_cells == pytest.approx(float(p.mean.mean()), rel=0.03)
    of_zero = float(reference.log_prob(torch.zeros(n_cells, 1))[0].exp())
    assert 1 - len(rows) / n_cells == pytest.approx(of_zero, abs=0.01)


@pytest.mark.parametrize("probability", [0.01, 0.3, 0.97, 0.995])
def test_ones_are_drawn_with_their_probability(probability):
    likelihood, p = parameters("bernoulli", probability, 1.0, 50_000)
    rows, _, drawn = likelihood.draw(p, torch.Generator().manual_seed(0))
    assert (drawn == 1).all()
    assert len(rows) / 50_000 == pytest.approx(probability, abs=0.008)
    ones, zeros = (
        likelihood.log_prob(r, r, torch.ones(len(r)), p.head(1)) for r in (torch.zeros(1).long(), torch.empty(0).long())
    )
    assert float(ones.exp()) == pytest.approx(probability, rel=1e-3)
    assert float(zeros.exp()) == pytest.approx(1 - probability, rel=1e-2)
