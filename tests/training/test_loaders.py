import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdiffusion.networks import Conditions
from scdiffusion.training import (
    ExpressionLoader,
    FixedExpression,
    FixedLatents,
    InMemoryExpression,
    LatentLoader,
    _loaders,
)


def counts(n_cells):
    """Each cell is recognised by its only count."""
    return sp.csr_matrix(np.diag(np.arange(1, n_cells + 1)).astype(np.float32))


class Runs(InMemoryExpression):
    """Matrix in memory that is read like one on disk, and counts its rows."""

    run_length = 8
    n_read = 0

    def take(self, rows):
        self.n_read += len(rows)
        return super().take(rows)


def cells_of(batches):
    return [(x.sum(1) - 1).long().numpy() for x, _ in batches]


@pytest.mark.parametrize("source", [InMemoryExpression, Runs])
@pytest.mark.parametrize("batch_size", [16, 24])
def test_cells_come_up_once_before_any_comes_up_twice(source, batch_size, monkeypatch):
    monkeypatch.setattr(_loaders, "_BUFFER", 40)
    cells = np.delete(np.arange(100), [3, 50, 51, 99])
    loader = ExpressionLoader(source(counts(100)), cells, np.arange(100), batch_size)
    seen = np.concatenate([np.concatenate(cells_of(loader)) for _ in range(3)])
    first, second = seen[:96], seen[96:192]
    assert np.array_equal(np.sort(first), cells) and np.array_equal(np.sort(second), cells)
    assert not np.array_equal(first, second)
    again = ExpressionLoader(source(counts(100)), cells, np.arange(100), batch_size)
    assert np.array_equal(np.concatenate(cells_of(again)), first[: len(again) * batch_size])


def test_rows_on_disk_are_read_once_each_pass():
    source = Runs(counts(1000))
    loader = ExpressionLoader(source, np.arange(1000), None, batch_size=100)
    list(loader)
    assert source.n_read == 1000


def test_batches_of_sorted_cells_on_disk_are_mixed():
    n_cells, n_types = 20_000, 4
    types = np.arange(n_cells) * n_types // n_cells
    source = Runs(sp.csr_matrix(types[:, None].astype(np.float32)))
    source.run_length = 256
    loader = ExpressionLoader(source, np.arange(n_cells), types, batch_size=128)
    shares = np.stack([np.bincount(batch, minlength=n_types) / len(batch) for _, batch in loader])
    assert np.abs(shares - 1 / n_types).max() < 5 * np.sqrt(3 / 16 / 128)  # binomial, within five standard deviations


def test_batch_codes_stay_with_their_cells():
    for x, batch in ExpressionLoader(InMemoryExpression(counts(50)), np.arange(50), np.arange(50), batch_size=7):
        assert torch.equal(x.sum(1).long() - 1, batch)


@pytest.mark.parametrize("source", [InMemoryExpression, Runs])
def test_processes_share_the_cells_of_an_epoch(source, monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(_loaders.dist, "get_rank", lambda rank=rank: rank)
        loader = ExpressionLoader(source(counts(64)), np.arange(64), None, batch_size=16)
        loader.n_processes = 2
        assert len(loader) == 2
        seen += cells_of(loader)
    assert np.array_equal(np.sort(np.concatenate(seen)), np.arange(64))


def test_processes_share_the_latents_of_an_epoch(monkeypatch):
    mean = torch.arange(128.0)[:, None]
    seen = []
    for rank in range(2):
        monkeypatch.setattr(_loaders.dist, "get_rank", lambda rank=rank: rank)
        loader = LatentLoader(mean, torch.zeros(128, 1), Conditions(torch.zeros(128, 1, dtype=torch.long)), 32)
        loader.n_processes = 2
        seen += [x[:, 0] for x, _ in list(loader)[:2]]
    assert torch.equal(torch.cat(seen).sort().values, mean[:, 0])


def test_validation_keeps_the_order_and_the_last_partial_batch():
    held_out = FixedExpression(InMemoryExpression(counts(20)), np.arange(10, 20), None, batch_size=4)
    batches = [x for x, _ in held_out]
    assert [len(x) for x in batches] == [4, 4, 2] and len(held_out) == 3
    assert torch.equal(torch.cat(batches).argmax(1), torch.arange(10, 20))


def test_validation_is_on_a_bounded_number_of_cells_from_everywhere():
    held_out = FixedExpression(InMemoryExpression(counts(100)), np.arange(100), np.arange(100), batch_size=50, most=30)
    ((x, batch),) = held_out
    assert np.array_equal(batch, np.arange(0, 100, 4)) and torch.equal(x.argmax(1), batch)


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
