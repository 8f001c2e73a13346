"""A classifier of two normal clusters, whose posterior is known at every level of noise."""

import pytest
import torch

from scdiffusion.diffusion import DiffusionProcess
from scdiffusion.networks import CategoryClassifier, Conditions
from scdiffusion.training import ClassifierStage, FixedLatents, LatentLoader, fit_stage


@pytest.fixture(scope="module")
def fitted():
    torch.manual_seed(0)
    codes = torch.arange(4000) % 2
    # Unit variance in all: +-0.8 with a standard deviation of 0.6.
    mean = torch.stack([1.6 * codes - 0.8, torch.zeros(4000)], 1)
    scale = torch.tensor([0.6, 1.0]).expand(4000, 2)
    conditions, process = Conditions(codes[:, None]), DiffusionProcess()
    optimisation = {"lr": 1e-3, "lr_decay": "cosine", "weight_decay": 1e-2, "ema_decay": 0.998}
    stage = ClassifierStage("classifier_x", CategoryClassifier(2, 2, n_hidden=64), process, key=0, **optimisation)
    loader = LatentLoader(mean[:2000], scale[:2000], conditions[:2000], batch_size=256)
    held_out = FixedLatents(mean[2000:], scale[2000:], conditions[2000:], process.n_timesteps)
    fit_stage(stage, loader, held_out, max_epochs=12, patience=None, progress=False, accelerator="cpu")
    return stage.network.eval(), process, stage.logged


@pytest.mark.parametrize("timestep", [50, 300, 500, 700])
def test_gradient_is_that_of_the_true_posterior(fitted, timestep):
    classifier, process, _ = fitted
    alpha, sigma = (value.item() for value in process.schedule.coefficients([timestep]))
    x = torch.zeros(41, 2)
    x[:, 0] = torch.linspace(-1.5, 1.5, 41)
    x.requires_grad_()
    t = torch.full((41,), timestep)
    output = classifier(process.linear_estimate(x, t), t)
    log_prob = classifier.log_prob(output, torch.ones(41, dtype=torch.long))
    (gradient,) = torch.autograd.grad(log_prob.sum(), x)
    slope = 1.6 * alpha / (0.36 * alpha**2 + sigma**2)  # of the log-odds
    expected = slope * torch.sigmoid(-slope * x[:, 0])
    assert (gradient[:, 0] - expected).abs().mean() < 0.2 * expected.max()
    assert gradient[:, 1].abs().mean() < 0.2 * expected.max()


def test_guidance_stays_bounded_where_all_is_noise(fitted):
    classifier, process, _ = fitted
    x, t = torch.randn(100, 2).requires_grad_(), torch.full((100,), 999)
    output = classifier(process.linear_estimate(x, t), t)
    (gradient,) = torch.autograd.grad(classifier.log_prob(output, torch.ones(100, dtype=torch.long)).sum(), x)
    shift = process.schedule.sigma[999] ** 2 / process.schedule.alpha[999] * gradient
    assert shift.abs().max() < 3


def test_history_has_accuracy_by_level_of_noise(fitted):
    _, _, history = fitted
    accuracy = [list(history[f"classifier_x_accuracy_level_{i}"].values())[-1] for i in range(10)]
    assert accuracy[0] == pytest.approx(0.909, abs=0.04)  # of the clusters themselves
    assert accuracy[9] == pytest.approx(0.5, abs=0.1)
    losses = list(history["classifier_x_validation_loss"].values())
    assert losses[-1] < losses[0]
