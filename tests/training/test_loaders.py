import numpy as np
import scipy.sparse as sp
import torch

from scdiffusion.networks import Conditions
from scdiffusion.training import ExpressionLoader, FixedLatents, LatentLoader


def counts(n_cells):
    """Each cell is recognised by its only count."""
    return sp.csr_matrix(np.diag(np.arange(1, n_cells + 1)).astype(np.float32))


def test_shuffled_epochs_cover_each_cell_once_before_any_twice():
    loader = ExpressionLoader(counts(64), np.arange(64), batch_size=16, shuffle=True)
    torch.manual_seed(0)
    first, second = ([(x.sum(1) - 1).long() for x, _ in loader] for _ in range(2))
    for epoch in (first, second):
        assert torch.equal(torch.cat(epoch).sort().values, torch.arange(64))
    assert not torch.equal(torch.cat(first), torch.cat(second))


def test_batch_codes_stay_with_their_cells():
    for x, batch in ExpressionLoader(counts(50), np.arange(50), batch_size=7, shuffle=True):
        assert torch.equal(x.sum(1).long() - 1, batch)


def test_validation_keeps_the_order_and_the_last_partial_batch():
    batches = [x for x, _ in ExpressionLoader(counts(10), None, batch_size=4, shuffle=False)]
    assert [len(x) for x in batches] == [4, 4, 2]
    assert torch.equal(torch.cat(batches).argmax(1), torch.arange(10))


def test_latents_are_drawn_anew_from_each_posterior():
    mean, scale = torch.arange(100.0)[:, None], torch.full((100, 1), 0.1)
    loader = LatentLoader(mean, scale, Conditions(torch.arange(100)[:, None]), batch_size=100)
    torch.manual_seed(0)
    drawn = torch.stack([x[conditions.codes[:, 0].argsort(), 0] for x, conditions in loader])  # (n_batches, n_cells)
    assert len(drawn) == len(loader) == 25
    assert (drawn.mean(0) - mean[:, 0]).abs().max() < 0.1
    assert 0.09 < (drawn - mean[:, 0]).std() < 0.11


def test_held_out_latents_are_the_same_at_every_validation():
    fixed = FixedLatents(torch.zeros(30, 2), torch.ones(30, 2), Conditions(torch.zeros(30, 1, dtype=torch.long)), 1000)
    (first,), (second,) = list(fixed), list(fixed)
    assert all(torch.equal(first[i], second[i]) for i in (0, 2, 3))
    timesteps = first[3]
    assert timesteps.min() == 0 and timesteps.max() == 999
    assert abs(float(timesteps.float().mean()) - 499.5) < 1
