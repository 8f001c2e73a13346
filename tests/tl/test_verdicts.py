"""Verdicts follow from the figures alone, of a new table or a stored one."""

import io

import numpy as np
import pandas as pd
import pytest

from scdiffusion.tl._verdicts import judge, shortfall

WITHIN, BETWEEN, WORSE = "within floor", "between", "worse than baseline"


def row(metric, generated, floor, baseline, better, *, sd=0.01, n_cells=300) -> dict:
    return {
        "metric": metric, "group": "all", "n_cells": n_cells, "generated": generated, "generated_sd": sd, "floor": floor,
        "floor_sd": sd, "baseline": baseline, "better": better, "verdict": None,
    }  # fmt: skip


def verdict(*args, **kwargs) -> str:
    return judge(pd.DataFrame([row(*args, **kwargs)]))["verdict"].item()


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (("energy_distance", 0.11, 0.1, 0.5, "lower"), WITHIN),
        (("energy_distance", 0.3, 0.1, 0.5, "lower"), BETWEEN),
        (("energy_distance", 0.6, 0.1, 0.5, "lower"), WORSE),
        (("energy_distance", 0.6, 0.1, np.nan, "lower"), "worse than floor"),
        (("lisi", 0.7, 0.9, 0.5, "higher"), BETWEEN),
        (("lisi", 0.99, 0.9, 0.5, "higher"), WITHIN),
    ],
)
def test_lower_and_higher(figures, expected):
    assert verdict(*figures) == expected


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        (("lfc_slope", 0.841, 0.592, 0.689, 1.0), WITHIN),  # nearer to the value to hit than real cells
        (("lfc_slope", 0.7, 0.95, 0.5, 1.0), BETWEEN),
        (("lfc_slope", 1.2, 0.95, 0.5, 1.0), BETWEEN),  # as far on the other side
        (("lfc_slope", 1.6, 0.95, 0.5, 1.0), WORSE),
        (("density", 1.4, 0.95, 1.2, 1.0), WORSE),  # too close to the centres of the types
        (("nearest_training_ratio", 0.0, 1.01, 1.3, 1.0), WORSE),  # copies
        (("nearest_training_ratio", 0.984, 1.018, 0.999, 1.0), WITHIN),
        (("knn_auc", 0.7, 0.52, 0.9, 0.5), BETWEEN),
        (("knn_auc", 0.4, 0.52, 0.9, 0.5), WITHIN),  # tells the sides apart no better than chance
        (("one_nn_accuracy", 0.508, 0.44, 0.8, 0.5), WITHIN),
        (("membership_auc", 0.7, 0.5, 0.51, "lower"), WORSE),
        (("label_accuracy", 0.99, 0.9, 0.7, 0.9), BETWEEN),  # the figure of real cells is the value to hit
        (("label_accuracy", 0.4, 0.5, 0.3, 0.5), BETWEEN),  # and 0.5 no chance level, where it is that
    ],
)
def test_a_value_to_hit(figures, expected):
    assert verdict(*figures) == expected


def test_shares_without_an_error_deviate_all_the_same():
    assert verdict("label_accuracy", 0.971, 1.0, 0.94, 1.0, sd=0, n_cells=35) == WITHIN
    assert verdict("label_accuracy", 0.971, 1.0, 0.94, 1.0, sd=0, n_cells=3500) == BETWEEN
    assert verdict("label_accuracy", 0.5, 1.0, 0.4, 1.0, sd=0, n_cells=35) == BETWEEN
    judged = judge(pd.DataFrame([row("recall", 0.8, 1.0, 0.2, "higher", sd=0, n_cells=100)]))
    assert judged["generated_sd"].item() == pytest.approx(0.04, rel=0.02)  # sqrt(0.8 * 0.2 / 100)
    assert 0 < judged["floor_sd"].item() < 0.015
    wide = judge(pd.DataFrame([row("recall", 0.8, 1.0, 0.2, "higher", sd=0.2)]))
    assert wide["generated_sd"].item() == 0.2
    assert judge(pd.DataFrame([row("lfc_slope", 0.8, 1.0, 0.2, 1.0, sd=0)]))["generated_sd"].item() == 0


def test_a_stored_table_has_the_same_verdicts():
    rows = [
        row("lfc_slope", 0.841, 0.592, 0.689, 1.0),
        row("recall", 0.3, 0.9, 0.5, "higher"),
        row("label_accuracy", 0.9, 0.8, 0.2, 0.8),
        row("knn_auc", *[np.nan] * 3, 0.5, sd=np.nan, n_cells=12) | {"verdict": "too small"},
        row("density", 0.9, np.nan, np.nan, 1.0),
    ]
    table = judge(pd.DataFrame(rows))
    assert table["verdict"].tolist() == [WITHIN, WORSE, BETWEEN, "too small", "undefined"]
    stored = pd.read_csv(io.StringIO(table.assign(verdict=table["verdict"].replace(WORSE, WITHIN)).to_csv(index=False)))
    again = judge(stored)
    assert again["verdict"].tolist() == table["verdict"].tolist()
    pd.testing.assert_frame_equal(judge(again), again)
    assert stored["verdict"].tolist()[1] == WITHIN  # the table itself is left alone


def test_shortfall_orders_figures_by_how_far_they_are_from_the_goal():
    table = pd.DataFrame([row("lfc_slope", x, 1, 1, 1.0) for x in (1.0, 0.9, 1.2, 0.5)])
    assert shortfall(table, "generated").tolist() == pytest.approx([0, 0.1, 0.2, 0.5])
