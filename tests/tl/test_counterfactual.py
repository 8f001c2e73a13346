import numpy as np
import pytest

import scdiffusion as scd
from scdiffusion.metrics import energy_distance, log_normalise

LATE_B = {"stage": "late", "donor": "B"}


def log_of(cells):
    return log_normalise(cells.X).toarray()


@pytest.fixture(scope="module")
def of_donor(development):
    def cells(stage, donor):
        return development[(development.obs["stage"] == stage) & (development.obs["donor"] == donor)].copy()

    return cells


@pytest.mark.parametrize("method", ["shift", "refined"])
def test_cells_come_nearer_to_what_they_are_to_become(without_late_b, of_donor, method):
    """The late cells of donor B are real but were never trained on."""
    real, start = of_donor("late", "B"), of_donor("late", "A")
    become = scd.tl.counterfactual(without_late_b, start, {"donor": "B"}, method=method, rng=0)
    before, after = (energy_distance(log_of(real), log_of(cells)) for cells in (start, become))
    assert after < 0.5 * before


def test_a_shift_keeps_what_distinguishes_cells(without_late_b, of_donor):
    """Each cell's own deviation along the programme that all cells share, and its depth."""
    start = of_donor("late", "A")
    become = scd.tl.counterfactual(without_late_b, start, {"donor": "B"}, rng=0)
    programme = np.linspace(-1, 1, start.n_vars)
    own, kept = (log_of(cells) @ programme for cells in (start, become))
    assert np.corrcoef(own, kept)[0, 1] > 0.7
    depth, after = (np.log(np.asarray(cells.X.sum(1)).ravel()) for cells in (start, become))
    assert np.corrcoef(depth, after)[0, 1] > 0.7


def test_cells_can_be_paired(without_late_b, of_donor):
    start = of_donor("early", "A")[:20]
    become = scd.tl.counterfactual(without_late_b, start[:, ::-1].copy(), {"donor": "B", "stage": "mid"}, rng=0)
    assert list(become.obs_names) == list(start.obs_names) == list(become.obs["start_cell"])
    assert list(become.var_names) == list(start.var_names) and become.X.dtype == np.int32
    assert (become.obs["start_donor"] == "A").all() and (become.obs["start_stage"] == "early").all()
    assert (become.obs["donor"] == "B").all() and (become.obs["stage"] == "mid").all()
    assert (become.obs["chip"].astype(str) == start.obs["chip"].astype(str)).all()
    assert become.uns["scdiffusion"]["method"] == "shift"


def test_there_and_back_is_where_it_began(without_late_b, of_donor):
    model, start = without_late_b, of_donor("early", "A")
    there = scd.tl.counterfactual(model, start, {"donor": "B"}, rng=0)
    back = scd.tl.counterfactual(model, there, {"donor": "A"}, rng=0)
    apart = energy_distance(log_of(start), log_of(there))
    assert energy_distance(log_of(start), log_of(back)) < 0.2 * apart


def test_library_size_can_be_given(without_late_b, of_donor):
    deep = scd.tl.counterfactual(without_late_b, of_donor("early", "A"), {"donor": "B"}, library_size=2000, rng=0)
    assert np.median(np.asarray(deep.X.sum(1))) == pytest.approx(2000, rel=0.1)


def test_the_same_seed_gives_the_same_cells(without_late_b, of_donor):
    start = of_donor("early", "A")[:10]
    for method in ("shift", "refined"):
        one, same, other = (
            scd.tl.counterfactual(without_late_b, start, {"donor": "B"}, method=method, rng=rng).X for rng in (0, 0, 1)
        )
        assert (one != same).nnz == 0 and (one != other).nnz > 0


def test_numbers_are_refined(without_mid, development):
    start = development[development.obs["stage"] == "early"][:30].copy()
    become = scd.tl.counterfactual(without_mid, start, {"time": 2.0}, method="refined", level=1.0, rng=0)
    assert (become.obs["time"] == 2).all() and (become.obs["start_time"] == 0).all()
    assert become.uns["scdiffusion"]["level"] == 1
    with pytest.warns(UserWarning, match="time=9 lies outside the training cells' range"):
        scd.tl.counterfactual(without_mid, start, {"time": 9.0}, method="refined", n_steps=3, rng=0)
    with pytest.raises(ValueError, match="'time' is continuous"):
        scd.tl.counterfactual(without_mid, start, {"time": 2.0})


@pytest.mark.parametrize(
    ("obs_conditions", "settings", "message"),
    [
        ({"donr": "B"}, {}, "no condition 'donr'. Did you mean 'donor'"),
        ({"donor": "b"}, {}, "no category 'b'. Did you mean 'B'"),
        ({"donor": "A"}, {}, "20 of 20 cells are donor='A' already"),
        ({"donor": None}, {}, "must say what is to become"),
        ({}, {}, "must say what is to become of one or more of 'stage', 'donor'"),
        ({"chip": "x"}, {}, "no condition 'chip'"),
        ({"donor": "B"}, {"method": "shfit"}, "Did you mean 'shift'"),
        ({"donor": "B"}, {"method": "refined", "level": 0}, "level must be above 0"),
    ],
)
def test_mistakes_say_what_to_type(without_late_b, of_donor, obs_conditions, settings, message):
    with pytest.raises(ValueError, match=message):
        scd.tl.counterfactual(without_late_b, of_donor("early", "A")[:20], obs_conditions, **settings)


def test_cells_that_cannot_be_changed(without_late_b, of_donor):
    start = of_donor("early", "A")[:20].copy()
    with pytest.raises(TypeError, match="no setting 'level'"):
        scd.tl.counterfactual(without_late_b, start, {"donor": "B"}, level=0.5)
    del start.obs["donor"]
    with pytest.raises(ValueError, match="does not say what 'donor' is now"):
        scd.tl.counterfactual(without_late_b, start, {"donor": "B"})
    become = scd.tl.counterfactual(without_late_b, start, {"donor": "B"}, method="refined", rng=0)
    assert "start_donor" not in become.obs


def test_a_denoiser_that_sees_no_conditions_cannot_go_by_them(sees_nothing, of_donor):
    start = of_donor("early", "A")[:20]
    with pytest.raises(ValueError, match=r"sees no conditions.*method='shift'.*model\.refine"):
        scd.tl.counterfactual(sees_nothing, start, {"donor": "B"}, method="refined")
    assert scd.tl.counterfactual(sees_nothing, start, {"donor": "B"}, rng=0).n_obs == 20


class TestGenerate:
    """What `generate` makes of a combination that was never trained on."""

    def test_it_is_near_to_real_cells_and_a_warning_says_how(self, without_late_b, of_donor):
        model, real = without_late_b, of_donor("late", "B")
        with pytest.warns(UserWarning, match="from cells with another (donor|stage), shifted by what that changes"):
            cells = model.generate(real.n_obs, LATE_B, rng=0)
        with pytest.warns(UserWarning, match="from the conditions apart"):
            model.generate(3, LATE_B, compose="joint", rng=0)
        for others in (of_donor("late", "A"), of_donor("mid", "B"), of_donor("last", "B")):
            assert energy_distance(log_of(real), log_of(cells)) < 0.2 * energy_distance(log_of(real), log_of(others))
        assert (cells.obs["donor"] == "B").all() and cells.obs["chip"].notna().all()
        assert cells.uns["scdiffusion"]["compose"] == "shift"

    def test_trained_combinations_are_as_ever(self, without_late_b):
        asked = {"stage": ["early"] * 5 + ["late"] * 5, "donor": ["B"] * 5 + ["A"] * 5}
        default, joint = (without_late_b.generate(obs_conditions=asked, compose=c, rng=0) for c in (None, "joint"))
        assert (default.X != joint.X).nnz == 0

    @pytest.mark.filterwarnings("ignore:No training cell")
    def test_a_saved_model_does_the_same(self, without_late_b, tmp_path):
        without_late_b.save(tmp_path / "model")
        loaded = scd.SCDiffusion.load(tmp_path / "model", adata=False)
        one, same = (model.generate(10, LATE_B, rng=0) for model in (without_late_b, loaded))
        assert (one.X != same.X).nnz == 0

    @pytest.mark.filterwarnings("ignore:No training cell")
    def test_with_guidance(self, without_late_b):
        cells = without_late_b.generate(20, LATE_B, guidance="classifier_free", guidance_scale=0.5, rng=0)
        assert (cells.obs["stage"] == "late").all() and cells.obs["donor"].eq("B").all()
