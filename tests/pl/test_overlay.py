import sys
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet

from scdiffusion import pl
from scdiffusion.metrics import log_normalise, reference_pca
from scdiffusion.pl import _overlay
from scdiffusion.pl._utils import BACKGROUND, GENERATED, REAL


def draw(real, generated, basis="pca", **kwargs):
    return pl.overlay(real, generated, basis=basis, layer="counts", show=False, **kwargs)


def points(ax):
    return np.concatenate([c.get_offsets().data for c in ax.collections if isinstance(c, PathCollection)])


def colors(ax):
    (dots,) = (c for c in ax.collections if isinstance(c, PathCollection))
    return np.array([to_hex(c) for c in dots.get_facecolors()])


def in_order(xy):
    return xy[np.lexsort(xy.T)]


def labels_of(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_pca_is_fitted_on_real_cells_and_generated_ones_are_projected(real, generated):
    logs = [log_normalise(x) for x in (real.layers["counts"], generated.X)]
    panels = draw(real, generated)
    for panel, expected in zip(panels, reference_pca(*logs, n_components=15), strict=False):
        np.testing.assert_allclose(in_order(points(panel)), in_order(expected[:, :2]), rtol=1e-4)
    both = np.concatenate([points(panels[0]), points(panels[1])])
    np.testing.assert_allclose(in_order(points(panels[2])), in_order(both))


def test_umap_is_fitted_on_real_cells_and_generated_ones_are_projected(real, generated, monkeypatch):
    class UMAP:
        def __init__(self, **kwargs):
            assert kwargs["random_state"] is not None

        def fit(self, X):
            self.fitted = X
            self.embedding_ = X[:, :2]
            return self

        def transform(self, X):
            assert len(self.fitted) == real.n_obs
            return X[:, :2] + 100

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    panels = draw(real, generated, basis="umap")
    assert len(points(panels[0])) == real.n_obs
    assert len(points(panels[1])) == generated.n_obs
    assert points(panels[1]).min() > points(panels[0]).max()
    assert panels[0].get_xlabel() == "UMAP1"


@pytest.mark.slow
def test_umap_puts_generated_cells_among_real_ones_of_their_type(real, generated):
    panels = draw(real, generated, basis="umap", color="cell_type")
    xy = [points(panel) for panel in panels[:2]]
    types = [colors(panel) for panel in panels[:2]]
    nearest = np.linalg.norm(xy[1][:, None] - xy[0], axis=-1).argmin(axis=1)
    assert (types[0][nearest] == types[1]).mean() > 0.95


def test_tsne_has_a_place_for_every_cell(real, generated):
    panels = draw(real[:40], generated[:30], basis="tsne")
    assert [len(points(panel)) for panel in panels] == [40, 30, 70]
    assert np.isfinite(points(panels[2])).all()


def test_cells_have_the_colors_of_their_types(real, generated):
    panels = draw(real, generated, color="cell_type")
    own = dict(zip(["T", "B", "NK"], real.uns["cell_type_colors"], strict=True))
    for panel, side in zip(panels, (real, generated), strict=False):
        for name, n_cells in side.obs["cell_type"].value_counts().items():
            assert (colors(panel) == own[name]).sum() == n_cells
    legend = panels[0].figure.legends[0]
    assert labels_of(legend) == ["T", "B", "NK"]
    assert legend.get_title().get_text() == "cell_type"
    assert labels_of(panels[2].get_legend()) == ["Real", "Generated"]
    assert (colors(panels[2]) == REAL.lower()).sum() == real.n_obs
    assert (colors(panels[2]) == GENERATED.lower()).sum() == generated.n_obs


def test_dot_and_color_belong_to_the_same_cell(real, generated):
    alone = draw(real, generated, color="cell_type", groups="NK")[0]
    drawn = points(alone)[colors(alone) != BACKGROUND.lower()]
    pcs, _ = reference_pca(log_normalise(real.layers["counts"]), log_normalise(generated.X), n_components=15)
    expected = pcs[(real.obs["cell_type"] == "NK").to_numpy(), :2]
    np.testing.assert_allclose(in_order(drawn), in_order(expected), rtol=1e-4)


def test_groups_put_other_cells_in_the_background(real, generated):
    panels = draw(real, generated, color="cell_type", groups=["B", "NK"])
    n_others = [(side.obs["cell_type"] == "T").sum() for side in (real, generated)]
    for panel, n in zip(panels, [*n_others, sum(n_others)], strict=True):
        grey = colors(panel) == BACKGROUND.lower()
        assert grey.sum() == n
        assert grey[:n].all()  # drawn first, below the others
    assert labels_of(panels[0].figure.legends[0]) == ["B", "NK"]


def test_cells_without_a_type_are_grey(real, generated):
    generated.obs.loc[generated.obs_names[:20], "cell_type"] = np.nan
    panels = draw(real, generated, color="cell_type")
    assert (colors(panels[1]) == BACKGROUND.lower()).sum() == 20
    assert labels_of(panels[0].figure.legends[0]) == ["T", "B", "NK"]


def test_both_legends_stay_on_given_axes(real, generated):
    import matplotlib.pyplot as plt

    _, given = plt.subplots(1, 3)
    last = draw(real, generated, color="cell_type", ax=given)[2]
    legends = [last.get_legend(), *(artist for artist in last.artists if hasattr(artist, "get_texts"))]
    assert sorted(map(labels_of, legends)) == [["Real", "Generated"], ["T", "B", "NK"]]


def test_all_panels_share_limits_that_hold_all_cells(real, generated):
    panels = draw(real, generated)
    assert len({panel.get_xlim() + panel.get_ylim() for panel in panels}) == 1
    xy = points(panels[2])
    (left, right), (bottom, top) = panels[0].get_xlim(), panels[0].get_ylim()
    assert left < xy[:, 0].min() < xy[:, 0].max() < right
    assert bottom < xy[:, 1].min() < xy[:, 1].max() < top


def test_at_most_n_cells_of_either_side(real, generated):
    assert [len(points(panel)) for panel in draw(real, generated, n_cells=60)] == [60, 60, 120]
    sample, again, other = (points(draw(real, generated, n_cells=60, rng=rng)[0]) for rng in (0, 0, 1))
    np.testing.assert_array_equal(sample, again)
    assert len(np.unique(sample, axis=0)) == 60
    assert not np.allclose(in_order(sample), in_order(other))


def test_many_cells_are_drawn_as_contours(real, generated, monkeypatch):
    def kinds(ax):
        return [c.filled for c in ax.collections if isinstance(c, QuadContourSet)]

    assert kinds(draw(real, generated)[2]) == []
    assert kinds(draw(real, generated, contours=True)[2]) == [True, False]
    monkeypatch.setattr(_overlay, "MANY_CELLS", 100)
    panels = draw(real, generated)
    assert kinds(panels[2]) == [True, False]
    assert kinds(draw(real, generated, contours=False)[2]) == []
    assert len(points(panels[2])) == 0  # no dots but those of other groups
    assert len(points(draw(real, generated, color="cell_type", groups="T")[2])) == (
        (real.obs["cell_type"] != "T").sum() + (generated.obs["cell_type"] != "T").sum()
    )


def test_contours_hold_the_share_of_cells_they_stand_for():
    import matplotlib.pyplot as plt

    xy = np.random.default_rng(0).normal(size=(20_000, 2))
    _, ax = plt.subplots()
    _overlay._draw_contours(ax, xy, xy, "black", filled=False)
    (contours,) = ax.collections
    held = [path.contains_points(xy).mean() for path in contours.get_paths()]
    np.testing.assert_allclose(held, [0.9, 0.7, 0.5, 0.3, 0.1], atol=0.03)


def test_a_group_that_was_not_generated_has_no_contours_of_it(real, generated):
    some = generated[generated.obs["cell_type"] != "NK"]
    ax = draw(real, some, color="cell_type", groups="NK", contours=True)[2]
    assert [c.filled for c in ax.collections if isinstance(c, QuadContourSet)] == [True]


def test_bad_arguments(real, generated):
    with pytest.raises(ValueError, match="Unknown basis 'UMAP'. Did you mean 'umap'"):
        draw(real, generated, basis="UMAP")
    with pytest.raises(ValueError, match="color="):
        draw(real, generated, groups="T")
    with pytest.raises(ValueError, match="Did you mean 'cell_type'"):
        draw(real, generated, color="celltype")
    with pytest.raises(ValueError, match="no category 'Bee'"):
        draw(real, generated, color="cell_type", groups=["Bee"])
    few = ad.AnnData(generated.X[:2], var=generated.var)
    with pytest.raises(ValueError, match="3 real cells"):
        pl.overlay(few, generated, basis="pca", show=False)
