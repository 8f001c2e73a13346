"""The path from T over B to NK cells, drawn from cells of known types."""

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

from scdiffusion import pl
from scdiffusion.metrics import log_normalise, reference_pca

PATH = ["T", "B", "NK"]


def draw(states, adata, *args, **kwargs):
    return pl.interpolation(states, adata, *args, basis="pca", layer="counts", show=False, **kwargs)


@pytest.fixture
def states(generated) -> ad.AnnData:
    """Twelve cells of each type, in the order of the path; the i-th of each has the same start cell."""
    rows = [np.flatnonzero(generated.obs["cell_type"] == name)[:12] for name in PATH]
    states = generated[np.concatenate(rows)].copy()
    states.obs["state"] = np.repeat([0, 1, 2], 12)
    states.obs["weight"] = states.obs["state"] / 2
    states.obs["start_cell"] = [f"cell{i}" for i in range(12)] * 3
    states.obs["dpt"] = states.obs["state"] + np.tile(np.linspace(-0.1, 0.1, 12), 3)
    return states[np.random.default_rng(0).permutation(36)].copy()


def shares(ax):
    """Heights of the bars by colour, one number per state."""
    bars = {}
    for patch in ax.patches:
        bars.setdefault(to_hex(patch.get_facecolor()), []).append(patch.get_height())
    return {color: np.array(heights) for color, heights in bars.items()}


def test_each_state_has_its_own_stage_nearest(states, real):
    *_, ax = draw(states, real, "cell_type")
    drawn = shares(ax)
    own = dict(zip(real.obs["cell_type"].cat.categories, real.uns["cell_type_colors"], strict=True))
    assert list(drawn) == list(own.values())  # in the order of the stages
    np.testing.assert_allclose(sum(drawn.values()), 1)
    for state, name in enumerate(PATH):
        assert drawn[own[name]][state] > 0.95


def test_a_mixture_of_both_ends_skips_the_stage_between(states, real):
    ends = states[states.obs["state"] != 1].copy()
    ends.obs["state"] = np.arange(24) % 2
    *_, ax = draw(ends, real, "cell_type")
    drawn = shares(ax)
    between, source = (drawn[real.uns["cell_type_colors"][PATH.index(name)]] for name in ("B", "T"))
    assert between.max() < 0.05
    assert (np.abs(source - 0.5) < 0.35).all()


def test_cells_without_a_stage_are_nobodys_neighbours(states, real):
    real.obs.loc[real.obs["cell_type"] == "B", "cell_type"] = np.nan
    drawn = shares(draw(states, real, "cell_type")[-1])
    assert len(drawn) == 2
    np.testing.assert_allclose(sum(drawn.values()), 1)


def test_the_line_goes_through_the_medians_of_the_states(states, real):
    (ax,) = draw(states, real)
    logs = [log_normalise(X) for X in (real.layers["counts"], states.X)]
    _, projected = reference_pca(*logs, n_components=15)
    expected = [np.median(projected[states.obs["state"] == s, :2], axis=0) for s in range(3)]
    (line,) = ax.lines
    np.testing.assert_allclose(line.get_xydata(), expected, rtol=1e-4)
    assert [text.get_text() for text in ax.texts] == ["0", "2"]


def test_single_cells_are_followed_in_the_order_of_states(states, real):
    (ax,) = draw(states, real, n_paths=5)
    *ways, _ = ax.lines
    logs = [log_normalise(X) for X in (real.layers["counts"], states.X)]
    _, projected = reference_pca(*logs, n_components=15)
    assert len(ways) == 5
    for way in ways:
        rows = [np.abs(projected[:, :2] - xy).sum(axis=1).argmin() for xy in way.get_xydata()]
        assert states.obs["start_cell"].iloc[rows].nunique() == 1
        assert list(states.obs["state"].iloc[rows]) == [0, 1, 2]


def test_boxes_hold_the_pseudotime_of_each_state(states, real):
    states.obs.loc[states.obs_names[states.obs["state"] == 1][0], "dpt"] = np.inf  # DPT of a cell off the graph
    *_, ax = draw(states, real, "cell_type", pseudotime="dpt")
    assert ax.get_ylabel() == "dpt"
    assert len(ax.patches) == 3
    for state, box in enumerate(ax.patches):
        low, high = np.quantile(box.get_path().vertices[:, 1], [0, 1])
        assert state - 0.1 < low < state < high < state + 0.1
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0", "1", "2"]


def test_real_cells_are_a_sample_of_at_most_n_cells(states, real):
    first, *_ = draw(states, real, "cell_type", n_cells=50)
    assert len(first.collections[0].get_offsets()) == 50


def test_more_states_than_a_handful_need_no_more_room(states, real):
    states.obs["state"] = np.arange(36) % 12
    axes = draw(states, real, "cell_type", pseudotime="dpt")
    assert len(axes) == 4
    plt.gcf().draw_without_rendering()


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (lambda s: s.obs.pop("state"), {}, r"states.obs has no column 'state'.*scd.tl.interpolate"),
        (lambda s: s.obs.pop("start_cell"), {"n_paths": 3}, "states.obs.'start_cell'. is missing"),
        (None, {"pseudotime": "dtp"}, "no column 'dtp'. Did you mean 'dpt'"),
        (None, {"pseudotime": "cell_type"}, "states.obs.'cell_type'. must hold a number for every cell"),
        (None, {"key": "celltype"}, "adata.obs has no column 'celltype'. Did you mean 'cell_type'"),
        (None, {"key": "depth"}, r"adata.obs\['depth'\] holds numbers"),
        (lambda s: setattr(s, "var_names", [f"x{i}" for i in range(s.n_vars)]), {}, "adata and states share no gene"),
    ],
)
def test_bad_input(states, real, change, arguments, message):
    if change is not None:
        change(states)
    with pytest.raises(ValueError, match=message):
        draw(states, real, **arguments)
    assert not plt.get_fignums()
