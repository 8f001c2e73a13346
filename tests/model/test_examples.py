"""Cells of a category that was never trained on, generated from a few of them."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

import scdiffusion as scd
from scdiffusion import metrics
from scdiffusion.autoencoders import CountParameters
from scdiffusion.model._combinations import CombinationMeans

HELD_OUT = "CD56+ NK"


@pytest.fixture(scope="module")
def cells():
    return scd.datasets.pbmc68k_reduced()


@pytest.fixture(scope="module")
def examples(cells):
    return cells[cells.obs["bulk_labels"] == HELD_OUT].copy()


@pytest.fixture(scope="module")
def model(cells):
    """Knows categories by name only, and all but one of them."""
    train = cells[cells.obs["bulk_labels"] != HELD_OUT].copy()
    scd.SCDiffusion.setup_anndata(train, layer="counts", condition_keys=["bulk_labels", "phase"])
    model = scd.SCDiffusion(train, rng=0)
    model.train(max_epochs={"autoencoder": 5, "diffusion": 25}, progress=False, rng=0)
    return model


def profile(counts) -> np.ndarray:
    return np.ravel(metrics.log_normalise(counts).mean(0))


def test_a_few_cells_are_enough_for_more_of_their_kind(model, cells, examples):
    few, rest = examples[:10].copy(), profile(examples[10:].layers["counts"])
    drawn = profile(model.generate(200, {"bulk_labels": few}, rng=0).X)
    trained = [
        profile(cells[cells.obs["bulk_labels"] == name].layers["counts"])
        for name in model.composition.categories["bulk_labels"]
    ]
    assert np.linalg.norm(drawn - rest) < 0.9 * np.linalg.norm(np.array(trained) - rest, axis=1).min()


def test_more_cells_than_were_given_are_not_copies(model, examples):
    few = examples[:10].copy()
    drawn = model.generate(100, {"bulk_labels": few}, rng=0)
    log, given = metrics.log_normalise(drawn.X).toarray(), metrics.log_normalise(few.layers["counts"]).toarray()
    among_given = cdist(given, given)
    np.fill_diagonal(among_given, np.inf)
    assert np.median(cdist(log, given).min(1)) > 0.7 * np.median(among_given.min(1))


def test_other_conditions_hold_and_the_given_one_has_no_name(model, examples):
    drawn = model.generate(30, {"bulk_labels": examples, "phase": {"S": 10, "G1": 20}}, rng=0)
    assert drawn.obs["bulk_labels"].isna().all()
    assert drawn.obs["phase"].value_counts().to_dict() == {"G1": 20, "S": 10, "G2M": 0}
    assert drawn.uns["scdiffusion"]["profiles"] == ["bulk_labels"]


def test_the_order_of_genes_does_not_matter_and_missing_ones_are_named(model, examples):
    straight = model.generate(20, {"bulk_labels": examples}, rng=0)
    turned = model.generate(20, {"bulk_labels": examples[:, ::-1].copy()}, rng=0)
    assert (straight.X != turned.X).nnz == 0
    with pytest.raises(ValueError, match="lacks 5 of the model's"):
        model.generate(20, {"bulk_labels": examples[:, 5:].copy()})
    with pytest.raises(ValueError, match="given as cells, but there are none"):
        model.generate(20, {"bulk_labels": examples[:0].copy()})


def test_what_was_begun_from_other_cells_is_not_gone_on_with(model, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("scdiffusion.model._streaming.Stream._join", lambda *_: 1 / 0)
    ask = {"rng": 0, "output": tmp_path / "cells.h5ad"}
    with pytest.raises(ZeroDivisionError):
        model.generate(20, {"bulk_labels": examples[:10].copy()}, **ask)
    with pytest.raises(ValueError, match="shift"):
        model.generate(20, {"bulk_labels": examples[10:].copy()}, **ask)


def test_the_nearest_category_is_shifted_to_the_cells_as_far_as_they_are_many():
    means = CombinationMeans(
        codes=np.array([[0, 0], [0, 1], [1, 0]]),
        n_cells=np.array([30, 10, 40]),
        means=np.array([[0.0, 0.0], [4.0, 0.0], [9.0, 9.0]]),  # of the first category (1, 0)
        variance=8.0,
    )
    code, shift = means.approach(0, np.full((10_000, 2), [1.0, 2.0]))
    assert code == 0
    np.testing.assert_allclose(shift, [0.0, 2.0], rtol=1e-3)
    _, shift = means.approach(0, np.full((4, 2), [1.0, 2.0]))  # 8 / 4 of a squared length of 4
    np.testing.assert_allclose(shift, [0.0, 1.0])
    _, shift = means.approach(0, np.full((1, 2), [1.0, 2.0]))
    np.testing.assert_array_equal(shift, 0.0)


@pytest.mark.parametrize("zero_logits", [None, torch.linspace(-3, 3, 15).view(3, 5)])
def test_reweighting_keeps_the_library_size(zero_logits):
    parameters = CountParameters(torch.randn(3, 5), zero_logits=zero_logits)
    factors = torch.tensor([1.0, 3.0, 1.0, 1.0, 0.5])
    moved = parameters.reweighted(factors.log())
    torch.testing.assert_close(moved.mean.sum(1), parameters.mean.sum(1))
    share = (moved.mean / parameters.mean) / (moved.mean / parameters.mean)[:, :1]
    torch.testing.assert_close(share, factors.expand(3, 5))
