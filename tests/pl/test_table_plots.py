"""evaluation and history."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import same_color
from matplotlib.container import ErrorbarContainer

from scdiffusion import pl, tl
from scdiffusion.pl._evaluation import LEFT, RIGHT, VERDICTS
from scdiffusion.pl._utils import MODELS

COLUMNS = ["metric", "generated", "floor", "baseline", "better", "verdict"]


def make_table(*rows, group="all"):
    return pd.DataFrame(rows, columns=COLUMNS).assign(group=group, space="counts", generated_sd=0.1, floor_sd=0.2)


@pytest.fixture
def table():
    return make_table(
        ("lower", 2.0, 1.0, 5.0, "lower", "between"),
        ("higher", 0.9, 0.8, 0.4, "higher", "within floor"),
        ("target", 0.4, 0.5, 0.9, 0.5, "between"),
        ("far", 8.0, 1.0, 2.0, "lower", "worse than baseline"),
        ("blind", 0.9, 0.8, 0.9, "higher", "within floor"),
        ("small", np.nan, np.nan, np.nan, "lower", "too small"),
    )


def dots(ax):
    """Position, colour and shape of what lies within the scale."""
    lines = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    return [(float(x.get_xdata()[0]), float(x.get_ydata()[0]), x.get_color(), x.get_marker()) for x in lines]


def labels_of(legend):
    return [text.get_text() for text in legend.get_texts()]


class TestEvaluation:
    def test_position_between_floor_and_baseline(self, table):
        ax = pl.evaluation(table, show=False)
        positions = {round(y): x for x, y, _, _ in dots(ax)}
        # the third: both directions from the value to hit are worse
        assert positions == pytest.approx({0: 0.25, 1: -0.25, 2: 0.25})
        assert ax.get_xticks().tolist() == [0, 1]
        assert ax.get_xlim() == (LEFT, RIGHT)

    def test_nearer_to_the_value_to_hit_is_better_than_the_floor(self):
        rows = ("lfc_slope", 0.9, 0.8, 0.6, 1.0, "within floor"), ("knn_auc", 0.4, 0.6, 0.8, 0.5, "within floor")
        positions = {round(y): x for x, y, _, _ in dots(pl.evaluation(make_table(*rows), show=False))}
        assert positions == pytest.approx({0: -0.5, 1: -0.5})

    def test_one_row_per_metric_from_top_to_bottom(self, table):
        ax = pl.evaluation(table, show=False)
        assert [label.get_text() for label in ax.get_yticklabels()] == ["lower", "higher", "target", "far", "blind"]
        bottom, top = ax.get_ylim()
        assert bottom > top

    def test_colors_and_shapes_are_those_of_the_verdicts(self, table):
        drawn = dots(pl.evaluation(table, show=False))
        expected = [VERDICTS[verdict] for verdict in ("between", "within floor", "between")]
        assert [(color, shape) for _, _, color, shape in drawn] == expected

    def test_bars_are_rescaled_standard_deviations(self, table):
        ax = pl.evaluation(table, show=False)
        bar = next(c for c in ax.containers if isinstance(c, ErrorbarContainer))
        (segment,) = bar.lines[2][0].get_segments()
        np.testing.assert_allclose(segment[:, 0], 0.25 + np.array([-0.1, 0.1]) / 4)
        floor = ax.patches[0]
        assert (floor.get_x(), floor.get_width()) == pytest.approx((-0.05, 0.1))

    def test_what_is_beyond_the_scale_is_written_at_its_edge(self, table):
        ax = pl.evaluation(table, show=False)
        (note,) = (text for text in ax.texts if "→" in text.get_text())
        assert note.get_text() == "7.0 →"
        assert note.get_position()[1] == 3
        (edge,) = (line for line in ax.lines if line.get_marker() == "X")
        assert 1 < edge.get_xdata()[0] < RIGHT

    def test_better_than_the_scale_is_written_at_the_left(self):
        ax = pl.evaluation(make_table(("x", -1.0, 1.0, 2.0, "lower", "within floor")), show=False)
        assert "← -2.0" in [text.get_text() for text in ax.texts]

    def test_where_the_baseline_is_no_worse_there_is_no_scale(self, table):
        ax = pl.evaluation(table, show=False)
        (note,) = (text for text in ax.texts if "no worse" in text.get_text())
        assert note.get_position()[1] == 4

    def test_figures_are_written_beside_the_rows(self, table):
        texts = [text.get_text() for text in pl.evaluation(table, show=False).texts]
        assert {"Generated", "Floor", "Baseline", "0.9", "0.8"} <= set(texts)

    def test_several_models_have_colors_and_places_of_their_own(self, table):
        ax = pl.evaluation({"ours": table, "theirs": table.iloc[:1]}, show=False)
        first_row = [dot for dot in dots(ax) if round(dot[1]) == 0]
        assert [color for _, _, color, _ in first_row] == list(MODELS[:2])
        assert first_row[0][1] != first_row[1][1]
        assert labels_of(ax.get_legend())[:2] == ["ours", "theirs"]
        assert len(ax.get_yticks()) == 5

    def test_verdicts_are_in_the_legend(self, table):
        legend = pl.evaluation(table, show=False).get_legend()
        assert labels_of(legend) == [*VERDICTS, "floor, 1 sd"]
        assert same_color(legend.legend_handles[0].get_color(), VERDICTS["within floor"][0])

    def test_rows_of_one_group(self, table):
        both = pd.concat([table, make_table(("lower", 3.0, 1.0, 5.0, "lower", "between"), group="B")])
        ax = pl.evaluation(both, group="B", show=False)
        assert [x for x, *_ in dots(ax)] == [0.5]
        assert ax.get_title() == "B"
        with pytest.raises(ValueError, match="no group 'b'. Did you mean 'B'"):
            pl.evaluation(both, group="b", show=False)

    def test_bad_tables(self, table):
        with pytest.raises(ValueError, match="no column 'floor_sd'.*scd.tl.evaluate"):
            pl.evaluation(table.drop(columns="floor_sd"), show=False)
        with pytest.raises(ValueError, match="baseline=True"):
            pl.evaluation(table.assign(baseline=np.nan), show=False)
        with pytest.raises(ValueError, match="no figures of 'all' to draw: 'too small'"):
            pl.evaluation(table.iloc[-1:], show=False)
        with pytest.raises(ValueError, match="tables is empty"):
            pl.evaluation({}, show=False)

    def test_tables_of_evaluate_are_drawn(self, real, generated):
        metrics = ["gene_mean_error", "energy_distance", "lfc_slope"]
        evaluated = tl.evaluate(
            real, generated, groupby="cell_type", layer="counts", metrics=metrics, n_splits=2, progress=False
        )
        ax = pl.evaluation(evaluated, show=False)
        drawn = evaluated.loc[(evaluated["group"] == "all") & evaluated["floor"].notna(), "metric"]
        assert len(drawn) >= 2
        assert [label.get_text() for label in ax.get_yticklabels()] == [name.replace("_", " ") for name in drawn]


class TestHistory:
    @pytest.fixture
    def history(self):
        losses = {
            "autoencoder_train_loss": [9.0, 7.0, 6.0],
            "autoencoder_validation_loss": [9.0, 8.0, 8.5],
            "autoencoder_kl": [1.0, 2.0, 3.0],
            "diffusion_train_loss": [0.3, 0.2],
        }
        return {key: pd.DataFrame({key: values}) for key, values in losses.items()}

    def test_one_panel_per_stage_with_its_losses(self, history):
        axes = pl.history(SimpleNamespace(history=history), show=False)
        assert [ax.get_title() for ax in axes] == ["Autoencoder", "Diffusion"]
        lines = {line.get_label(): line for line in axes[0].lines}
        assert lines["training cells"].get_ydata().tolist() == [9, 7, 6]
        assert lines["held-out cells"].get_ydata().tolist() == [9, 8, 8.5]
        assert labels_of(axes[0].figure.legends[0]) == list(lines)

    def test_line_at_the_least_held_out_loss(self, history):
        ax = pl.history(history, show=False)[0]
        (kept,) = (line for line in ax.lines if line.get_label() == "weights kept")
        assert list(kept.get_xdata()) == [1, 1]

    def test_without_held_out_cells(self, history):
        (line,) = pl.history(history, show=False)[1].lines
        assert line.get_label() == "training cells"

    @pytest.mark.parametrize("history", [None, {}])
    def test_untrained(self, history):
        with pytest.raises(ValueError, match=r"call model.train\(\) first"):
            pl.history(SimpleNamespace(history=history), show=False)
