import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from strictness import warnings_are_errors

from scdiffusion._compat import named_layers
from scdiffusion.model import _expression_checks
from scdiffusion.model._checks import check_anndata, check_continuous
from scdiffusion.model._expression_checks import check_counts
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.training import _expression

FORMATS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sparse.csr_matrix,
    "csc": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "coo": sparse.coo_matrix,
}


def make_counts(n_cells=60, n_genes=20, dtype=np.float32):
    counts = np.random.default_rng(0).poisson(1.0, size=(n_cells, n_genes)).astype(dtype)
    counts[:, 0] += 1  # every cell has a count
    return counts


@pytest.fixture
def adata():
    counts = make_counts()
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(["B cell", "NK", "T cell"] * 20),
            "donor": [101, 102] * 30,
            "age": np.linspace(20, 80, 60),
        },
        index=[f"cell{i}" for i in range(60)],
    )
    adata = ad.AnnData(sparse.csr_matrix(np.log1p(counts)), obs=obs)
    adata.layers["counts"] = sparse.csr_matrix(counts)
    return adata


@pytest.fixture
def raw(adata):
    """The counts in ``adata.X``, as before normalisation."""
    return ad.AnnData(adata.layers["counts"].copy(), obs=adata.obs)


@pytest.fixture(autouse=True)
def no_warning_unless_expected():
    with warnings_are_errors():
        yield


class TestCounts:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.uint16, np.int8])
    @pytest.mark.parametrize("form", FORMATS)
    def test_accepts_counts(self, form, dtype):
        check_counts(FORMATS[form](make_counts(dtype=dtype)), "X")

    def test_accepts_presence(self):
        check_counts(make_counts() > 0, "X")
        check_counts(sparse.csr_matrix(make_counts() > 0), "X")

    @pytest.mark.parametrize("form", FORMATS)
    @pytest.mark.parametrize(
        ("value", "message"),
        [
            (np.nan, "X holds NaN; scdiffusion needs raw counts"),
            (np.inf, "X holds infinite values"),
            (-np.inf, "X holds infinite values"),
            (-2.0, r"X holds negative values \(e.g. -2\)"),
            (3e9, r"X holds values beyond int32 \(e.g. 3e\+09\)"),
            (1.38629, r"X holds non-integers \(e.g. 1.386\); .* pass layer='counts'"),
        ],
    )
    def test_refuses_one_bad_value(self, form, value, message, monkeypatch):
        # Small chunks, so that the bad value is in the last of many.
        monkeypatch.setattr(_expression_checks, "CHUNK", 64)
        X = make_counts()
        X[-1, -1] = value
        with pytest.raises(ValueError, match=message):
            check_counts(FORMATS[form](X), "X")

    def test_refuses_negative_integers(self):
        X = make_counts(dtype=np.int64)
        X[30, 3] = -1
        with pytest.raises(ValueError, match="negative values"):
            check_counts(sparse.csr_matrix(X), "X")

    @pytest.mark.parametrize("dtype", [np.uint32, np.int64, np.float32, np.float64])
    def test_the_bound_is_that_of_int32(self, dtype):
        X = make_counts(dtype=dtype)
        X[30, 3] = 2**31 - 128  # a number that single precision has
        check_counts(X, "X")
        X[30, 3] = 2**31
        with pytest.raises(ValueError, match="beyond int32"):
            check_counts(X, "X")

    def test_refuses_what_is_no_number(self):
        with pytest.raises(ValueError, match="X holds object values"):
            check_counts(np.full((60, 3), "a", dtype=object), "X")

    @pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
    def test_refuses_empty(self, shape):
        for X in (np.zeros(shape), sparse.csr_matrix(shape), None):
            with pytest.raises(ValueError, match="X is empty"):
                check_counts(X, "X")

    @pytest.mark.parametrize("form", FORMATS)
    def test_names_cells_without_counts(self, form, adata):
        X = make_counts()
        X[[3, 7, 8, 20, 21, 50, 59]] = 0
        with pytest.raises(ValueError, match=r"7 cell\(s\) without any count \('cell3', .*'cell21' and 2 more\)"):
            check_counts(FORMATS[form](X), "adata.X", adata)

    def test_explicit_zeros_are_no_counts(self):
        X = sparse.csr_matrix(make_counts())
        X.data[X.indptr[5] : X.indptr[6]] = 0
        with pytest.raises(ValueError, match=r"1 cell\(s\) without any count \('5'\)"):
            check_counts(X, "X")

    def test_remedies_for_cells_without_counts_work(self, raw):
        raw = ad.AnnData(raw.X.toarray(), obs=raw.obs)
        raw.X[[2, 4]] = 0
        with pytest.raises(ValueError, match=r"sc\.pp\.filter_cells\(adata, min_counts=1\)$"):
            check_anndata(raw)
        for form in (np.asarray, sparse.csr_matrix):
            raw.layers["counts"] = form(raw.X)
            with pytest.raises(ValueError, match="Remove them: ") as error:
                check_anndata(raw, "counts")
            scope = {"adata": raw, "np": np}
            exec(str(error.value).split("Remove them: ")[1], scope)
            check_anndata(scope["adata"], "counts")
            assert scope["adata"].n_obs == 58

    def test_a_matrix_on_disk_is_read_to_the_end_in_pieces(self, tmp_path, monkeypatch):
        monkeypatch.setattr(_expression, "BLOCK", 25)
        last, empty = make_counts(), make_counts()
        last[59, 0], empty[[3, 59]] = 0.5, 0
        with h5py.File(tmp_path / "X.h5", "w") as file:
            check_counts(file.create_dataset("good", data=make_counts()), "X")
            with pytest.raises(ValueError, match="non-integers"):
                check_counts(file.create_dataset("last", data=last), "X")
            with pytest.raises(ValueError, match=r"2 cell\(s\) without any count \('3', '59'\)"):
                check_counts(file.create_dataset("empty", data=empty), "X")

    @pytest.mark.parametrize("form", ["dense", "csr"])
    def test_backed(self, form, tmp_path, raw):
        for name, value in (("good", 1), ("bad", 0.5)):
            X = make_counts()
            X[5, 0] = value
            ad.AnnData(FORMATS[form](X), obs=raw.obs).write_h5ad(tmp_path / f"{name}.h5ad")
        good = ad.read_h5ad(tmp_path / "good.h5ad", backed="r")
        bad = ad.read_h5ad(tmp_path / "bad.h5ad", backed="r")
        check_anndata(good)
        check_anndata(good[:55])
        for adata in (bad, bad[:55]):
            with pytest.raises(ValueError, match="non-integers"):
                check_anndata(adata)

    def test_refuses_genes_before_cells_on_disk(self, tmp_path, raw):
        ad.AnnData(sparse.csc_matrix(make_counts()), obs=raw.obs).write_h5ad(tmp_path / "X.h5ad")
        with pytest.raises(ValueError, match=r"adata.X is stored gene by gene .* adata = adata.to_memory\(\)"):
            check_anndata(ad.read_h5ad(tmp_path / "X.h5ad", backed="r"))

    def test_lazy(self):
        class Lazy:
            """What dask does that matters here: slices stay lazy until ``compute``."""

            def __init__(self, X):
                self.X, self.shape = X, X.shape

            def __getitem__(self, rows):
                return Lazy(self.X[rows])

            def compute(self):
                return self.X

        check_counts(Lazy(make_counts()), "X")
        with pytest.raises(ValueError, match="non-integers"):
            check_counts(Lazy(make_counts() / 2), "X")


class TestWhereCountsAre:
    def test_names_the_layer_with_counts(self, adata):
        adata.layers["scaled"] = -1 - adata.X.toarray()
        with pytest.raises(ValueError, match=r"adata\.X holds non-integers.*Pass layer='counts'\.$"):
            check_anndata(adata)
        with pytest.raises(ValueError, match=r"adata\.layers\['scaled'\] holds negative.*Pass layer='counts'\.$"):
            check_anndata(adata, "scaled")

    def test_counts_in_x(self, raw):
        raw.layers["lognorm"] = np.log1p(raw.X.toarray())
        with pytest.raises(ValueError, match=r"Pass layer=None\.$"):
            check_anndata(raw, "lognorm")

    def test_counts_in_raw(self, adata, raw):
        del adata.layers["counts"]
        adata.raw = raw
        with pytest.raises(ValueError, match=r"adata = adata\.raw\.to_adata\(\)$"):
            check_anndata(adata)
        check_anndata(adata.raw.to_adata())

    def test_counts_nowhere(self, adata):
        adata.layers["counts"] = adata.X / 2
        with pytest.raises(ValueError, match=r"Keep the counts before normalising.*pass layer='counts'\.$"):
            check_anndata(adata)

    def test_no_x(self, adata):
        adata.layers["lognorm"] = adata.X
        adata.X = None
        with pytest.raises(ValueError, match=r"adata\.X is empty\. Pass layer='counts'\.$"):
            check_anndata(adata)
        with pytest.raises(ValueError, match=r"Pass layer='counts'\.$"):
            check_anndata(adata, "lognorm")

    def test_suggests_neither_zeros_nor_what_was_just_refused(self, adata, monkeypatch):
        monkeypatch.setattr(_expression_checks, "N_ROWS_TO_JUDGE_A_LAYER", 10)
        adata.layers["zeros"] = sparse.csr_matrix(adata.shape)
        adata.layers["counts"][50, 0] = 0.5
        with pytest.raises(ValueError, match="non-integers.*Keep the counts"):
            check_anndata(adata, "counts")


class TestAnnData:
    def test_refuses_a_single_gene(self, raw):
        with pytest.raises(ValueError, match="adata has 1 gene; a model needs 2 or more"):
            check_anndata(raw[:, :1].copy())

    @pytest.mark.parametrize(
        ("given", "keys"),
        [
            (None, []),
            ("cell_type", ["cell_type"]),
            (["cell_type"], ["cell_type"]),
            (("donor", "cell_type"), ["donor", "cell_type"]),
            (pd.Index(["donor"]), ["donor"]),
        ],
    )
    def test_returns_the_keys_as_a_list(self, given, keys, adata):
        assert check_anndata(adata, "counts", given) == keys

    def test_batch_key_is_not_among_them(self, adata):
        assert check_anndata(adata, "counts", "cell_type", "donor") == ["cell_type"]

    def test_leaves_adata_as_it_is(self, adata):
        before = adata.copy()
        check_anndata(adata, "counts", ["cell_type"], "donor")
        adata.obs.loc["cell0", "age"] = np.nan
        before.obs.loc["cell0", "age"] = np.nan
        for arguments in ((None,), ("counts", "age"), ("counts", "organ"), ("spliced",)):
            with pytest.raises(ValueError):
                check_anndata(adata, *arguments)
        pd.testing.assert_frame_equal(adata.obs, before.obs)
        pd.testing.assert_frame_equal(adata.var, before.var)
        for matrix, copy in ((adata.X, before.X), (adata.layers["counts"], before.layers["counts"])):
            assert matrix.dtype == copy.dtype
            assert (matrix != copy).nnz == 0
        assert list(named_layers(adata)) == ["counts"]
        assert not adata.uns

    def test_views_stay_views(self, adata):
        view = adata[5:]
        assert check_anndata(view, "counts", "cell_type") == ["cell_type"]
        assert view.is_view

    def test_refuses_other_types(self, adata):
        with pytest.raises(TypeError, match=r"not DataFrame.*setup_mudata"):
            check_anndata(adata.obs)

    def test_refuses_few_cells(self, adata):
        with pytest.raises(ValueError, match="adata has 49 cells; scdiffusion needs 50"):
            check_anndata(adata[:49], "counts")
        check_anndata(adata[:50], "counts")

    def test_refuses_no_genes(self, adata):
        with pytest.raises(ValueError, match="no genes"):
            check_anndata(adata[:, :0], "counts")

    def test_refuses_duplicate_genes(self, adata):
        adata.var_names = ["MATR3", "MATR3", *adata.var_names[2:]]
        with pytest.raises(ValueError, match=r"not unique \('MATR3'\)\. Call adata\.var_names_make_unique\(\)"):
            check_anndata(adata, "counts")

    def test_missing_layer(self, adata):
        with pytest.raises(ValueError, match="adata.layers has no 'count'. Did you mean 'counts'. Available: 'counts'"):
            check_anndata(adata, "count")
        del adata.layers["counts"]
        with pytest.raises(ValueError, match="Available: none"):
            check_anndata(adata, "counts")


class TestConditions:
    @pytest.mark.parametrize("arguments", [("CellType",), (["cell_type", "CellType"],), (None, "CellType")])
    def test_missing_column(self, arguments, adata):
        with pytest.raises(ValueError, match="no column 'CellType'. Did you mean 'cell_type'"):
            check_anndata(adata, "counts", *arguments)

    def test_key_twice(self, adata):
        with pytest.raises(ValueError, match="condition_keys names 'donor' twice"):
            check_anndata(adata, "counts", ["donor", "cell_type", "donor"])

    def test_batch_key_is_a_condition(self, adata):
        with pytest.raises(ValueError, match="batch_key 'donor' is also in condition_keys"):
            check_anndata(adata, "counts", ["donor", "cell_type"], "donor")

    @pytest.mark.parametrize("as_batch", [False, True])
    @pytest.mark.parametrize("dtype", ["category", object, "string"])
    def test_gaps_and_that_both_remedies_work(self, adata, dtype, as_batch):
        adata.obs["cell_type"] = adata.obs["cell_type"].astype(dtype).where(np.arange(adata.n_obs) >= 7)
        keys = (None, "cell_type") if as_batch else ("cell_type",)
        with pytest.raises(ValueError, match=r"adata\.obs\['cell_type'\] is missing \(NaN\) in 7 of 60 cells") as error:
            check_anndata(adata, "counts", *keys)
        drop, fill = str(error.value).split("Drop them: ")[1].split("\nor make them a category: ")

        scope = {"adata": adata}
        exec(drop, scope)
        check_anndata(scope["adata"], "counts", *keys)
        assert scope["adata"].n_obs == 53

        exec(fill, {"adata": adata})
        check_anndata(adata, "counts", *keys)
        assert (adata.obs["cell_type"][:7] == "unknown").all()

    def test_continuous_column_and_that_binning_it_works(self, adata):
        adata.obs.loc["cell0", "age"] = np.nan  # to fill it in would be the wrong advice
        with pytest.raises(ValueError, match="59 different numbers, but conditions are categorical.*pd.cut") as error:
            check_anndata(adata, "counts", "age")
        exec(str(error.value).split("Bin it first: ")[1], {"adata": adata, "pd": pd})
        adata.obs["age_binned"] = adata.obs["age_binned"].where(adata.obs["age"].notna(), "unknown")
        with pytest.warns(UserWarning, match="age_binned: unknown"):
            assert check_anndata(adata, "counts", "age_binned") == ["age_binned"]

    def test_numbers_that_are_categories(self, adata):
        adata.obs["dose"] = [0.0, 0.5, 1.0] * 20
        adata.obs["plate"] = np.arange(60) % 20
        assert check_anndata(adata, "counts", ["dose", "plate"]) == ["dose", "plate"]

    def test_warns_of_a_single_category(self, adata):
        adata.obs["organ"] = "spleen"
        with pytest.warns(UserWarning, match=r"adata\.obs\['organ'\] carries no information.*'spleen'"):
            check_anndata(adata, "counts", ["organ", "cell_type"])

    def test_warns_once_of_rare_categories(self, adata):
        adata.obs["cell_type"] = ["pDC", "pDC", "ILC"] + ["NK"] * 54 + ["B cell"] * 3
        adata.obs["donor"] = [1] + [2] * 59
        with pytest.warns(UserWarning) as caught:
            check_anndata(adata, "counts", ["cell_type"], "donor")
        assert len(caught) == 1
        message = str(caught[0].message)
        assert message.startswith("Fewer than 3 cells")
        for name in ("cell_type: pDC", "cell_type: ILC", "donor: 1"):
            assert name in message
        for name in ("NK", "B cell", "donor: 2"):
            assert name not in message

    def test_categories_without_cells_are_none(self, adata):
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.add_categories("left behind")
        check_anndata(adata, "counts", "cell_type")

    def test_the_warning_points_at_the_caller_of_setup(self, adata):
        adata.obs["organ"] = "spleen"

        def setup_anndata():
            check_anndata(adata, "counts", "organ")

        with pytest.warns(UserWarning) as caught:
            setup_anndata()
        assert caught[0].filename == __file__
        assert caught[0].lineno > setup_anndata.__code__.co_firstlineno + 1


def test_name_some():
    assert name_some([]) == "none"
    assert name_some(["a", 1]) == "'a', '1'"
    assert name_some("abcd", 2) == "'a', 'b' and 2 more"


def test_did_you_mean():
    assert did_you_mean("Organ", ["organ", "donor"]) == " Did you mean 'organ'? Available: 'organ', 'donor'."
    assert did_you_mean("xyz", ["organ"]) == " Available: 'organ'."
    assert did_you_mean("cd4", ["CD4", "Cd4"]).startswith(" Did you mean 'CD4' or 'Cd4'?")


class TestContinuous:
    def test_columns_of_numbers_pass(self, adata):
        adata.obs["plate"] = np.arange(60)
        adata.obs["dose"] = pd.array(np.arange(60) / 7, dtype="Float64")
        assert check_continuous(adata, "age") == ["age"]
        assert check_continuous(adata, ["age", "plate", "dose"], ["donor"]) == ["age", "plate", "dose"]
        assert check_continuous(adata) == []

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            (["1", "2", "3"] * 20, r"holds no numbers.*condition_keys=\['x'\].*astype\(float\)"),
            ([True, False] * 30, "holds no numbers but bool"),
            (pd.Categorical([0.5, 1.0] * 30), "holds no numbers but category"),
            ([1.0, np.nan] * 30, "missing .NaN. or infinite in 30 of 60 cells"),
            ([1.0, np.inf, 2.0] * 20, "infinite in 20 of 60 cells"),
            (pd.array([1.0, None] * 30, dtype="Float64"), "in 30 of 60 cells"),
            ([2.5] * 60, "is 2.5 in every cell"),
        ],
    )
    def test_others_do_not(self, column, message, adata):
        adata.obs["x"] = column
        with pytest.raises(ValueError, match=message):
            check_continuous(adata, "x")

    def test_the_way_out_works(self, adata):
        adata.obs["x"] = [1.0, np.nan, 3.0] * 20
        with pytest.raises(ValueError) as error:
            check_continuous(adata, "x")
        scope = {"adata": adata, "np": np}
        exec(str(error.value).split("Drop them: ")[1], scope)
        assert check_continuous(scope["adata"], "x") == ["x"] and scope["adata"].n_obs == 40

    def test_unknown_and_double_columns(self, adata):
        with pytest.raises(ValueError, match="Did you mean 'age'"):
            check_continuous(adata, "Age")
        for keys, taken in ((["age", "age"], []), (["age"], ["cell_type", "age"])):
            with pytest.raises(ValueError, match="names 'age', which is named elsewhere"):
                check_continuous(adata, keys, taken)
