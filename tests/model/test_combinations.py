"""Shifts between combinations whose means are known."""

import numpy as np
import pytest
import torch

from scdiffusion.model._combinations import CombinationMeans, start_from_trained
from scdiffusion.model._composition import Plan

TYPE = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 12.0]])
STIM = np.array([[0.0, 0.0], [1.0, 2.0]])


def cells(codes, n_cells=20):
    """Cells that lie exactly at the sum of what their type and stimulation do."""
    codes = np.repeat(codes, n_cells, axis=0)
    return codes, torch.from_numpy(TYPE[codes[:, 0]] + STIM[codes[:, 1]])


@pytest.fixture
def means():
    """Three types with and without stimulation, but for the stimulated cells of the first."""
    return CombinationMeans.from_cells(*cells([[0, 0], [1, 0], [1, 1], [2, 0], [2, 1]]))


def test_what_acts_alike_everywhere_is_exact(means):
    assert means.shift(np.array([0, 0]), np.array([0, 1])) == pytest.approx([1, 2])
    assert means.shift(np.array([1, 1]), np.array([1, 0])) == pytest.approx([-1, -2])
    assert means.shift(np.array([-1, 0]), np.array([-1, 1])) == pytest.approx([1, 2])


def test_near_and_well_known_combinations_count_more():
    def shift_of(distance, n_cells):
        rng = np.random.default_rng(0)
        codes = np.array([[0, 0]] * 50 + [[1, 0]] * n_cells + [[1, 1]] * n_cells + [[2, 0]] * 50 + [[2, 1]] * 50)
        features = rng.normal(0, 0.1, (len(codes), 1))
        features[codes[:, 0] == 1] += distance
        features[codes[:, 0] == 2] -= 3
        features[(codes == [1, 1]).all(1)] += 1  # stimulation does this to one type and that to the other
        features[(codes == [2, 1]).all(1)] -= 1
        means = CombinationMeans.from_cells(codes, torch.from_numpy(features))
        return means.shift(np.array([0, 0]), np.array([0, 1]))[0]

    assert shift_of(distance=1, n_cells=50) > 0.5 > 0 > shift_of(distance=9, n_cells=50)
    assert shift_of(distance=1, n_cells=1) < shift_of(distance=1, n_cells=50)


def test_a_trained_target_decides():
    rng = np.random.default_rng(0)
    codes = np.repeat([[0, 0], [0, 1], [1, 0], [1, 1]], 200, axis=0)
    features = rng.normal(0, 0.1, (len(codes), 1)) + 5.0 * codes[:, :1]
    features[(codes == [0, 1]).all(1)] += 3
    means = CombinationMeans.from_cells(codes, torch.from_numpy(features))
    assert means.shift(np.array([0, 0]), np.array([0, 1])) == pytest.approx(3, abs=0.1)


def test_one_cell_of_each(means):
    single = CombinationMeans.from_cells(*cells([[0, 0], [1, 0], [1, 1]], n_cells=1))
    assert single.shift(np.array([1, 0]), np.array([1, 1])) == pytest.approx([1, 2])


def test_nothing_to_go_by(means):
    assert means.shift(np.array([0, 0]), np.array([0, 7])) is None
    alone = CombinationMeans.from_cells(*cells([[0, 0], [1, 1]]))
    assert alone.shift(np.array([0, 0]), np.array([0, 1])) is None and alone.detour(np.array([0, 1])) is None


def test_the_detour_is_by_the_condition_that_matters_less(means):
    detour = means.detour(np.array([0, 1]))
    assert detour.key == 1 and detour.codes.tolist() == [0] and detour.shifts[0] == pytest.approx([1, 2])


def test_detours_are_drawn_as_often_as_their_cells():
    codes = np.array([[0, 0]] * 30 + [[0, 1]] * 10 + [[1, 0]] * 5 + [[1, 1]] * 5 + [[1, 2]] * 5)
    features = torch.randn(len(codes), 3, generator=torch.Generator().manual_seed(0))
    features[codes[:, 0] == 1] += 10
    means = CombinationMeans.from_cells(codes, features)
    asked = Plan(np.array([[0, 2]] * 4000 + [[0, 0]] * 100), np.empty((4100, 0)))
    drawn_as, shifts = start_from_trained(asked, means, np.random.default_rng(0))
    assert (drawn_as.codes[:4000, 1] == 0).mean() == pytest.approx(0.75, abs=0.03)
    assert set(drawn_as.codes[:4000, 1]) == {0, 1} and (drawn_as.codes[:, 0] == 0).all()
    assert (drawn_as.codes[4000:] == 0).all() and (asked.codes[:4000, 1] == 2).all() and shifts.shape == (4100, 3)


def test_what_was_trained_on_and_what_is_left_open_stays(means):
    asked = Plan(np.array([[0, 0], [-1, 1], [2, -1]]), np.empty((3, 0)))
    drawn_as, shifts = start_from_trained(asked, means, np.random.default_rng(0))
    assert shifts is None and (drawn_as.codes == asked.codes).all()


def test_saved_means_are_the_same(means):
    means.shift(np.array([0, 0]), np.array([0, 1]))
    again = CombinationMeans.from_dict(means.to_dict())
    assert (again.means == means.means).all() and again.variance == means.variance
