import numpy as np
import pytest
from scipy.spatial.distance import cdist

from scdiffusion import metrics

rng = np.random.default_rng(0)
train, heldout, fresh = rng.normal(size=(3, 600, 8))


def noisy_copies(noise):
    return train + noise * np.random.default_rng(1).normal(size=train.shape)


def test_ratio_against_brute_force():
    expected = np.median(cdist(fresh, train).min(axis=1)) / np.median(cdist(heldout, train).min(axis=1))
    assert metrics.nearest_training_ratio(fresh, train, heldout) == pytest.approx(expected)


def test_ratio_is_zero_for_copies_one_for_fresh_cells_and_large_for_strangers():
    ratios = [
        metrics.nearest_training_ratio(generated, train, heldout)
        for generated in (train, noisy_copies(0.1), noisy_copies(0.3), fresh, fresh + 5)
    ]
    assert ratios == sorted(ratios)
    assert ratios[0] == 0
    assert ratios[3] == pytest.approx(1, abs=0.05)
    assert ratios[4] > 3


def test_membership_is_a_coin_toss_for_fresh_cells():
    draws = np.random.default_rng(2).normal(size=(150, 3, 100, 5))
    values = [metrics.membership_auc(*draw) for draw in draws]
    assert np.mean(values) == pytest.approx(0.5, abs=0.012)


def test_membership_is_told_by_copies_the_more_the_closer_they_are():
    values = [metrics.membership_auc(train, heldout, noisy_copies(noise)) for noise in (0, 0.3, 0.6, 3)]
    assert values[0] == 1
    assert values == sorted(values, reverse=True)
    assert values[2] > 0.57
    assert values[3] == pytest.approx(0.5, abs=0.06)


def test_membership_does_not_depend_on_density_alone():
    """Training cells in a crowded place are not members for that: the reference density cancels it."""
    crowded, sparse = 0.2 * train, 5 * heldout
    population = np.random.default_rng(3)
    generated = np.concatenate([0.2 * population.normal(size=(600, 8)), 5 * population.normal(size=(600, 8))])
    reference = np.concatenate([0.2 * fresh[:300], 5 * fresh[300:]])
    assert metrics.membership_auc(crowded, reference, generated) == pytest.approx(0.5, abs=0.06)
    assert metrics.membership_auc(sparse, reference, generated) == pytest.approx(0.5, abs=0.06)


def donor_cells(seed, n_donors=8, n_cells=40):
    """Cells around the donors' own states."""
    rng = np.random.default_rng(seed)
    centres = 2 * rng.normal(size=(n_donors, 4))
    donors = np.repeat(np.arange(n_donors) + 100 * seed, n_cells)
    return centres[np.repeat(np.arange(n_donors), n_cells)] + rng.normal(size=(len(donors), 4)), donors


def test_membership_by_donor():
    values = {"fresh": [], "copies": []}
    for seed in range(12):
        (A, donors_a), (B, donors_b), (C, _) = (donor_cells(3 * seed + i) for i in range(3))
        copies = A + 0.5 * np.random.default_rng(seed).normal(size=A.shape)
        for name, generated in (("fresh", C), ("copies", copies)):
            auc = metrics.membership_auc(A, B, generated, train_donors=donors_a, heldout_donors=donors_b)
            values[name].append(auc)
    # a held-out donor must not be its own reference: that alone would give members away
    assert np.mean(values["fresh"]) == pytest.approx(0.5, abs=0.1)
    assert np.mean(values["copies"]) > 0.9
