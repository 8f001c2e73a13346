"""Guidance against distributions whose conditionals, classifiers and products are known."""

from types import SimpleNamespace

import pytest
import torch

from scdiffusion.diffusion import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    CosineSchedule,
    DDIMSampler,
    DDPMSampler,
    DiffusionProcess,
    DPMPP2MSampler,
    EulerSampler,
    Guide,
    JointComposition,
    Step,
    SumComposition,
    schedules,
)
from scdiffusion.networks import Conditions

N_SAMPLES = 6_000

every_sampler = pytest.mark.parametrize(
    ("sampler", "n_steps"),
    [(DDPMSampler(), 400), (DDIMSampler(), 150), (EulerSampler(), 150), (DPMPP2MSampler(), 40)],
    ids=["ddpm", "ddim", "euler", "dpmpp_2m"],
)


def weights(process, t):
    return process.schedule.coefficients([int(t[0])])


class MixtureModel:
    """A perfect unconditional denoiser of a mixture, and a perfect classifier of its components."""

    def __init__(self, mixture, schedule="cosine"):
        self.mixture, self.process = mixture, DiffusionProcess(schedule)

    def estimate(self, x_t, t, conditions):
        assert not conditions.asked.any()
        return self.mixture.posterior(x_t, *weights(self.process, t))[1]

    def log_probability(self, x_t, t, conditions, key):
        probabilities = self.mixture.posterior(x_t, *weights(self.process, t))[0]
        return probabilities.gather(1, conditions.column(key)[:, None]).log()[:, 0]


class LinearModel:
    """Cells x = (a, b), standard normal, and a noisy measurement y = a + 0.5 noise as a continuous condition."""

    process = DiffusionProcess()

    def estimate(self, x_t, t, conditions):
        return weights(self.process, t)[0] * x_t

    def log_probability(self, x_t, t, conditions, key):
        alpha, sigma = weights(self.process, t)
        variance = sigma**2 + 0.25  # of a given x_t, and of the measurement
        return -0.5 * (conditions.column(key) - alpha * x_t[:, 0]) ** 2 / variance


class TwoAttributes:
    """Independent coordinates, each N(2 c, 0.5^2) for c in (-1, 1) with equal odds: attribute k moves coordinate k.

    Asked for both attributes, the denoiser is wrong, as one is that never saw the combination.
    """

    process = DiffusionProcess()

    def __init__(self):
        self.calls = 0

    def estimate(self, x_t, t, conditions):
        self.calls += 1
        alpha, sigma = weights(self.process, t)
        variance = (0.5 * alpha) ** 2 + sigma**2
        means = torch.tensor([-2.0, 2.0], dtype=x_t.dtype)
        log_density = -0.5 * (x_t[..., None] - alpha * means) ** 2 / variance  # (n, 2, 2)
        asked = conditions.asked[..., None]
        given = asked & (conditions.codes[..., None] != torch.arange(2))
        odds = log_density.masked_fill(given, -torch.inf).softmax(-1)
        posterior = means + 0.25 * alpha / variance * (x_t[..., None] - alpha * means)
        x0 = (odds * posterior).sum(-1)
        return torch.where(conditions.asked.all(1)[:, None], 5.0, x0)


def draw(model, guide, conditions, sampler, n_steps, noise):
    return sampler.sample(
        lambda x, t: guide(model, x, t, conditions),
        noise(len(conditions)),
        model.process.schedule,
        n_steps,
        generator=torch.Generator().manual_seed(1),
    )


def ask(*codes, n=N_SAMPLES):
    return Conditions(torch.tensor(codes).repeat(n, 1))


def classify(scale=1.0, **settings):
    return Guide([(ClassifierGuidance(), {frozenset({0}): scale})], keys=frozenset({0}), **settings)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@every_sampler
def test_classifier_guidance_of_an_unconditional_model_draws_the_conditional(
    mixture, noise, schedule, sampler, n_steps
):
    component = torch.arange(9000) % 3
    x = draw(MixtureModel(mixture, schedule), classify(), Conditions(component[:, None]), sampler, n_steps, noise)
    for k, (mean, covariance) in enumerate(zip(mixture.means, mixture.covariances, strict=True)):
        drawn, largest = x[component == k], covariance.diagonal().max()
        assert ((drawn.mean(0) - mean) / covariance.diagonal().sqrt()).abs().max() < 0.07
        assert ((drawn.T.cov() - covariance) / largest).abs().max() < 0.12  # discretisation included


@every_sampler
def test_guidance_towards_a_number_draws_the_posterior(noise, sampler, n_steps):
    conditions = Conditions(torch.empty(N_SAMPLES, 0, dtype=torch.long), torch.full((N_SAMPLES, 1), 1.5))
    x = draw(LinearModel(), classify(), conditions, sampler, n_steps, noise)
    torch.testing.assert_close(x.mean(0), torch.tensor([1.2, 0.0], dtype=x.dtype), atol=0.04, rtol=0)  # 1.5 / 1.25
    torch.testing.assert_close(x.var(0), torch.tensor([0.2, 1.0], dtype=x.dtype), atol=0.05, rtol=0)


def test_stronger_guidance_follows_the_sharper_posterior(noise):
    conditions = Conditions(torch.empty(N_SAMPLES, 0, dtype=torch.long), torch.full((N_SAMPLES, 1), 1.5))
    spread = [
        float(draw(LinearModel(), classify(scale), conditions, DPMPP2MSampler(), 50, noise)[:, 0].var())
        for scale in (0.0, 1.0, 2.0, 4.0)
    ]
    assert spread[0] == pytest.approx(1, abs=0.05)
    assert all(a > 1.3 * b for a, b in zip(spread[:-1], spread[1:], strict=True))


def test_guidance_outside_its_interval_does_nothing(mixture, noise):
    model, x, conditions = MixtureModel(mixture), noise(50), ask(0, n=50)
    unguided = Guide(keys=frozenset({0}))
    guide = classify(interval=(0.2, 0.5))
    for timestep, is_guided in [(100, False), (199, False), (200, True), (499, True), (500, False), (999, False)]:
        t = torch.full((50,), timestep)
        difference = guide(model, x, t, conditions) - unguided(model, x, t, conditions.without(0))
        assert bool(difference.abs().max() > 1e-3) == is_guided


def test_sum_of_attributes_draws_a_combination_that_the_denoiser_does_not_know(noise):
    guide = Guide(keys=frozenset({0, 1}), composition=SumComposition())
    x = draw(TwoAttributes(), guide, ask(1, 0), DPMPP2MSampler(), 40, noise)
    torch.testing.assert_close(x.mean(0), torch.tensor([2.0, -2.0], dtype=x.dtype), atol=0.03, rtol=0)
    torch.testing.assert_close(x.var(0), torch.full((2,), 0.25, dtype=x.dtype), atol=0.03, rtol=0)
    assert torch.corrcoef(x.T)[0, 1].abs() < 0.06
    joint = draw(TwoAttributes(), Guide(keys=frozenset({0, 1})), ask(1, 0, n=100), DPMPP2MSampler(), 40, noise)
    assert (joint - 5).abs().max() < 0.1


def test_attributes_left_to_the_model_keep_both_of_their_modes(noise):
    guide = Guide(keys=frozenset({0, 1}), composition=SumComposition())
    x = draw(TwoAttributes(), guide, ask(1, -1), DPMPP2MSampler(), 40, noise)
    assert float((x[:, 0] > 0).double().mean()) > 0.999
    assert abs(float((x[:, 1] > 0).double().mean()) - 0.5) < 0.03


def test_scale_of_a_sum_is_per_attribute_and_minus_one_removes_it(noise):
    scales = {frozenset({0}): 0.0, frozenset({1}): -1.0}
    guide = Guide([(ClassifierFreeGuidance(), scales)], frozenset({0, 1}), SumComposition())
    x = draw(TwoAttributes(), guide, ask(1, 0), DPMPP2MSampler(), 40, noise)
    assert float((x[:, 0] > 0).double().mean()) > 0.999
    assert abs(float((x[:, 1] > 0).double().mean()) - 0.5) < 0.03


def test_a_sum_asks_the_denoiser_once_per_attribute_and_once_for_none(noise):
    model = TwoAttributes()
    scales = {frozenset({0, 1}): 1.0}
    guide = Guide([(ClassifierFreeGuidance(), scales)], frozenset({0, 1}), SumComposition())
    guide(model, noise(5), torch.full((5,), 500), ask(1, 0, n=5))
    assert model.calls == 3


@pytest.fixture
def estimates():
    return torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def classifier_free(conditional, unconditional, scale):
    estimate = {frozenset(): conditional, frozenset({0}): unconditional}.get
    return conditional + ClassifierFreeGuidance().shift(Step(None, None, None, None, estimate), {frozenset({0}): scale})


def test_landmarks(estimates):
    conditional, unconditional = estimates
    assert torch.equal(classifier_free(conditional, unconditional, 0.0), conditional)
    torch.testing.assert_close(classifier_free(conditional, unconditional, -1.0), unconditional)
    torch.testing.assert_close(classifier_free(conditional, unconditional, 1.0), 2 * conditional - unconditional)


def test_guiding_x0_is_guiding_the_noise(estimates):
    process = DiffusionProcess()
    x_t = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 1, 50, 300, 700, 950])
    of_noise = 2.5 * process.to_epsilon(estimates[0], x_t, t) - 1.5 * process.to_epsilon(estimates[1], x_t, t)
    of_x0 = process.to_epsilon(classifier_free(*estimates, 1.5), x_t, t)
    torch.testing.assert_close(of_x0, of_noise)


def test_shift_of_x0_is_the_gradient_added_to_the_score(noise):
    """Adding g to the score is taking sigma g from the noise (Dhariwal & Nichol, equation 14)."""
    model, x_t, t = SimpleNamespace(process=DiffusionProcess()), noise(4), torch.tensor([3, 100, 500, 900])
    shift = Step(model, x_t, t, None, None).uphill(lambda x: (x**2).sum(1))
    sigma = model.process.schedule.sigma[t, None].double()
    x0 = noise(4, seed=1)
    expected = model.process.to_epsilon(x0, x_t, t) - sigma * 2 * x_t
    torch.testing.assert_close(model.process.to_epsilon(x0 + shift, x_t, t), expected, rtol=1e-5, atol=1e-5)


def test_only_keys_that_classifiers_alone_guide_by_are_hidden():
    classifier = (ClassifierGuidance(), {frozenset({0, 1}): 2.0})
    assert Guide([classifier], frozenset({0, 1, 2})).hidden == {0, 1}
    assert Guide([classifier, (ClassifierFreeGuidance(), {frozenset({1, 2}): 0.0})]).hidden == {0}
    assert Guide([(ClassifierFreeGuidance(), {frozenset({0}): 1.0})]).hidden == set()


def test_methods_add_up_whatever_their_order(mixture, noise):
    class Model(MixtureModel):
        def estimate(self, x_t, t, conditions):
            x0 = super().estimate(x_t, t, conditions.without(0))
            return x0 + conditions.asked[:, :1]

    methods = [(ClassifierFreeGuidance(), {frozenset({0}): 3.0}), (ClassifierGuidance(), {frozenset({0}): 1.0})]
    model, x, t, conditions = Model(mixture), noise(20), torch.full((20,), 300), ask(0, n=20)
    forth, back = (Guide(m, frozenset({0}))(model, x, t, conditions) for m in (methods, methods[::-1]))
    torch.testing.assert_close(forth, back)
    alone = classify()(model, x, t, conditions)
    torch.testing.assert_close(forth - alone, torch.full_like(alone, 4.0))  # 1 + w


def test_rescaling_brings_each_samples_spread_back(noise):
    estimates = {True: noise(8), False: noise(8, seed=1)}
    model = SimpleNamespace(
        process=DiffusionProcess(), estimate=lambda x, t, conditions: estimates[bool(conditions.asked.all())]
    )
    methods = [(ClassifierFreeGuidance(), {frozenset({0}): 3.0})]

    def guided(rescale):
        guide = Guide(methods, frozenset({0}), rescale=rescale)
        return guide(model, noise(8), torch.full((8,), 500), ask(0, n=8))

    torch.testing.assert_close(guided(1.0).std(1), estimates[True].std(1))
    torch.testing.assert_close(guided(0.5), (guided(0.0) + guided(1.0)) / 2)
    assert (guided(0.0).std(1) / estimates[True].std(1)).median() > 1.3


def test_composing_jointly_gives_the_denoiser_all_that_is_not_hidden():
    asked = []
    JointComposition()(asked.append, frozenset({0, 1}), frozenset({1}))
    assert asked == [{1}]


def test_schedules_agree_on_the_share_of_the_process():
    assert CosineSchedule().level_to_timestep(0.5) == schedules.resolve("linear").level_to_timestep(0.5) == 499
