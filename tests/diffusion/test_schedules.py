import pytest
import torch

from scdiffusion.diffusion import CosineSchedule, LinearSchedule, NoiseSchedule, schedules


@pytest.mark.parametrize(("name", "reference"), [("linear", "linear"), ("cosine", "squaredcos_cap_v2")])
def test_agrees_with_diffusers(name, reference):
    diffusers = pytest.importorskip("diffusers")
    schedule = schedules.resolve(name, n_timesteps=1000)
    scheduler = diffusers.DDPMScheduler(1000, beta_start=1e-4, beta_end=0.02, beta_schedule=reference)
    torch.testing.assert_close(schedule.betas, scheduler.betas, rtol=2e-5, atol=1e-8)
    torch.testing.assert_close(schedule.alpha_bar, scheduler.alphas_cumprod, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("n_timesteps", [1, 10, 100, 1000])
@pytest.mark.parametrize("name", list(schedules))
def test_noise_only_grows(name, n_timesteps):
    schedule = schedules.resolve(name, n_timesteps=n_timesteps)
    for buffer in (schedule.betas, schedule.alpha_bar, schedule.alpha, schedule.sigma, schedule.log_snr):
        assert buffer.shape == (n_timesteps,)
        assert buffer.dtype == torch.float32
        assert buffer.isfinite().all()
    assert (schedule.log_snr.diff() < 0).all()
    torch.testing.assert_close(schedule.alpha**2 + schedule.sigma**2, torch.ones(n_timesteps))
    torch.testing.assert_close(schedule.log_snr.exp(), (schedule.alpha / schedule.sigma) ** 2, rtol=1e-4, atol=0)


def test_linear_ends_as_noisy_whatever_its_length():
    long, short = LinearSchedule(1000), LinearSchedule(100)
    assert short.log_snr[-1] == pytest.approx(long.log_snr[-1].item(), abs=1)


def test_coefficients_keep_double_precision_when_the_module_does_not():
    schedule = LinearSchedule().half()
    alpha, sigma = schedule.coefficients([0, 999])
    assert alpha.dtype == torch.float64
    assert sigma[0].item() == pytest.approx(0.01, abs=1e-12)  # sqrt(1e-4)
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones(2, dtype=torch.float64), rtol=1e-15, atol=0)


def test_buffers_are_not_saved():
    assert not CosineSchedule().state_dict()


@pytest.mark.parametrize(("level", "timestep"), [(1.0, 999), (0.6, 599), (0.001, 0), (1e-9, 0)])
def test_level_to_timestep(level, timestep):
    assert CosineSchedule().level_to_timestep(level) == timestep


@pytest.mark.parametrize("level", [0.0, -0.1, 1.01, float("nan")])
def test_impossible_level(level):
    with pytest.raises(ValueError, match=r"above 0 and at most 1, e\.g\. 0\.6"):
        CosineSchedule().level_to_timestep(level)


@pytest.mark.parametrize("n_timesteps", [0, -5, 2.5])
def test_impossible_length(n_timesteps):
    with pytest.raises(ValueError, match=r"whole number of at least 1, e\.g\. 1000"):
        CosineSchedule(n_timesteps)


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match="Did you mean 'cosine'"):
        schedules.resolve("cosin")


def test_own_schedule_needs_only_its_variances():
    class Constant(NoiseSchedule):
        def variances(self, n_timesteps):
            return torch.full((n_timesteps,), 0.1)

    torch.testing.assert_close(Constant(5).alpha_bar, 0.9 ** torch.arange(1, 6))
