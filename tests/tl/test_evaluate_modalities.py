import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData

import scdiffusion as scd
from scdiffusion._compat import without_pulling

METRICS = ["library_size", "gene_mean_error", "cross_correlation_error"]


def simulate(n_cells: int, seed: int, *, apart: bool = False) -> MuData:
    """Simulated genes and proteins of two types; within these the first three follow each other, unless drawn apart."""
    rng = np.random.default_rng(seed)
    is_b = rng.integers(2, size=n_cells)
    signal = rng.normal(size=(n_cells, 1))
    genes = rng.poisson(np.exp(1.5 + 0.7 * signal * (np.arange(60) < 3) + is_b[:, None]))
    signal = rng.permutation(signal) if apart else signal
    proteins = rng.poisson(np.exp(4 + 0.7 * signal * (np.arange(4) < 3)))
    obs = pd.DataFrame({"type": np.array(["A", "B"])[is_b]}, index=[f"cell{i}_{seed}" for i in range(n_cells)])
    parts = {"rna": (genes, "gene"), "adt": (proteins, "protein")}
    with without_pulling():
        mdata = MuData(
            {
                name: AnnData(
                    X.astype(np.float32), obs[[]], pd.DataFrame(index=[f"{of}{i}" for i in range(X.shape[1])])
                )
                for name, (X, of) in parts.items()
            }
        )
    mdata.obs = obs
    return mdata


def run(*sides, **kwargs) -> pd.DataFrame:
    return scd.tl.evaluate(*sides, **{"metrics": METRICS, "progress": False, "n_splits": 3} | kwargs)


@pytest.fixture(scope="module")
def real() -> MuData:
    return simulate(500, 0)


def verdicts(table) -> dict:
    table = table[table["group"] == "all"]
    return dict(zip(zip(table["modality"], table["metric"], strict=True), table["verdict"], strict=True))


def test_each_modality_is_compared_and_how_they_go_together(real):
    table = run(real, simulate(500, 1), train=simulate(1000, 2), groupby="type")
    assert list(table.columns[:2]) == ["modality", "metric"]
    assert set(verdicts(table).values()) == {"within floor"}
    assert set(table["modality"]) == {"rna", "adt", "rna, adt"}
    assert {"A", "B"} < set(table.loc[table["modality"] == "adt", "group"])
    assert table.attrs["modalities"] == ["rna", "adt"]
    with pytest.raises(ValueError, match="4 genes are shared .* modality of a MuData"):  # of a modality that is enough
        scd.tl.evaluate(real["adt"], simulate(500, 1)["adt"], metrics=METRICS[:2], progress=False)


def test_donors_are_those_of_the_mudata(real):
    sides = [real.copy(), simulate(500, 2)]
    for first, side in enumerate(sides):
        with without_pulling():
            side.obs["donor"] = [f"{first}_{i % 5}" for i in range(side.n_obs)]
    kwargs = {"train": sides[1], "donor_key": "donor", "metrics": "membership_auc_donors", "n_splits": 2}
    table = scd.tl.evaluate(sides[0], simulate(500, 1), progress=False, baseline=False, **kwargs)
    assert table["modality"].tolist() == ["rna", "adt"]
    assert table["verdict"].tolist() == ["within floor"] * 2


def test_modalities_drawn_apart_are_found_out_though_each_is_right(real):
    table = run(real, simulate(500, 1, apart=True), train=simulate(1000, 2))
    found = verdicts(table)
    assert found.pop(("rna, adt", "cross_correlation_error")) in ("between", "worse than baseline")
    assert set(found.values()) == {"within floor"}
    ties = [(f"gene{i}", f"protein{i}") for i in range(3)]
    (named,) = run(real, simulate(500, 1, apart=True), metrics="cross_correlation_error", pairs=ties)["generated"]
    (every,) = table.loc[table["metric"] == "cross_correlation_error", "generated"]
    assert named > 0.3 > 2 * every


def test_plots_draw_modalities_side_by_side(real):
    other = simulate(500, 1)
    ax = scd.pl.evaluation(run(real, other), show=False)
    assert [text.get_text() for text in ax.get_legend().get_texts()[:3]] == ["rna", "adt", "rna, adt"]
    axes = scd.pl.overlay(real["adt"], other["adt"], basis="pca", show=False)
    assert [panel.get_title() for panel in axes[:2]] == ["Real", "Generated"]
    scd.pl.qq(real["adt"], other["adt"], ["protein0", "protein3"], show=False)
    scd.pl.mean_variance(real["adt"], other["adt"], show=False)
    plt.close("all")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: ((m, m["rna"]), {}), TypeError, r"generated is an AnnData.*real\['rna'\] with generated\['rna'\]"),
        (lambda m: ((m["rna"], m), {}), TypeError, "real is an AnnData"),
        (lambda m: ((m, MuData({"x": m["rna"]})), {}), ValueError, "share no modality by name"),
        (lambda m: ((m, m), {"layer": "counts"}), ValueError, "No modality of real has a layer 'counts'"),
        (lambda m: ((m, m), {"pairs": [("gene1", "CD3")]}), ValueError, "'adt' has no 'CD3'"),
        (lambda m: ((m["rna"], m["rna"]), {"pairs": []}), ValueError, "pairs are of features of two modalities"),
        (
            lambda m: ((m, MuData({"rna": m["rna"]})), {"metrics": METRICS[2]}),
            ValueError,
            "need two of them; shared are 'rna'",
        ),
        (lambda m: ((m, MuData({"rna": m["rna"], "adt": m["adt"][::-1]})), {}), ValueError, "in another order"),
    ],
)
def test_bad_input(real, change, error, message):
    sides, kwargs = change(real)
    with pytest.raises(error, match=message):
        run(*sides, **kwargs)
