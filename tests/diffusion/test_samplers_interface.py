import pytest
import torch

from scdiffusion.diffusion import CosineSchedule, DDIMSampler, DPMPP2MSampler, Sampler, samplers, schedules

NAMES = ["ddpm", "ddim", "euler", "dpmpp_2m"]
every_sampler = pytest.mark.parametrize("sampler", [samplers.resolve(name) for name in NAMES], ids=NAMES)
every_random_sampler = pytest.mark.parametrize(
    "sampler", [samplers.resolve("ddpm"), DDIMSampler(eta=1.0)], ids=["ddpm", "ddim-eta-1"]
)


def test_registry_is_complete():
    assert set(samplers) == set(NAMES)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize(
    "sampler", [*map(samplers.resolve, NAMES), DPMPP2MSampler("timestep")], ids=[*NAMES, "dpmpp_2m-timestep"]
)
def test_timesteps_are_as_many_as_asked_for_and_strictly_descending(sampler, schedule):
    schedule = schedules.resolve(schedule, n_timesteps=15)
    for start in range(15):
        for n_steps in range(1, start + 2):
            timesteps = sampler.timesteps(n_steps, start, schedule)
            assert len(timesteps) == n_steps
            assert timesteps[0] == start
            assert timesteps[-1] >= 0
            assert all(a > b for a, b in zip(timesteps[:-1], timesteps[1:], strict=True))
    assert sampler.timesteps(15, None, schedule) == list(range(14, -1, -1))


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("start", [None, 599])
def test_steps_are_equally_long_in_the_samplers_own_clock(schedule, start):
    schedule = schedules.resolve(schedule)
    clocks = {
        "ddpm": lambda timestep, alpha, sigma: timestep + 1,
        "ddim": lambda timestep, alpha, sigma: timestep + 1,
        "euler": lambda timestep, alpha, sigma: sigma / (alpha + sigma),
        "dpmpp_2m": lambda timestep, alpha, sigma: ((sigma + 0.05) / (alpha + 0.05)).log(),
    }
    for name, clock in clocks.items():
        timesteps = torch.tensor(samplers.resolve(name).timesteps(20, start, schedule))
        time = clock(timesteps, *schedule.coefficients(timesteps.tolist())).double()
        clean = clock(torch.tensor(-1), torch.tensor(1.0), torch.tensor(0.0))
        expected = torch.linspace(time[0].item(), clean.item(), 21, dtype=torch.float64)[:-1]
        step = (expected[0] - expected[1]).item()
        torch.testing.assert_close(time, expected, rtol=0, atol=0.15 * step)  # timesteps are whole numbers


@every_sampler
def test_denoiser_is_called_as_promised(sampler, noise):
    schedule, seen = CosineSchedule(), []

    def denoise(x, t):
        assert t.shape == (5,)
        assert t.dtype == torch.long
        assert t.unique().numel() == 1
        seen.append(int(t[0]))
        return x

    sample = sampler.sample(denoise, noise(5), schedule, 7, start=600)
    assert sample.shape == (5, 2)
    assert seen == sampler.timesteps(7, 600, schedule)


@every_sampler
def test_default_number_of_steps(sampler):
    assert len(sampler.timesteps(None, None, CosineSchedule())) == sampler.default_n_steps
    assert len(sampler.timesteps(None, 9, CosineSchedule())) == 10


@every_sampler
def test_one_step_is_the_denoisers_first_estimate(sampler, noise):
    estimate = noise(5, seed=3)
    sample = sampler.sample(lambda x, t: estimate, noise(5), CosineSchedule(), 1)
    torch.testing.assert_close(sample, estimate)


@every_sampler
def test_last_estimate_is_the_sample(sampler, mixture, noise):
    schedule, estimates = CosineSchedule(), []

    def denoise(x, t):
        estimates.append(mixture.denoiser(schedule)(x, t))
        return estimates[-1]

    sample = sampler.sample(denoise, noise(5), schedule, 12)
    torch.testing.assert_close(sample, estimates[-1])


@every_random_sampler
def test_the_seed_decides(sampler, mixture, noise):
    schedule = CosineSchedule()

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        return sampler.sample(mixture.denoiser(schedule), noise(8), schedule, 20, generator=generator)

    assert torch.equal(draw(0), draw(0))
    assert not torch.allclose(draw(0), draw(1))


@every_random_sampler
def test_global_random_state_is_left_alone(sampler, noise):
    before = torch.get_rng_state()
    sampler.sample(lambda x, t: x, noise(8), CosineSchedule(), 5, generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m"])
def test_deterministic_samplers_draw_nothing(name, mixture, noise):
    schedule, generator = CosineSchedule(), torch.Generator().manual_seed(0)
    before = generator.get_state()
    samplers.resolve(name).sample(mixture.denoiser(schedule), noise(8), schedule, 10, generator=generator)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m"])
def test_single_precision_suffices(name, mixture, noise):
    schedule, sampler = CosineSchedule(), samplers.resolve(name)
    denoise = mixture.denoiser(schedule)
    double = sampler.sample(denoise, noise(50), schedule, 20)
    single = sampler.sample(denoise, noise(50).float(), schedule, 20)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@every_sampler
def test_the_loop_never_waits_for_the_device(sampler):
    """Tensors of the meta device hold no values: reading one would raise."""
    x = torch.empty(4, 2, device="meta")
    sample = sampler.sample(lambda x, t: x * t[:, None], x, CosineSchedule().to("meta"), 20)
    assert sample.device.type == "meta"
    assert sample.dtype == torch.float32


@every_sampler
def test_no_graph_is_kept_but_the_denoiser_may_differentiate(sampler, noise):
    network = torch.nn.Linear(2, 2).double()

    def denoise(x, t):
        with torch.enable_grad():  # as classifier guidance does
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(network(x).sum(), x)
        return network(x) + slope

    assert not sampler.sample(denoise, noise(4), CosineSchedule(), 3).requires_grad


def test_own_sampler_needs_only_its_algorithm(noise):
    class LastEstimate(Sampler):
        default_n_steps = 3

        def integrate(self, denoise, x, alpha, sigma, generator):
            for i in range(len(alpha) - 1):
                x = denoise(x, i)
            return x

    sampler = samplers.resolve(LastEstimate())
    torch.testing.assert_close(sampler.sample(lambda x, t: x / 2, noise(4), CosineSchedule()), noise(4) / 8)


@every_sampler
@pytest.mark.parametrize("n_steps", [0, -1, 1001, 2.5])
def test_impossible_number_of_steps(sampler, noise, n_steps):
    with pytest.raises(ValueError, match=r"n_steps must be a whole number between 1 and 1000.*is the default of"):
        sampler.sample(lambda x, t: x, noise(2), CosineSchedule(), n_steps)


@every_sampler
def test_more_steps_than_timesteps_are_left(sampler, noise):
    with pytest.raises(ValueError, match="between 1 and 600, the timesteps that there are from timestep 599 down"):
        sampler.sample(lambda x, t: x, noise(2), CosineSchedule(), 601, start=599)


@every_sampler
@pytest.mark.parametrize("start", [-1, 1000, 0.6])
def test_impossible_start(sampler, noise, start):
    with pytest.raises(ValueError, match="start must be a timestep between 0 and 999, or None for pure noise"):
        sampler.sample(lambda x, t: x, noise(2), CosineSchedule(), 1, start=start)


@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_impossible_eta(eta):
    with pytest.raises(ValueError, match=r"eta must be between 0 \(deterministic\) and 1"):
        DDIMSampler(eta)


def test_impossible_spacing():
    with pytest.raises(ValueError, match="spacing must be 'log_snr' or 'timestep'"):
        DPMPP2MSampler("karras")


def test_unknown_name_suggests_a_near_one():
    with pytest.raises(ValueError, match="Did you mean 'dpmpp_2m'"):
        samplers.resolve("dpmpp2m")
