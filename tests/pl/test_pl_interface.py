"""What all plots have in common: what they return, what they draw on, and that they change nothing."""

import doctest
import importlib
import pkgutil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from scdiffusion import pl

LAYER = {"layer": "counts"}
ROW = {"metric": "lisi", "group": "all", "better": "higher", "verdict": "between"}
TABLE = pd.DataFrame([ROW | {"generated": 0.8, "generated_sd": 0.1, "floor": 1, "floor_sd": 0.1, "baseline": 0.5}])
HISTORY = {
    f"{stage}_{side}_loss": pd.DataFrame([3.0, 1.0, 2.0])
    for stage in ("autoencoder", "diffusion")
    for side in ("train", "validation")
}
PLOTS = {
    "confusion": (lambda a, b, **kw: pl.confusion(a, b, "cell_type", **LAYER, **kw), 2),
    "evaluation": (lambda a, b, **kw: pl.evaluation(TABLE, **kw), None),
    "history": (lambda a, b, **kw: pl.history(HISTORY, **kw), 2),
    "interpolation": (
        lambda a, b, **kw: pl.interpolation(b, a, "cell_type", pseudotime="depth", basis="pca", **LAYER, **kw),
        4,
    ),
    "lfc": (lambda a, b, **kw: pl.lfc(a, b, "cell_type", **LAYER, **kw), 3),
    "markers": (lambda a, b, **kw: pl.markers(a, b, ["GENE0", "GENE9"], "cell_type", "T", **LAYER, **kw), None),
    "mean_variance": (lambda a, b, **kw: pl.mean_variance(a, b, **LAYER, **kw), None),
    "overlay": (lambda a, b, **kw: pl.overlay(a, b, basis="pca", color="cell_type", **LAYER, **kw), 3),
    "qq": (lambda a, b, **kw: pl.qq(a, b, ["GENE0", "GENE9"], "cell_type", **LAYER, **kw), 2),
}
every_plot = pytest.mark.parametrize(("draw", "n_panels"), PLOTS.values(), ids=PLOTS)


@pytest.fixture
def autoshow():
    before = sc.settings.autoshow
    yield
    sc.settings.autoshow = before


def test_every_public_plot_is_tested_here():
    assert {*PLOTS, "report"} == set(pl.__all__)  # report returns no figure: test_report.py


@every_plot
def test_axes_are_returned_unless_shown(draw, n_panels, real, generated):
    axes = draw(real, generated, show=False)
    if n_panels is None:
        assert isinstance(axes, Axes)
    else:
        assert len(axes) == n_panels
        assert all(isinstance(ax, Axes) for ax in axes)
    figure = (axes if n_panels is None else axes[0]).figure
    assert [figure.number] == plt.get_fignums()
    figure.draw_without_rendering()


@every_plot
def test_figure_is_returned_on_request(draw, n_panels, real, generated, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: pytest.fail("shown"))
    assert isinstance(draw(real, generated, return_fig=True), Figure)


@every_plot
def test_shown_by_default_as_in_scanpy(draw, n_panels, real, generated, monkeypatch, autoshow):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(plt.gcf()))
    sc.settings.autoshow = True
    assert draw(real, generated) is None
    assert len(shown) == 1
    sc.settings.autoshow = False
    assert draw(real, generated) is not None
    assert draw(real, generated, show=True) is None
    assert len(shown) == 2


@every_plot
def test_given_axes_are_drawn_on(draw, n_panels, real, generated):
    figure, given = plt.subplots(1, n_panels or 1)
    axes = draw(real, generated, ax=given, show=False)
    assert np.array_equal(np.ravel(axes), np.ravel(given))
    assert plt.get_fignums() == [figure.number]
    assert all(ax.has_data() for ax in np.ravel(given))


@every_plot
def test_wrong_number_of_axes(draw, n_panels, real, generated):
    _, given = plt.subplots(1, 5)
    with pytest.raises(ValueError, match=rf"has {n_panels or 1} panel\(s\), but ax holds 5 Axes"):
        draw(real, generated, ax=given, show=False)


@every_plot
def test_inputs_are_left_as_they_are(draw, n_panels, real, generated):
    copies = [real.copy(), generated.copy()]
    draw(real, generated, show=False)
    for before, after in zip(copies, (real, generated), strict=True):
        assert (before.X != after.X).sum() == 0
        pd.testing.assert_frame_equal(before.obs, after.obs)
        pd.testing.assert_frame_equal(before.var, after.var)
        for part in ("uns", "obsm", "layers", "obsp"):
            assert list(getattr(before, part)) == list(getattr(after, part))
        if "counts" in before.layers:
            assert (before.layers["counts"] != after.layers["counts"]).nnz == 0


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(pl.__path__)])
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(f"scdiffusion.pl.{name}"))
    assert failed == 0
    assert plt.get_fignums() == []
