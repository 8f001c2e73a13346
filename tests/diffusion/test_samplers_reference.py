"""Every state of every sampler against an independent implementation of the same equations."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scdiffusion.diffusion import (
    DDIMSampler,
    DDPMSampler,
    DiffusionProcess,
    DPMPP2MSampler,
    EulerSampler,
    samplers,
    schedules,
)

diffusers = pytest.importorskip("diffusers")

every_schedule = pytest.mark.parametrize("schedule", ["linear", "cosine"], indirect=True)
DIFFUSERS_NAME = {"epsilon": "epsilon", "v": "v_prediction", "x0": "sample"}


@pytest.fixture
def schedule(request):
    return schedules.resolve(request.param)


def states(sampler, denoise, x, schedule, n_steps, start=None):
    """Every x_t that the denoiser is shown, and the final sample, (n_steps + 1, n, d)."""
    seen = []

    def record(x, t):
        seen.append(x)
        return denoise(x, t)

    generator = torch.Generator().manual_seed(7)
    final = sampler.sample(record, x, schedule, n_steps, generator=generator, start=start)
    return torch.stack([*seen, final])


def reference_states(scheduler, denoise, x, **step):
    """The same for a scheduler of diffusers, whose timesteps are set."""
    seen = [x]
    generator = torch.Generator().manual_seed(7)
    for t in scheduler.timesteps.tolist():
        output = denoise(x, torch.full((len(x),), t))
        x = scheduler.step(output, t, x, generator=generator, **step).prev_sample
        seen.append(x)
    return torch.stack(seen)


def exact(scheduler, schedule):
    """Give a scheduler double-precision coefficients, so that only its equations are compared."""
    alpha, _ = schedule.coefficients(range(schedule.n_timesteps))
    scheduler.alphas_cumprod = alpha**2
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


@every_schedule
@pytest.mark.parametrize("n_steps", [10, 50, 1000])
def test_ddpm(mixture, noise, schedule, n_steps):
    scheduler = diffusers.DDPMScheduler(clip_sample=False, prediction_type="sample", timestep_spacing="trailing")
    exact(scheduler, schedule).set_timesteps(n_steps)
    denoise, x = mixture.denoiser(schedule), noise(16)
    expected = reference_states(scheduler, denoise, x)
    torch.testing.assert_close(states(DDPMSampler(), denoise, x, schedule, n_steps), expected, rtol=0, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("n_steps", [10, 50, 1000])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(mixture, noise, schedule, n_steps, eta):
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample", timestep_spacing="trailing")
    exact(scheduler, schedule).set_timesteps(n_steps)
    denoise, x = mixture.denoiser(schedule), noise(16)
    expected = reference_states(scheduler, denoise, x, eta=eta)
    torch.testing.assert_close(states(DDIMSampler(eta), denoise, x, schedule, n_steps), expected, rtol=0, atol=1e-8)


@every_schedule
@pytest.mark.parametrize("n_steps", [1, 2, 3, 10, 20, 50])
@pytest.mark.parametrize("spacing", ["timestep", "log_snr"])
@pytest.mark.parametrize("start", [None, 399])
def test_dpmpp_2m(mixture, noise, schedule, n_steps, spacing, start):
    sampler = DPMPP2MSampler(spacing)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=schedule.betas.numpy(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        prediction_type="sample",
        final_sigmas_type="zero",
        lower_order_final=True,
    )
    scheduler.set_timesteps(timesteps=sampler.timesteps(n_steps, start, schedule))
    denoise, x = mixture.denoiser(schedule), noise(16)
    expected = reference_states(scheduler, denoise, x.float()).double()
    # diffusers computes in float32 here whatever it is given
    torch.testing.assert_close(states(sampler, denoise, x, schedule, n_steps, start), expected, rtol=0, atol=2e-5)


@every_schedule
@pytest.mark.parametrize("n_steps", [1, 10, 50])
def test_euler(mixture, noise, schedule, n_steps):
    sampler = EulerSampler()
    timesteps = sampler.timesteps(n_steps, None, schedule)
    alpha, sigma = (c.tolist() for c in schedule.coefficients(timesteps))
    alpha, sigma = [*alpha, 1.0], [*sigma, 0.0]
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=np.array([s / (a + s) for a, s in zip(alpha, sigma, strict=True)][:-1]))
    denoise, x = mixture.denoiser(schedule), noise(16)

    z, expected = x / (alpha[0] + sigma[0]), [x]
    for i, t in enumerate(timesteps):
        x_t = z * (alpha[i] + sigma[i])
        x0 = denoise(x_t, torch.full((16,), t))
        velocity = (x_t - alpha[i] * x0) / sigma[i] - x0
        z = scheduler.step(velocity, scheduler.timesteps[i], z).prev_sample
        expected.append(z * (alpha[i + 1] + sigma[i + 1]))
    actual = states(sampler, denoise, x, schedule, n_steps)
    torch.testing.assert_close(actual, torch.stack(expected), rtol=0, atol=2e-5)


@pytest.mark.parametrize("schedule", ["linear"], indirect=True)
@pytest.mark.parametrize("prediction", list(DIFFUSERS_NAME))
@pytest.mark.parametrize("name", ["ddpm", "ddim", "dpmpp_2m"])
def test_prediction_types(mixture, noise, schedule, prediction, name):
    """A network of each prediction type, read by our process and by diffusers itself."""
    process = DiffusionProcess(schedule, prediction)
    denoise = mixture.denoiser(schedule)

    def network(x, t):
        x0 = denoise(x, t)
        return process.target(x0, process.to_epsilon(x0, x, t), t)

    settings = {"trained_betas": schedule.betas.numpy(), "prediction_type": DIFFUSERS_NAME[prediction]}
    sampler = DPMPP2MSampler("timestep") if name == "dpmpp_2m" else samplers.resolve(name)
    scheduler = {
        "ddpm": lambda: diffusers.DDPMScheduler(clip_sample=False, **settings),
        "ddim": lambda: diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing", **settings),
        "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(final_sigmas_type="zero", **settings),
    }[name]()
    if name == "ddim":
        scheduler.set_timesteps(20)
    else:
        scheduler.set_timesteps(timesteps=sampler.timesteps(20, None, schedule))
    x = noise(16)
    actual = states(sampler, lambda x, t: process.to_x0(network(x, t), x, t), x, schedule, 20)
    expected = reference_states(scheduler, network, x if name != "dpmpp_2m" else x.float()).double()
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-4)


@every_schedule
@pytest.mark.parametrize(
    ("sampler", "n_steps", "tolerance"),
    [
        (DDIMSampler(), 1000, 0.01),
        (EulerSampler(), 1000, 0.01),
        (DPMPP2MSampler(), 100, 0.01),
        (DPMPP2MSampler(), 20, 0.04),
    ],
)
def test_solves_the_probability_flow(mixture, noise, schedule, sampler, n_steps, tolerance):
    """An ODE solver that knows nothing of timesteps, on dx/dr = (x - x_0) / r with r = sigma / alpha (EDM, eq. 3)."""
    x = noise(40)
    alpha, sigma = (c.item() for c in schedule.coefficients([schedule.n_timesteps - 1]))

    def slope(log_r, flat):
        scaled, r = torch.from_numpy(flat).reshape(-1, 2), np.exp(log_r)
        a = 1 / np.sqrt(1 + r**2)
        return (scaled - mixture.posterior(a * scaled, a, a * r)[1]).flatten().numpy()

    span = (np.log(sigma / alpha), np.log(1e-5))
    solution = solve_ivp(slope, span, (x / alpha).flatten().numpy(), rtol=1e-7, atol=1e-8)
    expected = torch.from_numpy(solution.y[:, -1]).reshape(-1, 2)
    deviation = (sampler.sample(mixture.denoiser(schedule), x, schedule, n_steps) - expected).norm(dim=1)
    assert deviation.median() < tolerance


@every_schedule
def test_ddpm_with_the_variance_of_the_forward_step(mixture, noise, schedule):
    scheduler = diffusers.DDPMScheduler(
        clip_sample=False, prediction_type="sample", timestep_spacing="trailing", variance_type="fixed_large"
    )
    exact(scheduler, schedule).set_timesteps(50)
    denoise, x = mixture.denoiser(schedule), noise(16)
    expected = reference_states(scheduler, denoise, x)
    ours = states(DDPMSampler(variance_weight=1.0), denoise, x, schedule, 50)
    # at the clean end, diffusers adds noise where Ho's algorithm 2 does not
    torch.testing.assert_close(ours[:-1], expected[:-1], rtol=0, atol=1e-8)


@every_schedule
def test_ddpm_variances_lie_between_on_a_logarithmic_scale(noise, schedule):
    """A step's noise has the standard deviations s, sqrt(s S) and S: its square in the middle is the others' product."""

    def first_step(weight):
        return states(DDPMSampler(variance_weight=weight), lambda x, t: 0 * x, noise(16), schedule, 10)[1]

    smallest, middle, largest = (first_step(weight) for weight in (0.0, 0.5, 1.0))
    ratio = ((largest - middle) / (middle - smallest)).square()  # (S / s) of every coordinate
    alpha, sigma = schedule.coefficients(DDPMSampler().timesteps(10, None, schedule)[:2])
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(sigma[0] / sigma[1])), rtol=1e-6, atol=0)
