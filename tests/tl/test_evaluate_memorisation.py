"""`tl.evaluate` notices copies of cells, and donors that were trained on."""

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse
from simulated_cells import N_GENES, ONE, by_metric, run, simulate

from scdiffusion.tl._metric_table import choose


def test_copies_of_training_cells_are_noticed(real, train):
    table = by_metric(
        run(real, train, train=train, metrics=["energy_distance", "nearest_training_ratio", "membership_auc"])
    )
    assert table["verdict"].to_dict() == {
        "energy_distance": "within floor",
        "nearest_training_ratio": "worse than baseline",
        "membership_auc": "worse than baseline",
    }
    assert table.loc["nearest_training_ratio", "generated"] == 0
    assert table.loc["nearest_training_ratio", "floor"] == pytest.approx(1, abs=0.05)
    assert table.loc["membership_auc", "generated"] > 0.6


def test_copies_of_the_real_cells_themselves_are_pointed_out(real):
    table = run(real, real, metrics=["one_nn_accuracy", "energy_distance"], n_cells=60)
    assert not any("copies" in note for note in table.attrs["notes"])  # few of them meet their twin
    copies = real[np.repeat(np.arange(400), 3)]
    table = run(real, copies, train=simulate(800, seed=2), metrics=["one_nn_accuracy"])
    assert table["verdict"].item() == "within floor"
    assert any("one_nn_accuracy below 0.5" in note and "held out" in note for note in table.attrs["notes"])


@pytest.fixture(scope="module")
def donors() -> list[AnnData]:
    """Held-out and training cells of twelve and of ten donors, each with some programs of its own."""
    sides = []
    for seed, names in ((31, range(12)), (32, range(20, 30))):
        cells = simulate(600, seed=seed)
        cells.obs["donor"] = rows = np.random.default_rng(seed).choice(list(names), 600)
        factors = np.exp(np.stack([np.random.default_rng(name).normal(0, 0.5, N_GENES) for name in rows]))
        cells.X = sparse.csr_matrix(np.random.default_rng(seed).poisson(cells.X.toarray() * factors).astype(np.float32))
        sides.append(cells)
    return sides


def test_membership_by_donor(donors):
    heldout, train = donors
    kwargs = {"train": train, "donor_key": "donor", "metrics": ["membership_auc", "membership_auc_donors"]}
    table = by_metric(run(heldout, train, **kwargs))
    assert table.loc["membership_auc_donors", "generated"] == 1
    assert table.loc["membership_auc_donors", "verdict"] == "worse than baseline"
    # ten against six donors
    assert table.loc["membership_auc_donors", "floor_sd"] == pytest.approx(np.sqrt(17 / 1440))
    others = simulate(600, seed=33)
    fair = by_metric(run(heldout, others, **kwargs))
    assert fair.loc["membership_auc_donors", "verdict"] == "within floor"
    given = {"groupby": False, "train": True, "donor_key": False}
    assert "membership_auc_donors" not in [metric.name for metric in choose(None, given, counts=True)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: {"train": None}, "pass train= with donor_key="),
        (lambda a, b: {"train": a[300:], "real": a[:300]}, "Donors of both real and train: '0', '1'.*whole donors"),
        (lambda a, b: {"real": a[a.obs["donor"] < 3]}, "at least four held-out donors .* real has 3, train 10"),
        (lambda a, b: {"real": without_donors(a)}, "2 cells of real have no donor"),
        (lambda a, b: {"donor_key": "patient"}, "real.obs has no column 'patient'"),
    ],
)
def test_bad_donors(donors, change, message):
    real, train = donors
    arguments = {"real": real, "generated": train, "train": train, "donor_key": "donor"} | change(real, train)
    with pytest.raises(ValueError, match=message):
        run(**arguments, metrics=ONE)


def without_donors(adata: AnnData) -> AnnData:
    adata = adata.copy()
    adata.obs["donor"] = adata.obs["donor"].astype(float).where(np.arange(adata.n_obs) > 1)
    return adata


def test_donor_key_is_needed_by_name(real, train):
    with pytest.raises(ValueError, match="'membership_auc_donors' needs train and donor_key"):
        run(real, train, metrics="membership_auc_donors")
