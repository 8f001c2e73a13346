"""Samples of a distribution that is known: are they distributed as they should be?"""

import pytest
import torch

from scdiffusion.diffusion import DDIMSampler, DDPMSampler, DPMPP2MSampler, EulerSampler, schedules

N_SAMPLES = 20_000

every_schedule = pytest.mark.parametrize("schedule", ["linear", "cosine"], indirect=True)
# steps enough for the discretisation to hide behind the sampling error
with_steps_enough = pytest.mark.parametrize(
    ("sampler", "n_steps"),
    [
        (DDPMSampler(), 800),
        (DDIMSampler(), 300),
        (EulerSampler(), 300),
        (DPMPP2MSampler(), 60),
        (DPMPP2MSampler("timestep"), 100),
    ],
    ids=["ddpm", "ddim", "euler", "dpmpp_2m", "dpmpp_2m-timestep"],
)


@pytest.fixture
def schedule(request):
    return schedules.resolve(request.param)


def generator(seed):
    return torch.Generator().manual_seed(seed)


def test_the_yardstick_accepts_the_truth_and_nothing_else(mixture):
    truth = mixture.sample(N_SAMPLES, seed=0)
    assert mixture.errors(truth).max() < 4
    assert mixture.errors(truth * 1.03).max() > 5
    assert mixture.errors(truth[truth[:, 0] < 1.3]).max() > 5  # a component loses its edge
    assert mixture.errors(truth[: N_SAMPLES // 2].repeat(2, 1) + 0.02).max() > 5


@every_schedule
@with_steps_enough
def test_pure_noise_becomes_the_mixture(mixture, noise, schedule, sampler, n_steps):
    x = sampler.sample(mixture.denoiser(schedule), noise(N_SAMPLES), schedule, n_steps, generator=generator(1))
    assert mixture.errors(x).max() < 4.5


@every_schedule
@with_steps_enough
def test_partly_noised_data_becomes_the_mixture_again(mixture, noise, schedule, sampler, n_steps):
    start = schedule.level_to_timestep(0.5)
    alpha, sigma = schedule.coefficients([start])
    x_start = alpha * mixture.sample(N_SAMPLES, seed=2) + sigma * noise(N_SAMPLES)
    x = sampler.sample(
        mixture.denoiser(schedule), x_start, schedule, min(n_steps, start + 1), generator=generator(1), start=start
    )
    assert mixture.errors(x).max() < 4.5


@every_schedule
@pytest.mark.parametrize("sampler", [DDPMSampler(), DDIMSampler(), EulerSampler(), DPMPP2MSampler()])
def test_lightly_noised_data_stays_where_it_was(mixture, noise, schedule, sampler):
    start = schedule.level_to_timestep(0.1)
    alpha, sigma = schedule.coefficients([start])
    source = mixture.sample(2_000, seed=2)
    x_start = alpha * source + sigma * noise(2_000)
    denoise = mixture.denoiser(schedule)
    stayed = sampler.sample(denoise, x_start, schedule, 50, generator=generator(1), start=start)
    assert (stayed - source).square().mean().sqrt() < 2 * sigma
    assert mixture.errors(stayed).max() < 5


@every_schedule
def test_twenty_steps_of_dpmpp_2m_draw_components_of_the_right_shape(mixture, noise, schedule):
    x = DPMPP2MSampler().sample(mixture.denoiser(schedule), noise(N_SAMPLES), schedule, 20)
    component = mixture.posterior(x, 1.0, 1e-3)[0].argmax(1)
    for k in range(3):
        members = x[component == k]
        assert len(members) / N_SAMPLES == pytest.approx(mixture.weights[k].item(), abs=0.015)
        torch.testing.assert_close(members.mean(0), mixture.means[k], rtol=0, atol=0.02)
        deviations = (members.var(0) / mixture.covariances[k].diagonal()).sqrt()
        torch.testing.assert_close(deviations, torch.ones(2, dtype=torch.float64), rtol=0, atol=0.06)


@every_schedule
def test_order_of_convergence(mixture, noise, schedule):
    denoise, x = mixture.denoiser(schedule), noise(2_000)
    solution = DPMPP2MSampler("timestep").sample(denoise, x, schedule, 1000)

    def error(sampler, n_steps):
        return (sampler.sample(denoise, x, schedule, n_steps) - solution).norm(dim=1).median().item()

    assert error(DPMPP2MSampler(), 20) < error(DDIMSampler(), 20) / 4
    assert error(DPMPP2MSampler(), 20) < error(DPMPP2MSampler("timestep"), 20) / 2  # why it is the default
    for first_order in (DDIMSampler(), EulerSampler()):
        assert 1.6 < error(first_order, 20) / error(first_order, 40) < 2.4
    assert error(DPMPP2MSampler(), 10) / error(DPMPP2MSampler(), 40) > 3.4**2
