import pytest
import torch

from scdiffusion.networks import CategoryClassifier, NumberRegressor


@pytest.fixture(params=["category", "number"])
def classifier(request):
    torch.manual_seed(0)
    return CategoryClassifier(5, 3, n_hidden=32) if request.param == "category" else NumberRegressor(5, n_hidden=32)


def test_a_cell_is_judged_by_itself(classifier):
    classifier.eval()
    x, t = torch.randn(10, 5), torch.full((10,), 300)
    torch.testing.assert_close(classifier(x, t)[:3], classifier(x[:3], t[:3]))


def test_judgement_depends_on_the_timestep(classifier):
    classifier.eval()
    x = torch.randn(4, 5)
    early, late = (classifier(x, torch.full((4,), t)) for t in (0, 999))
    assert (early - late).abs().max() > 1e-3


def test_likelihoods_are_those_of_the_distributions():
    output = torch.tensor([[1.0, 0.4], [-2.0, -1.0]])
    target = torch.tensor([0.5, -2.5])
    normal = torch.distributions.Normal(output[:, 0], (0.5 * output[:, 1]).exp())
    torch.testing.assert_close(NumberRegressor(3).log_prob(output, target), normal.log_prob(target))
    codes = torch.tensor([1, 0])
    categorical = torch.distributions.Categorical(logits=output)
    torch.testing.assert_close(CategoryClassifier(3, 2).log_prob(output, codes), categorical.log_prob(codes))


def test_scores_are_one_at_best_and_what_guessing_reaches_is_known():
    classifier, regressor = CategoryClassifier(3, 2), NumberRegressor(3)
    assert classifier.score(torch.tensor([[2.0, 1.0], [0.0, 3.0]]), torch.tensor([0, 0])).tolist() == [1, 0]
    target = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    assert regressor.score(torch.stack([target, target], 1), target).mean() == 1
    assert regressor.score(torch.zeros(10_000, 2), target).mean().abs() < 0.05
