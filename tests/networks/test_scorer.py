import torch

from scdiffusion.networks import Scorer


def test_three_linear_layers():
    assert sum(isinstance(layer, torch.nn.Linear) for layer in Scorer(4).layers) == 3


def test_features_are_measured_by_real_cells_and_far_ones_are_no_farther():
    scorer = Scorer(3).eval()
    real = torch.randn(500, 3) * torch.tensor([1.0, 100, 0.01]) + 5
    scorer.set_standardisation(real)
    same = Scorer(3).eval()
    same.layers.load_state_dict(scorer.layers.state_dict())
    torch.testing.assert_close(scorer(real), same((real - real.mean(0)) / real.std(0)))
    far = real[:1] + 1e6
    assert torch.equal(scorer(far), scorer(far * 10))
