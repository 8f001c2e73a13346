import numpy as np
import pytest
from scipy.stats import spearmanr

import scdiffusion as scd


def test_states_are_placed_in_the_order_of_development(continuum):
    """Real cells in place of generated ones."""
    is_state = np.arange(continuum.n_obs) % 4 == 0
    states, others = (continuum[rows].copy() for rows in (is_state, ~is_state))
    scd.tl.pseudotime(states, others, root=others.obs["time"].idxmin())
    assert spearmanr(states.obs["pseudotime"], states.obs["time"]).statistic > 0.9
    assert states.obs["pseudotime"].between(0, 1).all()
    assert "dpt_pseudotime" not in others.obs and not others.obsm.keys()


def test_the_root_is_by_default_one_of_the_cells_that_states_started_from(continuum):
    states = continuum[continuum.obs["time"] > 2.5].copy()
    states.obs["start_cell"] = states.obs_names
    copied = scd.tl.pseudotime(states, continuum, key_added="dpt", copy=True)
    assert "dpt" not in states.obs and copied.obs["dpt"].median() < 0.3
    del states.obs["start_cell"]
    with pytest.raises(ValueError, match=r"pass root.*e\.g\. root='cell"):
        scd.tl.pseudotime(states, continuum)


def test_a_time_that_is_known_is_read_from_the_neighbours(development):
    states = development[:50].copy()
    scd.tl.pseudotime(states, development, obs_key="time", n_neighbors=1)
    np.testing.assert_array_equal(states.obs["pseudotime"], states.obs["time"])
    gaps = development.copy()
    gaps.obs["time"] = gaps.obs["time"].where(gaps.obs["stage"] == "last")
    scd.tl.pseudotime(states, gaps, obs_key="time", n_neighbors=1)
    assert np.isinf(states.obs["pseudotime"]).equals(states.obs["stage"] != "last")


def test_mistakes_say_what_to_type(development):
    with pytest.raises(ValueError, match="e.g. 'cell0'; got 'cell'"):
        scd.tl.pseudotime(development[:50].copy(), development, root="cell")
    with pytest.raises(ValueError, match="Did you mean 'time'"):
        scd.tl.pseudotime(development[:50].copy(), development, obs_key="times")
