import pytest
import torch

from scdiffusion.diffusion import DiffusionProcess, LinearSchedule, loss_weightings, predictions, schedules

everything = pytest.mark.parametrize("prediction", list(predictions))
every_schedule = pytest.mark.parametrize("schedule", list(schedules))


@pytest.fixture
def batch():
    """x0 and noise, (200, 4) each, and timesteps (200,) that include both ends."""
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 200, 4, generator=generator, dtype=torch.float64)
    t = torch.randint(1000, (200,), generator=generator)
    t[0], t[-1] = 0, 999
    return x0, noise, t


@every_schedule
@everything
def test_target_leads_back_to_data_and_noise(prediction, schedule, batch):
    process = DiffusionProcess(schedule, prediction)
    x0, noise, t = batch
    x_t = process.add_noise(x0, noise, t)
    recovered = process.to_x0(process.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(recovered, x0, rtol=0, atol=1e-6)
    torch.testing.assert_close(process.to_epsilon(x0, x_t, t), noise, rtol=0, atol=1e-6)


@every_schedule
def test_noising_agrees_with_diffusers(schedule, batch):
    diffusers = pytest.importorskip("diffusers")
    process = DiffusionProcess(schedule, "v")
    scheduler = diffusers.DDPMScheduler(trained_betas=process.schedule.betas.numpy())
    x0, noise, t = batch
    torch.testing.assert_close(process.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), rtol=0, atol=1e-5)
    torch.testing.assert_close(process.target(x0, noise, t), scheduler.get_velocity(x0, noise, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
@every_schedule
@everything
def test_min_snr_weighs_the_error_of_x0_alike_whatever_is_predicted(prediction, schedule, gamma, batch):
    process = DiffusionProcess(schedule, prediction, min_snr_gamma=gamma)
    x0, noise, t = batch
    x_t = process.add_noise(x0, noise, t)
    estimate = x0 + 0.3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    output = process.target(estimate, process.to_epsilon(estimate, x_t, t), t)
    alpha, sigma = process.schedule.coefficients(t.tolist())
    expected = (alpha**2 / sigma**2).clamp(max=gamma) * (estimate - x0).square().mean(1)
    torch.testing.assert_close(process.loss(output, x0, noise, t), expected, rtol=1e-3, atol=0)


@everything
def test_uniform_is_the_plain_squared_error(prediction, batch):
    process = DiffusionProcess(prediction=prediction, loss_weighting="uniform")
    x0, noise, t = batch
    output = torch.zeros_like(x0)
    loss = process.loss(output, x0, noise, t)
    assert loss.shape == (200,)
    torch.testing.assert_close(loss, process.target(x0, noise, t).square().mean(1))


@everything
@pytest.mark.parametrize("loss_weighting", list(loss_weightings))
def test_perfect_output_costs_nothing_and_gradients_are_finite(prediction, loss_weighting, batch):
    process = DiffusionProcess(prediction=prediction, loss_weighting=loss_weighting)
    x0, noise, t = batch
    target = process.target(x0, noise, t)
    assert process.loss(target, x0, noise, t).abs().max() == 0
    output = torch.zeros_like(x0, requires_grad=True)
    process.loss(output, x0, noise, t).mean().backward()
    assert output.grad.isfinite().all()


def test_instances_are_accepted():
    schedule = LinearSchedule(50)
    process = DiffusionProcess(schedule, predictions.resolve("x0"), loss_weightings.resolve("uniform"))
    assert process.schedule is schedule
    assert process.n_timesteps == 50


def test_schedule_moves_with_the_process():
    assert DiffusionProcess().to("meta").schedule.alpha.device.type == "meta"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"schedule": "linaer"}, "Did you mean 'linear'"),
        ({"prediction": "eps"}, "Available: epsilon, v, x0"),
        ({"loss_weighting": "snr"}, "Available: min_snr, uniform"),
        ({"min_snr_gamma": 0.0}, r"above 0, e\.g\. 5\.0"),
        ({"n_timesteps": 0}, "at least 1"),
    ],
)
def test_impossible_settings(setting, message):
    with pytest.raises(ValueError, match=message):
        DiffusionProcess(**setting)
