import pytest
import torch

from scdiffusion.diffusion import DiffusionProcess, classifier_free


@pytest.fixture
def estimates():
    return torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_landmarks(estimates):
    conditional, unconditional = estimates
    assert torch.equal(classifier_free(conditional, unconditional, 0.0), conditional)
    assert torch.equal(classifier_free(conditional, unconditional, -1.0), unconditional)
    torch.testing.assert_close(classifier_free(conditional, unconditional, 1.0), 2 * conditional - unconditional)


def test_one_scale_per_sample(estimates):
    scales = torch.tensor([-1.0, 0.0, 0.5, 1.0, 2.0, 5.0])[:, None]
    guided = classifier_free(*estimates, scales)
    for i, scale in enumerate(scales[:, 0].tolist()):
        torch.testing.assert_close(guided[i], classifier_free(*estimates, scale)[i])


def test_guiding_x0_is_guiding_the_noise(estimates):
    process = DiffusionProcess()
    x_t = torch.randn(6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    t = torch.tensor([0, 1, 50, 300, 700, 950])
    of_noise = 2.5 * process.to_epsilon(estimates[0], x_t, t) - 1.5 * process.to_epsilon(estimates[1], x_t, t)
    of_x0 = process.to_epsilon(classifier_free(*estimates, 1.5), x_t, t)
    torch.testing.assert_close(of_x0, of_noise)
