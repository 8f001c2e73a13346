import torch

from scdiffusion.networks import Scorer
from scdiffusion.training import FixedLabelled, LabelledLoader, ScorerStage, fit_stage


def test_scores_become_the_log_ratio_of_the_densities():
    torch.manual_seed(0)
    real, generated = torch.randn(4000, 2), torch.randn(8000, 2) - torch.tensor([1.0, 0])
    stage = ScorerStage(Scorer(2, n_hidden=32), real_share=1 / 3, lr=1e-2, weight_decay=1e-3)
    train, held_out = LabelledLoader(real[:3000], generated[:6000], 256), FixedLabelled(real[3000:], generated[6000:])
    fit_stage(stage, train, held_out, max_epochs=8, patience=5, accelerator="cpu", progress=False)
    x = torch.tensor([[-1.0, 0], [-0.5, 1], [0, -1], [0.5, 0]])
    with torch.no_grad():
        torch.testing.assert_close(stage.network.eval()(x), x[:, 0] + 0.5, atol=0.25, rtol=0)
    assert (
        abs(list(stage.logged["scorer_auc"].values())[-1] - 0.76) < 0.03
    )  # of two normals one standard deviation apart


def test_an_epoch_is_every_cell_once():
    loader = LabelledLoader(torch.arange(7.0)[:, None], torch.arange(7.0, 12)[:, None], 5)
    batches = list(loader)
    assert len(batches) == len(loader) == 3
    features, is_real = (torch.cat(part) for part in zip(*batches, strict=True))
    assert sorted(features.flatten().tolist()) == list(range(12)) and not torch.equal(features, loader.cells.features)
    assert torch.equal(features.flatten() < 7, is_real.bool())
