import numpy as np
import pytest
import torch

from scdiffusion.diffusion import RankSelection, RejectionSelection, selections


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", list(selections))
@pytest.mark.parametrize("n", [1, 7, 20])
def test_the_number_that_is_asked_for_each_once(name, n, generator):
    scores = torch.randn(20, generator=generator) * 100
    kept = selections.resolve(name).select(scores, n, generator)
    assert len(set(kept.tolist())) == len(kept) == n
    assert (kept.sort().values == kept).all()


def test_rank_keeps_the_best(generator):
    assert RankSelection().select(torch.tensor([3.0, 1, 2, 5, 4]), 3, generator).tolist() == [0, 3, 4]


def test_rejection_accepts_in_proportion_to_the_density_ratio(generator):
    ratio = torch.tensor([1.0, 2, 3, 4, 10])
    np.testing.assert_allclose(RejectionSelection.acceptance(ratio.log(), 1), ratio / 20)
    # The last is accepted for sure, and the others share the acceptance that is left.
    np.testing.assert_allclose(RejectionSelection.acceptance(ratio.log(), 3), [0.2, 0.4, 0.6, 0.8, 1])
    drawn = torch.stack([RejectionSelection().select(ratio.log(), 3, generator) for _ in range(4000)])
    np.testing.assert_allclose(drawn.flatten().bincount() / 4000, [0.2, 0.4, 0.6, 0.8, 1], atol=0.03)


def test_rejection_turns_one_distribution_into_another(generator):
    """Few of many candidates of N(0, 2), with the true density ratio, are a sample of N(1, 1)."""
    x = 2 * torch.randn(20_000, generator=generator)
    log_ratio = -((x - 1) ** 2) / 2 + x**2 / 8
    kept = x[RejectionSelection().select(log_ratio, 2000, generator)]
    assert kept.mean() == pytest.approx(1, abs=0.08) and kept.std() == pytest.approx(1, abs=0.06)
    best = x[RankSelection().select(log_ratio, 2000, generator)]
    assert best.std() < 0.5  # ranking keeps the most typical


def test_scores_without_bound_are_no_harm(generator):
    probability = RejectionSelection.acceptance(torch.tensor([0.0, -2000, -3000]), 2)
    np.testing.assert_allclose(probability, [1, 0.5, 0.5])
