"""qq, markers, mean_variance, lfc and confusion."""

import numpy as np
import pytest
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.colors import same_color

from scdiffusion import pl
from scdiffusion.metrics import lfc_slope, log_normalise
from scdiffusion.pl._utils import GENERATED, REAL

KW = {"layer": "counts", "show": False}


def curves(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines if line.get_linestyle() == "None"}


def logs(adata):
    return log_normalise(adata.layers["counts"] if "counts" in adata.layers else adata.X).toarray()


def labels_of(legend):
    return [text.get_text() for text in legend.get_texts()]


class TestQQ:
    def test_equal_cells_lie_on_the_diagonal(self, generated):
        (ax,) = pl.qq(generated, generated.copy(), "GENE0", show=False)
        (xy,) = curves(ax).values()
        np.testing.assert_array_equal(*xy.T)
        (diagonal,) = (line for line in ax.lines if line.get_linestyle() == "--")
        assert diagonal.get_slope() == 1
        assert ax.get_xlim() == ax.get_ylim()

    def test_coordinates_are_quantiles_of_real_then_generated(self, real, generated):
        (ax,) = pl.qq(real, generated, "GENE0", n_quantiles=1, **KW)
        medians = [np.median(logs(side)[:, 0]) for side in (real, generated)]
        (xy,) = curves(ax).values()
        np.testing.assert_allclose(xy, [medians])

    def test_one_color_per_group_and_no_more_points_than_cells(self, real, generated):
        axes = pl.qq(real, generated, ["GENE0", "GENE7"], "cell_type", n_quantiles=50, **KW)
        assert [ax.get_title() for ax in axes] == ["GENE0", "GENE7"]
        sizes = [side.obs["cell_type"].value_counts() for side in (real, generated)]
        for name, xy in curves(axes[0]).items():
            assert len(xy) == min(50, *(size[name] for size in sizes))
        drawn = [line for line in axes[0].lines if line.get_label() in ("T", "B", "NK")]
        assert [line.get_color() for line in drawn] == list(real.uns["cell_type_colors"])
        assert labels_of(axes[0].figure.legends[0]) == ["T", "B", "NK"]

    def test_a_group_is_compared_with_its_own_cells(self, real, generated):
        (ax,) = pl.qq(real, generated, "GENE5", "cell_type", groups=["B"], n_quantiles=1, **KW)
        medians = [np.median(logs(side)[side.obs["cell_type"] == "B", 5]) for side in (real, generated)]
        assert list(curves(ax)) == ["B"]
        np.testing.assert_allclose(curves(ax)["B"], [medians])

    def test_bad_arguments(self, real, generated):
        with pytest.raises(ValueError, match="Gene 'GENE' "):
            pl.qq(real, generated, ["GENE0", "GENE"], **KW)
        with pytest.raises(ValueError, match="groupby="):
            pl.qq(real, generated, "GENE0", groups="B", **KW)


class TestMarkers:
    def test_three_violins_per_gene_with_their_means(self, real, generated):
        ax = pl.markers(real, generated, ["GENE5", "GENE20"], "cell_type", "B", **KW)
        assert len([c for c in ax.collections if isinstance(c, PolyCollection)]) == 6
        in_real, in_generated = (side.obs["cell_type"] == "B" for side in (real, generated))
        expected = [logs(real)[in_real], logs(generated)[in_generated], logs(real)[~in_real]]
        for line, values in zip(ax.lines, expected, strict=True):
            np.testing.assert_allclose(line.get_ydata(), values[:, [5, 20]].mean(axis=0), rtol=1e-5)
        positions = np.array([line.get_xdata() for line in ax.lines])
        assert (np.diff(positions, axis=0) > 0).all()
        assert (np.abs(positions - [0, 1]) < 0.5).all()

    def test_legend_says_whose_cells_and_how_many(self, real, generated):
        ax = pl.markers(real, generated, "GENE5", "cell_type", "B", **KW)
        n_real, n_generated = ((side.obs["cell_type"] == "B").sum() for side in (real, generated))
        expected = [f"Real ({n_real})", f"Generated ({n_generated})", f"Real, other types ({150 - n_real})", "mean"]
        assert labels_of(ax.get_legend()) == expected
        assert ax.get_title() == "B"
        assert ax.get_ylim()[0] == 0

    def test_bad_arguments(self, real, generated):
        with pytest.raises(ValueError, match="no category 'b'. Did you mean 'B'"):
            pl.markers(real, generated, "GENE5", "cell_type", "b", **KW)
        with pytest.raises(ValueError, match="no cells but those of 'B'"):
            pl.markers(real[real.obs["cell_type"] == "B"], generated, "GENE5", "cell_type", "B", **KW)


class TestMeanVariance:
    def test_dots_are_the_moments_of_the_counts(self, real, generated):
        generated.X = generated.X.toarray() * (np.arange(60) != 3)
        ax = pl.mean_variance(real, generated, **KW)
        (dots,) = (c for c in ax.collections if isinstance(c, PathCollection))
        drawn = dots.get_offsets().data
        colors = dots.get_facecolors()
        for side, color, n_genes in ((real.layers["counts"], REAL, 60), (generated.X, GENERATED, 59)):
            X = np.asarray(side.todense() if hasattr(side, "todense") else side, dtype=float)
            moments = np.stack([X.mean(axis=0), X.var(axis=0)], axis=1)[X.any(axis=0)]
            of_side = drawn[[same_color(c[:3], color) for c in colors]]
            assert len(of_side) == n_genes
            np.testing.assert_allclose(np.sort(of_side, axis=0), np.sort(moments, axis=0), rtol=1e-6)
        assert ax.get_xscale() == ax.get_yscale() == "log"
        assert labels_of(ax.get_legend()) == ["Real", "Generated", "Poisson"]

    def test_logarithms_are_refused(self, real, generated):
        generated.X = log_normalise(generated.X)
        with pytest.raises(ValueError, match="generated.X holds non-integers, and this plot is of counts"):
            pl.mean_variance(real, generated, **KW)


class TestLFC:
    def slopes(self, axes):
        return {ax.get_title(): float(ax.texts[0].get_text().split()[1]) for ax in axes}

    def test_slope_is_that_of_the_metric(self, real, generated):
        axes = pl.lfc(real, generated, "cell_type", **KW)
        sides = (logs(real), real.obs["cell_type"].astype(str), logs(generated), generated.obs["cell_type"].astype(str))
        slopes = self.slopes(axes)
        assert list(slopes) == ["T", "B", "NK"]
        for name, slope in slopes.items():
            assert slope == pytest.approx(lfc_slope(*sides, groups=name), abs=0.006)

    def test_equal_cells_have_slope_one_and_lie_on_the_diagonal(self, generated):
        axes = pl.lfc(generated, generated.copy(), "cell_type", groups=["B"], show=False)
        assert self.slopes(axes) == {"B": 1}
        xy = axes[0].collections[0].get_offsets().data
        assert len(xy) == generated.n_vars
        np.testing.assert_allclose(*xy.T)
        assert xy[:, 0].argsort()[-5:].min() >= 5  # markers of B cells are genes 5 to 9

    def test_types_of_few_cells_take_no_part(self, real, generated):
        nk = np.flatnonzero(generated.obs["cell_type"] == "NK")
        fewer = generated[np.setdiff1d(np.arange(generated.n_obs), nk[2:])]
        with pytest.warns(UserWarning, match="Left out.*'NK'"):
            axes = pl.lfc(real, fewer, "cell_type", **KW)
        assert [ax.get_title() for ax in axes] == ["T", "B"]


class TestConfusion:
    def tables(self, axes):
        return [ax.images[0].get_array().filled(np.nan) for ax in axes]

    def test_rows_are_shares_and_types_are_recognised(self, real, generated):
        axes = pl.confusion(real, generated, "cell_type", **KW)
        for table in self.tables(axes):
            np.testing.assert_allclose(table.sum(axis=1), 1)
            assert (table.diagonal() > 0.9).all()
        assert [label.get_text() for label in axes[0].get_yticklabels()] == ["T", "B", "NK"]
        assert [label.get_text() for label in axes[1].get_xticklabels()] == ["T", "B", "NK"]

    def test_rows_are_what_was_asked_for_and_columns_what_is_seen(self, real, generated):
        generated.obs["cell_type"] = generated.obs["cell_type"].cat.rename_categories({"T": "B", "B": "T"})
        table = self.tables(pl.confusion(real, generated, "cell_type", **KW))[1]
        assert table[0, 1] > 0.9  # T was asked for, B is seen
        assert table[1, 0] > 0.9
        assert table[2, 2] > 0.9

    def test_real_cells_are_judged_by_a_classifier_that_has_not_seen_them(self, real, generated):
        rng = np.random.default_rng(0)
        real.obs["random"] = rng.choice(["a", "b", "c"], real.n_obs)
        generated.obs["random"] = rng.choice(["a", "b", "c"], generated.n_obs)
        table = self.tables(pl.confusion(real, generated, "random", **KW))[0]
        np.testing.assert_allclose(table.sum(axis=1), 1)
        assert table.diagonal().mean() < 0.5

    def test_a_type_that_was_not_generated_has_an_empty_row(self, real, generated):
        table = self.tables(pl.confusion(real, generated[generated.obs["cell_type"] != "B"], "cell_type", **KW))[1]
        assert np.isnan(table).all(axis=1).tolist() == [False, True, False]

    def test_one_type_is_too_few(self, real, generated):
        with pytest.raises(ValueError, match="two types or more; 'cell_type' has 'B'"):
            pl.confusion(real[real.obs["cell_type"] == "B"], generated, "cell_type", **KW)
