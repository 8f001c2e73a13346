import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import scdiffusion as scd
from scdiffusion.metrics import energy_distance, log_normalise
from scdiffusion.tl._interpolation import interpolations
from scdiffusion.tl._interpolation._base import published_level

METHODS = ["condition", "expression", "gradient", "latent", "refined"]
KEYS = {"stage": ("early", "late"), "time": (0.0, 2.0)}
every_method = pytest.mark.parametrize("method", METHODS)
every_key = pytest.mark.parametrize("key", KEYS)


def progress(adata):
    """Log-ratio of the genes that rise to those that fall: it grows by the same at each stage."""
    X = log_normalise(adata.X).toarray()
    return X[:, :20].mean(1) - X[:, 20:40].mean(1)


def by_state(states, values):
    return pd.Series(values, index=states.obs_names).groupby(states.obs["state"]).mean().to_numpy()


@pytest.fixture(scope="module")
def paths(without_mid, development):
    """States half way and at both ends, by each method, for categories and for numbers."""
    return {
        (method, key): scd.tl.interpolate(
            without_mid, development, key, *ends, n_states=3, n_cells=100, method=method, rng=0
        )
        for method in METHODS
        for key, ends in KEYS.items()
    }


@every_method
@every_key
def test_what_comes_back(paths, development, method, key):
    states = paths[method, key]
    assert states.shape == (300, development.n_vars) and states.X.dtype == np.int32 and states.X.format == "csr"
    assert states.X.data.min() > 0 and states.X.indices.max() < development.n_vars
    assert (states.obs["state"].to_numpy() == np.repeat([0, 1, 2], 100)).all()
    assert (states.obs["weight"] == states.obs["state"] / 2).all()
    starts = states.obs["start_cell"].to_numpy().reshape(3, 100)
    assert (starts == starts[0]).all() and len(set(starts[0])) == 100  # row by row the same cells
    assert (development.obs.loc[starts[0], "stage"] == "early").all()
    assert states.obs_names.is_unique and states.obs["donor"].isna().all()
    assert (states.obs["chip"] == development.obs["chip"].reindex(states.obs["start_cell"]).to_numpy()).all()
    assert (method == "expression") == ("X_scdiffusion" not in states.obsm)
    assert states.uns["scdiffusion"]["method"] == method and states.uns["scdiffusion"]["key"] == key


@every_key
def test_the_key_says_where_cells_are(paths, key):
    values = paths["refined", key].obs.groupby("state")[key].first()
    if key == "time":
        assert values.tolist() == [0, 1, 2]
    else:
        assert values.iloc[[0, 2]].tolist() == ["early", "late"]
        assert paths["refined", key].obs.loc[lambda obs: obs["state"] == 1, "stage"].isna().all()


@every_method
@every_key
def test_the_way_leads_from_source_to_target(paths, development, method, key):
    early, late = (progress(development[development.obs["stage"] == stage]).mean() for stage in ("early", "late"))
    way = by_state(paths[method, key], progress(paths[method, key]))
    assert abs(way[0] - early) < 0.2 * (late - early) and abs(way[2] - late) < 0.25 * (late - early)
    assert way[0] + 0.1 * (late - early) < way[1] < way[2] - 0.1 * (late - early)


@every_key
def test_half_way_is_the_stage_that_was_never_seen(paths, development, key):
    """In distribution nearer to it than a mixture of its neighbours is."""
    logs = {
        stage: log_normalise(development[development.obs["stage"] == stage].X).toarray()
        for stage in ("early", "mid", "late")
    }
    mixture = np.concatenate([logs["early"][:60], logs["late"][:60]])
    to_mixture = energy_distance(logs["mid"], mixture, unbiased=True)
    for method in ("refined", "latent"):
        states = paths[method, key]
        half_way = log_normalise(states[states.obs["state"] == 1].X).toarray()
        assert energy_distance(logs["mid"], half_way, unbiased=True) < to_mixture, method


def test_the_first_state_of_a_latent_path_are_the_cells_themselves(paths, development):
    first = paths["latent", "stage"][:100]
    real = log_normalise(development[first.obs["start_cell"]].X).toarray()[:, 40:60].mean(1)
    assert np.corrcoef(real, log_normalise(first.X).toarray()[:, 40:60].mean(1))[0, 1] > 0.9


def test_straight_lines_lose_variance_half_way_and_arcs_do_not(without_mid, development):
    spread = {}
    for path in ("linear", "spherical"):
        states = scd.tl.interpolate(
            without_mid, development, "stage", "early", "late", n_states=3, method="latent", path=path, rng=0
        )
        latents = states.obsm["X_scdiffusion"].reshape(3, -1, 4)
        np.testing.assert_allclose(latents[1].mean(0), (latents[0] + latents[2]).mean(0) / 2, atol=1e-5)
        spread[path] = latents.var(1).sum(1)
    np.testing.assert_allclose(spread["linear"][[0, 2]], spread["spherical"][[0, 2]], rtol=1e-5)
    assert spread["linear"][1] < 0.9 * spread["spherical"][1]


def test_cells_are_paired_with_the_nearest(without_mid, development):
    """Donors differ more than anything else within a stage: partners are of the same donor."""
    request = {"n_states": 2, "method": "latent", "n_cells": 80, "rng": 0}
    states = scd.tl.interpolate(without_mid, development, "stage", "late", "last", **request)
    at_end = log_normalise(states[states.obs["state"] == 1].X).toarray()[:, 40:60].mean(1)
    donor = development.obs["donor"].reindex(states.obs["start_cell"][:80]).to_numpy()
    right = (at_end > np.median(at_end)) == (donor == "B")
    assert right.mean() > 0.85


@every_key
def test_gradients_move_the_classifier_step_by_step(without_mid, development, key):
    states = scd.tl.interpolate(
        without_mid, development, key, *KEYS[key], n_states=5, n_cells=80, method="gradient", rng=0
    )
    module = without_mid.module
    log_library = torch.from_numpy(np.log(states.X.sum(1))).float().reshape(-1, 1)
    features = torch.cat([torch.from_numpy(states.obsm["X_scdiffusion"]), log_library], 1)
    features[:, -1] = (features[:, -1] - module.feature_mean[-1]) / module.feature_scale[-1]
    position = without_mid.composition.keys.index(key)
    code = without_mid.composition.code("stage", "late")
    codes, values = torch.full((len(features), 3), code), torch.full((len(features), 1), 2.0)
    t = torch.zeros(len(features), dtype=torch.long)
    with torch.no_grad():
        of_target = module.log_probability(features, t, module.conditions(codes, values), position)
    assert (np.diff(by_state(states, of_target.numpy())) > 0).all()


def test_gradients_start_where_cells_were_noised_to(without_mid, development):
    """With little noise cells stay what they were; published code starts at the end of the process all the same."""
    request = {"n_states": 2, "n_cells": 60, "method": "gradient", "rng": 0}
    ways = {
        level: by_state(states, progress(states))
        for level in (0.05, 1.0)
        for states in [
            scd.tl.interpolate(without_mid, development, "stage", "early", "late", start_level=level, **request)
        ]
    }
    assert np.diff(ways[0.05])[0] < 0.3 * np.diff(ways[1.0])[0]


def test_the_published_level_is_equally_noisy_on_each_schedule():
    schedules = {name: scd.diffusion.schedules.resolve(name) for name in ("linear", "cosine")}
    levels = {name: published_level(schedule) for name, schedule in schedules.items()}
    assert levels["linear"] == 0.6 and levels["cosine"] == pytest.approx(0.9, abs=0.02)
    noise = [float(schedules[name].alpha_bar[schedules[name].level_to_timestep(levels[name])]) for name in levels]
    assert noise[0] == pytest.approx(noise[1], rel=0.05)


def test_several_targets_are_passed_in_turn(without_mid, development):
    request = {"n_states": 5, "n_cells": 60, "rng": 0}
    states = scd.tl.interpolate(without_mid, development, "stage", "early", ["late", "last"], **request)
    assert states.obs.groupby("state")["stage"].first().astype(object).fillna("").tolist() == [
        "early",
        "",
        "late",
        "",
        "last",
    ]
    assert (np.diff(by_state(states, progress(states))) > 0.3).all()
    there = scd.tl.interpolate(without_mid, development, "time", 0, (2, 3), method="condition", **request)
    assert there.obs.groupby("state")["time"].first().tolist() == [0, 1, 2, 2.5, 3]
    back = scd.tl.interpolate(without_mid, development, "stage", "early", ["late", "early"], **request)
    assert by_state(back, progress(back)).argmax() == 2  # a cycle is a way


def test_a_number_needs_no_cells_where_the_way_ends(without_mid, development):
    request = {"n_states": 2, "n_cells": 60, "rng": 0}
    unseen = scd.tl.interpolate(without_mid, development, "time", 2.0, 2.6, method="condition", **request)
    before, after = by_state(unseen, progress(unseen))
    assert after > before + 0.3
    with pytest.raises(
        ValueError, match=r"no cells with time within .* of 2\.6; the nearest is at 3.*method='condition'"
    ):
        scd.tl.interpolate(without_mid, development, "time", 2.0, 2.6, **request)


@every_method
def test_the_same_seed_gives_the_same_states(paths, without_mid, development, method):
    request = {"n_states": 3, "n_cells": 100, "method": method}
    again = scd.tl.interpolate(without_mid, development, "stage", "early", "late", rng=0, **request)
    assert (again.X != paths[method, "stage"].X).nnz == 0
    assert again.obs.equals(paths[method, "stage"].obs)
    other = scd.tl.interpolate(without_mid, development, "stage", "early", "late", rng=1, **request)
    assert set(other.obs["start_cell"]) != set(again.obs["start_cell"])


def test_states_of_a_cell_share_their_noise(paths):
    """So that what a cell is apart from its stage stays with it, even where next to nothing is left of its start."""
    states = paths["condition", "time"]
    donor = log_normalise(states.X).toarray()[:, 40:60].mean(1).reshape(3, 100)
    assert np.corrcoef(donor[0], donor[2])[0, 1] > 0.7


def test_conditions_are_kept_where_asked(without_mid, development):
    request = {"n_states": 3, "n_cells": 80, "rng": 0, "start_level": 1.0}
    states = scd.tl.interpolate(without_mid, development, "stage", "early", "late", keep="donor", **request)
    donor = development.obs["donor"].reindex(states.obs["start_cell"]).to_numpy()
    assert (states.obs["donor"] == donor).all()
    genes = log_normalise(states.X).toarray()[:, 40:60].mean(1)
    assert np.mean((genes > np.median(genes)) == (donor == "B")) > 0.95


def test_nothing_of_the_input_changes(without_mid, development):
    before = development.copy()
    scd.tl.interpolate(without_mid, development, "time", 0, 2, n_states=2, n_cells=5, rng=0)
    assert development.obs.equals(before.obs) and (development.X != before.X).nnz == 0
    assert dict(development.uns) == {} and not development.obsm.keys()


def test_a_method_of_ones_own(without_mid, development):
    class Jump(scd.tl.FeatureInterpolation):
        """No way at all."""

        def features(self, leg, weight):
            return leg.end_features if weight > 0.5 else leg.start_features

    states = scd.tl.interpolate(
        without_mid, development, "stage", "early", "late", n_states=4, n_cells=50, method=Jump(), rng=0
    )
    latents = states.obsm["X_scdiffusion"].reshape(4, 50, 4)
    assert np.array_equal(latents[0], latents[1]) and np.array_equal(latents[2], latents[3])
    assert set(interpolations) == set(METHODS)


def test_states_are_written_drawn_and_placed_on_real_time(paths, development, tmp_path):
    states = paths["refined", "stage"].copy()
    scd.tl.pseudotime(states, development)
    states.write_h5ad(tmp_path / "states.h5ad")
    axes = scd.pl.interpolation(
        states, development, "stage", pseudotime="pseudotime", basis="pca", n_paths=3, show=False
    )
    assert len(axes) == 4


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"key": "stages"}, ValueError, "no condition 'stages'. Did you mean 'stage'"),
        ({"key": "chip"}, ValueError, "no condition 'chip'"),
        ({"source": "earli"}, ValueError, "Did you mean 'early'"),
        ({"target": "Late"}, ValueError, "Did you mean 'late'"),
        ({"target": "mid"}, ValueError, "no category 'mid'"),
        ({"target": ["late", "lats"]}, ValueError, "Did you mean 'late' or 'last'|Did you mean 'last' or 'late'"),
        ({"target": "early"}, ValueError, "no way from 'early' to itself"),
        ({"target": []}, ValueError, "one target or several"),
        ({"target": None}, ValueError, "one target or several"),
        ({"key": "time", "source": 1.0, "target": 1}, ValueError, "no way from 1.0 to itself"),
        ({"key": "time", "source": "early", "target": 1}, ValueError, "needs a finite number"),
        ({"n_states": 1}, ValueError, "n_states must be a whole number, 2 or more"),
        ({"n_cells": 10_000}, ValueError, "n_cells must be between 1 and"),
        ({"start_level": 0}, ValueError, "start_level must be above 0"),
        ({"start_level": 1.2, "method": "gradient"}, ValueError, "start_level must be above 0"),
        ({"total_scale": -1, "method": "gradient"}, ValueError, "total_scale must be above 0"),
        ({"total_scale": 2}, TypeError, "no setting 'total_scale'. Available: 'path', 'start_level'"),
        ({"path": "sphere"}, ValueError, "Did you mean 'spherical'"),
        ({"method": "gradients"}, ValueError, "Did you mean 'gradient'"),
        (
            {"method": "gradient", "key": "donor", "source": "A", "target": "B"},
            ValueError,
            r"train_classifier\('donor'\)",
        ),
        ({"keep": "donors"}, ValueError, "'donors'"),
        ({"sampler": "ddi"}, ValueError, "Did you mean 'ddim'"),
    ],
)
def test_mistakes_say_what_to_type(without_mid, development, change, error, message):
    request = {"key": "stage", "source": "early", "target": "late", "rng": 0, **change}
    with pytest.raises(error, match=message):
        scd.tl.interpolate(without_mid, development, **request)


def test_a_denoiser_that_sees_no_conditions_cannot_go_by_them(sees_nothing, development):
    for settings in ({}, {"method": "condition"}):
        with pytest.raises(ValueError, match=r"sees no conditions.*method='gradient'"):
            scd.tl.interpolate(sees_nothing, development, "stage", "early", "late", **settings)
    sees_nothing.train_classifier("stage", max_epochs=1, progress=False)
    for method in ("gradient", "latent"):
        states = scd.tl.interpolate(
            sees_nothing, development, "stage", "early", "late", method=method, n_states=3, n_cells=20, rng=0
        )
        first, middle, last = states.obsm["X_scdiffusion"].reshape(3, 20, -1)
        assert not np.allclose(first, middle) and not np.allclose(middle, last)


def test_numbers_beyond_training_are_warned_of(without_mid, development):
    request = {"n_states": 2, "n_cells": 5, "n_steps": 3, "rng": 0}
    for method in ("condition", "gradient"):
        with pytest.warns(UserWarning, match="time=9 lies outside the training cells' range, 0 to 3, by"):
            scd.tl.interpolate(without_mid, development, "time", 0.0, 9.0, method=method, **request)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scd.tl.interpolate(without_mid, development, "time", 0.0, 1.0, method="condition", **request)


def test_cells_that_cannot_be_started_from(without_mid, development):
    late = development[development.obs["stage"] == "late"]
    with pytest.raises(ValueError, match="no cells with stage='early', only 'late'"):
        scd.tl.interpolate(without_mid, late, "stage", "early", "late")
    unlabelled = development.copy()
    del unlabelled.obs["stage"]
    with pytest.raises(ValueError, match="adata.obs has no column 'stage'"):
        scd.tl.interpolate(without_mid, unlabelled, "stage", "early", "late")
    twice = development.copy()
    twice.obs_names = ["cell"] * twice.n_obs
    with pytest.raises(ValueError, match="obs_names_make_unique"):
        scd.tl.interpolate(without_mid, twice, "stage", "early", "late")
