import json

import numpy as np
import pandas as pd
import pytest

from scdiffusion.model import _conditions
from scdiffusion.model._composition import Plan, TrainingComposition, are_among
from scdiffusion.model._conditions import beyond_training, unseen_combinations

CATEGORIES = {"cell_type": ["B cell", "NK", "T cell"], "donor": ["101", "102"], "stim": ["False", "True"]}
# B cells come from donor 101 only; T cells were never stimulated.
TRAINED = {(0, 0, 0): 30, (0, 0, 1): 10, (1, 0, 0): 5, (1, 1, 1): 15, (2, 0, 0): 20, (2, 1, 0): 40}


def read_conditions(*arguments):
    """The codes of a plan, of which the tests of categorical conditions ask."""
    return _conditions.read_conditions(*arguments).codes


def fill_from_training(codes, *arguments):
    return _conditions.fill_from_training(Plan(codes, np.empty((len(codes), 0))), *arguments).codes


def counts_of(codes):
    rows, counts = np.unique(codes, axis=0, return_counts=True)
    return {tuple(row): count for row, count in zip(rows.tolist(), counts.tolist(), strict=True)}


@pytest.fixture
def composition():
    codes = np.repeat(list(TRAINED), list(TRAINED.values()), axis=0)
    return TrainingComposition.from_codes(CATEGORIES, np.random.default_rng(3).permutation(codes, axis=0))


@pytest.fixture
def without_conditions():
    return TrainingComposition.from_codes({}, np.zeros((70, 0), dtype=int))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


class TestTrainingComposition:
    def test_counts_the_combinations(self, composition):
        n_cells = dict(zip(map(tuple, composition.combinations.tolist()), composition.n_cells.tolist(), strict=True))
        assert n_cells == TRAINED
        assert composition.keys == ["cell_type", "donor", "stim"]
        assert composition.n_trained == 120

    @pytest.mark.parametrize("name", ["composition", "without_conditions"])
    def test_settings_survive_json(self, name, request):
        composition = request.getfixturevalue(name)
        back = TrainingComposition.from_dict(json.loads(json.dumps(composition.to_dict())))
        assert back.to_dict() == composition.to_dict()
        assert back.combinations.shape == composition.combinations.shape
        assert back.combinations.dtype == composition.combinations.dtype
        assert back.n_trained == composition.n_trained

    def test_categories_become_strings(self):
        composition = TrainingComposition.from_codes({"dose": [0.5, 1.0]}, np.array([[0], [1]]))
        assert composition.categories == {"dose": ["0.5", "1.0"]}

    def test_inexact_sample_has_the_training_proportions(self, composition, rng):
        drawn = counts_of(composition.sample(12_000, rng).codes)
        assert set(drawn) == set(TRAINED)
        for combination, n_cells in TRAINED.items():
            # Five standard deviations of a binomial.
            share = n_cells / 120
            assert abs(drawn[combination] - 12_000 * share) < 5 * np.sqrt(12_000 * share * (1 - share))

    def test_inexact_sample_varies(self, composition):
        first, second = (counts_of(composition.sample(500, np.random.default_rng(seed)).codes) for seed in (0, 1))
        assert first != second

    def test_combinations_are_those_of_numpy(self, rng):
        for n_keys in (1, 2, 5):
            codes = rng.integers(0, 4, size=(300, n_keys))
            composition = TrainingComposition.from_codes({str(i): list("abcd") for i in range(n_keys)}, codes)
            rows, counts = np.unique(codes, axis=0, return_counts=True)
            np.testing.assert_array_equal(composition.combinations, rows)
            np.testing.assert_array_equal(composition.n_cells, counts)


class TestUnconditional:
    def test_default_is_as_many_as_trained(self, composition, rng):
        plan = read_conditions(None, None, composition, rng)
        assert plan.shape == (120, 3)
        assert (plan == -1).all()

    def test_n_cells(self, composition, rng):
        assert read_conditions(None, 7, composition, rng).shape == (7, 3)

    def test_model_without_conditions(self, without_conditions, rng):
        for request in (None, {}, "observed"):
            assert read_conditions(request, None, without_conditions, rng).shape == (70, 0)
            assert read_conditions(request, 9, without_conditions, rng).shape == (9, 0)

    @pytest.mark.parametrize("n_cells", [0, -3, 3.5, "ten", np.nan, True, np.inf])
    @pytest.mark.parametrize("request_", [None, "observed", {"cell_type": "NK"}])
    def test_refuses_impossible_n_cells(self, n_cells, request_, composition, rng):
        with pytest.raises(ValueError, match="n_cells must be a positive integer, not"):
            read_conditions(request_, n_cells, composition, rng)

    @pytest.mark.parametrize("n_cells", [np.int32(5), 5.0, np.float64(5)])
    def test_accepts_numpy_and_whole_floats(self, n_cells, composition, rng):
        assert len(read_conditions(None, n_cells, composition, rng)) == 5


class TestObserved:
    def test_reproduces_the_training_composition(self, composition, rng):
        plan = read_conditions("observed", None, composition, rng)
        assert counts_of(plan) == TRAINED

    def test_is_shuffled_and_reproducible(self, composition):
        first, again, other = (
            read_conditions("observed", 60, composition, np.random.default_rng(seed)) for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()
        assert counts_of(first) == counts_of(other)
        assert (np.diff(first[:, 0]) < 0).any()

    @pytest.mark.parametrize("seed", range(20))
    def test_counts_are_as_near_to_the_share_as_can_be(self, seed):
        rng = np.random.default_rng(seed)
        n_combinations = int(rng.integers(1, 40))
        n_trained = rng.integers(1, 1000, size=n_combinations)
        names = [f"type {i}" for i in range(n_combinations)]
        composition = TrainingComposition({"cell_type": names}, np.arange(n_combinations)[:, None], n_trained)
        n_cells = int(rng.integers(1, 3000))

        counts = np.bincount(read_conditions("observed", n_cells, composition, rng)[:, 0], minlength=n_combinations)
        quota = n_cells * n_trained / n_trained.sum()
        assert counts.sum() == n_cells
        assert (np.abs(counts - quota) < 1).all()
        # Largest remainder: whoever is rounded up has a remainder no smaller than whoever is rounded down.
        remainder, up = quota - np.floor(quota), counts > quota
        if up.any():
            assert remainder[up].min() >= remainder[counts < quota].max() - 1e-9

    def test_another_string_is_refused_with_an_example(self, composition, rng):
        with pytest.raises(ValueError, match=r"'observed', a dict such as \{'cell_type': 'B cell'\}.*not 'NK'"):
            read_conditions("NK", None, composition, rng)

    @pytest.mark.parametrize("request_", [5, ["NK"], pd.Series(["NK"]), {"NK"}])
    def test_another_type_is_refused(self, request_, composition, rng):
        with pytest.raises(TypeError, match=f"not {type(request_).__name__}"):
            read_conditions(request_, None, composition, rng)


class TestDict:
    def test_one_category_for_all_cells(self, composition, rng):
        plan = read_conditions({"cell_type": "NK", "stim": None, "donor": np.nan}, 4, composition, rng)
        assert plan.tolist() == [[1, -1, -1]] * 4
        assert len(read_conditions({"cell_type": "NK"}, None, composition, rng)) == 120

    @pytest.mark.parametrize("value", ["101", 101, 101.0, np.int64(101), np.float32(101), np.str_("101")])
    def test_categories_match_by_their_spelling(self, value, composition, rng):
        for request in (value, [value, value], {value: 2}):
            assert read_conditions({"donor": request}, 2, composition, rng)[:, 1].tolist() == [0, 0]

    def test_booleans(self, composition, rng):
        assert read_conditions({"stim": np.array([True, False])}, None, composition, rng)[:, 2].tolist() == [1, 0]
        with pytest.raises(ValueError, match="no category 1"):
            read_conditions({"stim": 1}, 2, composition, rng)

    def test_whole_numbers_match_float_categories(self, rng):
        composition = TrainingComposition.from_codes({"dose": [0.5, 1.0]}, np.array([[0], [1]]))
        assert read_conditions({"dose": 1}, 1, composition, rng).tolist() == [[1]]
        assert read_conditions({"dose": 0.5}, 1, composition, rng).tolist() == [[0]]
        with pytest.raises(ValueError, match="no category 1.5"):
            read_conditions({"dose": 1.5}, 1, composition, rng)

    def test_counts_are_blocks_in_the_order_given(self, composition, rng):
        plan = read_conditions({"cell_type": {"NK": 3, "B cell": 2, "T cell": 0}, "donor": 102}, None, composition, rng)
        assert plan.tolist() == [[1, 1, -1]] * 3 + [[0, 1, -1]] * 2

    def test_counts_meet_a_list_in_order(self, composition, rng):
        request = {"donor": [101, 101, 102], "cell_type": {"NK": 2, "B cell": 1}}
        assert read_conditions(request, None, composition, rng)[:, :2].tolist() == [[1, 0], [1, 0], [0, 1]]

    def test_counts_of_none_are_left_to_the_model(self, composition, rng):
        plan = read_conditions({"cell_type": {"NK": 2, None: 1}}, None, composition, rng)
        assert plan[:, 0].tolist() == [1, 1, -1]

    def test_two_keys_with_counts_are_paired_at_random(self, composition):
        request = {"cell_type": {"NK": 300, "T cell": 300}, "donor": {101: 300, 102: 300}}
        plan, again, other = (
            read_conditions(request, None, composition, np.random.default_rng(seed)) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(plan, again)
        assert (plan != other).any()
        assert plan[:, 0].tolist() == [1] * 300 + [2] * 300
        assert np.bincount(plan[:, 1]).tolist() == [300, 300]
        # Hypergeometric, 150 expected with a standard deviation of 6; unpaired blocks would give 300 and 0.
        assert 110 < (plan[:300, 1] == 0).sum() < 190

    @pytest.mark.parametrize(
        "values",
        [
            ["NK", None, "B cell", np.nan],
            ("NK", None, "B cell", None),
            np.array(["NK", None, "B cell", np.nan], dtype=object),
            pd.Series(["NK", None, "B cell", pd.NA], index=[9, 9, 2, 1]),
            pd.Categorical(["NK", None, "B cell", None], categories=["T cell", "NK", "B cell"]),
            pd.Series(["NK", None, "B cell", None], dtype="string"),
        ],
        ids=lambda values: type(values).__name__,
    )
    def test_one_category_per_cell(self, values, composition, rng):
        assert read_conditions({"cell_type": values}, None, composition, rng)[:, 0].tolist() == [1, -1, 0, -1]

    def test_integers_with_gaps(self, composition, rng):
        donors = pd.Series([102, None, 101])
        assert read_conditions({"donor": donors}, None, composition, rng)[:, 1].tolist() == [1, -1, 0]

    def test_long_random_lists_are_read_cell_by_cell(self, composition, rng):
        codes = np.column_stack([rng.integers(-1, len(names), size=2000) for names in CATEGORIES.values()])
        request = {
            key: [None if code < 0 else CATEGORIES[key][code] for code in codes[:, column]]
            for column, key in enumerate(CATEGORIES)
        }
        np.testing.assert_array_equal(read_conditions(request, 2000, composition, rng), codes)
        np.testing.assert_array_equal(read_conditions(pd.DataFrame(request), None, composition, rng), codes)

    def test_the_request_is_left_as_it_is(self, composition, rng):
        donors = np.array([101, 102])
        request = {"cell_type": {"NK": 1, "B cell": 1}, "donor": donors, "stim": {True: 1, False: 1}}
        read_conditions(request, None, composition, rng)
        assert request["cell_type"] == {"NK": 1, "B cell": 1}
        assert request["stim"] == {True: 1, False: 1}
        np.testing.assert_array_equal(donors, [101, 102])


class TestDataFrame:
    def test_gaps_are_left_to_the_model_and_the_index_is_not_read(self, composition, rng):
        obs = pd.DataFrame(
            {"stim": [True, False, True], "cell_type": pd.Categorical(["T cell", None, "NK"])}, index=["z", "a", "a"]
        )
        assert read_conditions(obs, None, composition, rng).tolist() == [[2, -1, 1], [-1, -1, 0], [1, -1, 1]]

    def test_without_columns_it_still_says_how_many(self, composition, rng):
        assert len(read_conditions(pd.DataFrame(index=range(4)), None, composition, rng)) == 4

    def test_disagrees_with_n_cells(self, composition, rng):
        with pytest.raises(ValueError, match=r"\['donor'\] asks for 2 cells, but n_cells for 3: leave n_cells out"):
            read_conditions(pd.DataFrame({"donor": [101, 102]}), 3, composition, rng)

    def test_empty(self, composition, rng):
        with pytest.raises(ValueError, match="asks for 0 cells"):
            read_conditions(pd.DataFrame({"donor": []}), None, composition, rng)

    def test_a_column_twice(self, composition, rng):
        obs = pd.DataFrame([["NK", "NK"]], columns=["cell_type", "cell_type"])
        with pytest.raises(ValueError, match="several columns 'cell_type'"):
            read_conditions(obs, None, composition, rng)


class TestErrors:
    @pytest.mark.parametrize(
        ("request_", "n_cells", "message"),
        [
            ({"celltype": "NK"}, None, "no condition 'celltype'. Did you mean 'cell_type'. Available: .*'stim'"),
            ({"Donor": 101}, None, "Did you mean 'donor'"),
            ({"organ": None}, None, "no condition 'organ'. Available"),
            ({"cell_type": "b CELL"}, None, r"'cell_type' has no category 'b CELL'\. Did you mean 'B cell'"),
            ({"cell_type": ["NK", "Bcell"]}, None, "Did you mean 'B cell'"),
            ({"cell_type": {"nk": 3}}, None, "Did you mean 'NK'"),
            ({"donor": 7}, None, "no category 7. Available: '101', '102'"),
            ({"cell_type": {"NK": -1}}, None, "of 'NK' in obs_conditions.'cell_type'. must be zero or a .* not -1"),
            ({"cell_type": {"NK": 1.5}}, None, "not 1.5"),
            ({"cell_type": {"NK": None}}, None, "not None"),
            ({"cell_type": {"NK": "5"}}, None, "not '5'"),
            ({"cell_type": {}}, None, "asks for 0 cells"),
            ({"cell_type": {"NK": 0}}, None, "asks for 0 cells"),
            ({"cell_type": []}, None, "asks for 0 cells"),
            ({"cell_type": {"NK": 7}}, 5, "'cell_type'. asks for 7 cells, but n_cells for 5: leave n_cells out"),
            ({"cell_type": ["NK"] * 4}, 5, "'cell_type'. asks for 4 cells, but n_cells for 5"),
            ({"cell_type": ["NK"] * 4, "donor": {101: 3}}, None, "asks for 4 cells, but .*'donor'. for 3: make them"),
            ({"cell_type": [["NK", "NK"]] * 2}, None, "unhashable|one category per cell"),
            ({"cell_type": np.array([["NK"], ["NK"]])}, None, "one category per cell, not 2 dimensions"),
            ({"cell_type": pd.DataFrame({"cell_type": ["NK"]})}, None, "one category per cell"),
        ],
    )
    def test_message_says_what_to_type(self, request_, n_cells, message, composition, rng):
        with pytest.raises((ValueError, TypeError), match=message):
            read_conditions(request_, n_cells, composition, rng)

    def test_the_exact_case_is_the_first_suggestion(self, rng):
        composition = TrainingComposition.from_codes({"cell_type": ["T cell", "B cell"]}, np.array([[0], [1]]))
        with pytest.raises(ValueError, match="Did you mean 'B cell' or 'T cell'"):
            read_conditions({"cell_type": "b cell"}, 1, composition, rng)

    def test_only_the_first_categories_are_listed(self, rng):
        composition = TrainingComposition.from_codes({"x": [f"#{i}" for i in range(30)]}, np.arange(30)[:, None])
        with pytest.raises(ValueError, match="'#9' and 20 more") as error:
            read_conditions({"x": "zzz"}, 1, composition, rng)
        assert "#10" not in str(error.value)

    @pytest.mark.parametrize("request_", [{"cell_type": "NK"}, pd.DataFrame({"cell_type": ["NK"]})])
    def test_model_without_conditions(self, request_, without_conditions, rng):
        with pytest.raises(ValueError, match=r"without conditions.*condition_keys=\['cell_type'\]"):
            read_conditions(request_, 1, without_conditions, rng)


class TestUnseenCombinations:
    def test_names_each_once(self, composition):
        codes = np.array([[0, 1, -1], [0, 0, 0], [2, -1, 1], [0, 1, -1], [-1, -1, -1], [-1, 1, 0]])
        unseen = unseen_combinations(codes, composition)
        assert unseen == [{"cell_type": "B cell", "donor": "102"}, {"cell_type": "T cell", "stim": "True"}]

    def test_pairs_seen_apart_are_unseen_together(self, composition):
        # NK from 101, NK unstimulated and 102 unstimulated were all seen, but not the three together.
        assert unseen_combinations(np.array([[1, 1, 0]]), composition) == [
            {"cell_type": "NK", "donor": "102", "stim": "False"}
        ]
        assert unseen_combinations(np.array([[1, 1, -1], [1, -1, 0], [-1, 1, 0]]), composition) == []

    def test_agrees_with_looking_at_each(self, rng):
        known, asked = rng.integers(0, 4, size=(60, 4)), rng.integers(-1, 4, size=(500, 4))
        seen = [((known == row) | (row < 0)).all(1).any() for row in asked]
        assert 0.1 < np.mean(seen) < 0.9
        np.testing.assert_array_equal(are_among(asked, known), seen)

    def test_a_category_without_cells(self):
        composition = TrainingComposition.from_codes({"x": ["a", "b", "left behind"]}, np.array([[0], [1]]))
        assert unseen_combinations(np.array([[0], [2]]), composition) == [{"x": "left behind"}]

    def test_nothing_is_unseen(self, composition, without_conditions, rng):
        assert unseen_combinations(read_conditions("observed", None, composition, rng), composition) == []
        assert unseen_combinations(np.full((3, 3), -1), composition) == []
        assert unseen_combinations(np.zeros((3, 0), dtype=int), without_conditions) == []


class TestFillFromTraining:
    def test_draws_given_the_other_keys(self, composition, rng):
        plan = read_conditions({"cell_type": {"T cell": 3000, "B cell": 50}}, None, composition, rng)
        filled = fill_from_training(plan, composition, ["donor"], rng)
        np.testing.assert_array_equal(filled[:, [0, 2]], plan[:, [0, 2]])
        # T cells: 20 from donor 101 and 40 from 102, so 1000 expected with a standard deviation of 26; B cells: 101.
        assert 870 < (filled[:3000, 1] == 0).sum() < 1130
        assert (filled[3000:, 1] == 0).all()

    def test_fills_every_gap_and_nothing_else(self, composition, rng):
        codes = np.column_stack([rng.integers(-1, len(names), size=500) for names in CATEGORIES.values()])
        before = codes.copy()
        filled = fill_from_training(codes, composition, ["donor"], rng)
        np.testing.assert_array_equal(codes, before)
        given = codes[:, 1] >= 0
        np.testing.assert_array_equal(filled[given], codes[given])
        np.testing.assert_array_equal(filled[:, [0, 2]], codes[:, [0, 2]])
        assert (filled[:, 1] >= 0).all()

    def test_unseen_combination_gets_the_marginal(self, composition, rng):
        stimulated_t_cells = np.tile([2, -1, 1], (3000, 1))
        filled = fill_from_training(stimulated_t_cells, composition, ["donor"], rng)
        # 65 of 120 trained cells are from donor 101: 1625 expected with a standard deviation of 27.
        assert 1490 < (filled[:, 1] == 0).sum() < 1760

    def test_several_keys_are_drawn_jointly(self, composition, rng):
        plan = np.tile([1, -1, -1], (400, 1))
        filled = fill_from_training(plan, composition, ["donor", "stim"], rng)
        assert set(map(tuple, filled.tolist())) == {(1, 0, 0), (1, 1, 1)}

    def test_reproducible(self, composition):
        plan = np.full((200, 3), -1)
        first, again, other = (
            fill_from_training(plan, composition, ["donor"], np.random.default_rng(seed)) for seed in (0, 0, 1)
        )
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    def test_nothing_to_fill(self, composition, without_conditions, rng):
        plan = np.full((5, 3), -1)
        np.testing.assert_array_equal(fill_from_training(plan, composition, [], rng), plan)
        assert fill_from_training(np.zeros((5, 0), dtype=int), without_conditions, [], rng).shape == (5, 0)


class TestContinuous:
    @pytest.fixture
    def timed(self):
        """B cells at 0 and 1 hours, mostly from donor 101 early and 102 late; T cells at 5 hours."""
        codes = np.repeat([[0, 0], [0, 1], [0, 1], [1, 0]], [30, 2, 40, 8], axis=0)
        hours = np.repeat([0.0, 0.0, 1.0, 5.0], [30, 2, 40, 8])[:, None]
        return TrainingComposition.from_codes(
            {"cell_type": ["B", "T"], "donor": ["101", "102"]}, codes, ["time"], hours
        )

    def test_combinations_have_values(self, timed):
        assert timed.keys == ["cell_type", "donor", "time"]
        rows = zip(timed.combinations.tolist(), timed.values[:, 0].tolist(), timed.n_cells.tolist(), strict=True)
        assert sorted(rows) == [([0, 0], 0.0, 30), ([0, 1], 0.0, 2), ([0, 1], 1.0, 40), ([1, 0], 5.0, 8)]
        np.testing.assert_allclose(timed.standard_deviations, np.std([0] * 32 + [1] * 40 + [5] * 8))

    def test_settings_survive_json(self, timed):
        back = TrainingComposition.from_dict(json.loads(json.dumps(timed.to_dict())))
        assert back.to_dict() == timed.to_dict() and back.values.shape == (4, 1)

    def test_observed_keeps_values_with_their_categories(self, timed, rng):
        plan = _conditions.read_conditions("observed", None, timed, rng)
        assert np.unique(np.column_stack(plan), axis=0).tolist() == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 5]]
        assert (plan.values == 1.0).sum() == 40

    @pytest.mark.parametrize("number", [3.5, "3.5", np.float32(3.5), [3.5], pd.Series([3.5]), {3.5: 1}])
    def test_every_form(self, number, timed, rng):
        plan = _conditions.read_conditions({"time": number}, 1, timed, rng)
        assert plan.values.tolist() == [[3.5]] and plan.codes.tolist() == [[-1, -1]]

    @pytest.mark.parametrize("number", [None, np.nan, [None], pd.Series([pd.NA], dtype="Float64")])
    def test_gaps_are_left_to_the_model(self, number, timed, rng):
        assert np.isnan(_conditions.read_conditions({"time": number}, 1, timed, rng).values).all()

    @pytest.mark.parametrize("number", ["late", np.inf, [1.0, -np.inf], {"late": 3}, ["1", "x"], pd.Timestamp(0)])
    def test_anything_else_is_refused(self, number, timed, rng):
        with pytest.raises(ValueError, match="'time' is continuous and needs a finite number, e.g. "):
            _conditions.read_conditions({"time": number}, None, timed, rng)

    def test_donors_come_from_cells_of_about_the_same_time(self, timed, rng):
        values = np.repeat([0.0, 1.02, 40.0, np.nan], 200)[:, None]
        plan = Plan(np.tile([0, -1], (800, 1)), values)
        donors = _conditions.fill_from_training(plan, timed, ["donor"], rng).codes[:, 1].reshape(4, 200)
        assert 0.85 < (donors[0] == 0).mean() < 1  # 30 of 32
        assert (donors[1] == 1).all() and (donors[2] == 1).all()  # the latest B cells
        assert 0.3 < (donors[3] == 0).mean() < 0.55  # 30 of 72

    def test_says_how_far_beyond_training(self, timed):
        assert beyond_training(np.array([[0.0], [5.0], [np.nan]]), timed) == []
        (message,) = beyond_training(np.array([[-1.0], [9.0], [2.0]]), timed)
        assert message.startswith("time=9 lies outside the training cells' range, 0 to 5, by 2.8")
