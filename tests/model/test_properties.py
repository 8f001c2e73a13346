"""Whatever is thrown at `setup_anndata` and `generate`: a clear message or the right result, and no silent change."""

import copy
import re
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import scdiffusion as scd

SAME_EVERY_TIME = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)

KEYS = st.sampled_from(["cell type", "Zelltyp ä", "类型", "🧬", "", "a/b", "X", "_index", "0"])
WORDS = st.sampled_from(["B", "b", "NK ☂", "", " ", "nan", "None", "1", "1.0", "-1", "é", "é", "\u200b", "x" * 300])
FORMS = {
    "dense": np.asarray,
    "fortran": np.asfortranarray,
    "csr": sp.csr_matrix,
    "csc": sp.csc_matrix,
    "csr_array": sp.csr_array,
    "csc_array": sp.csc_array,
}
DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint64", "bool"]
ODD_VALUES = [np.nan, np.inf, -np.inf, -1, 0.5, 1e-40, 1e30]


@st.composite
def expressions(draw):
    """A matrix of counts, or of nearly counts."""
    shape = draw(
        st.sampled_from([(60, 5), (51, 40), (50, 1), *draw(st.sampled_from([[], [(49, 5), (0, 5), (60, 0)]]))])
    )
    dtype = draw(st.sampled_from(DTYPES))
    dense = np.random.default_rng(draw(st.integers(0, 9))).poisson(draw(st.sampled_from([0.05, 1, 3])), shape)
    dense[:, :1] += draw(st.sampled_from([1, 1, 1, 0]))  # mostly no cell is empty
    dense = dense.astype(dtype)
    if dense.size and draw(st.sampled_from([False, False, False, True])):
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dense.flat[draw(st.integers(0, dense.size - 1))] = np.float64(draw(st.sampled_from(ODD_VALUES))).astype(
                dtype
            )
    form = draw(st.sampled_from(list(FORMS)))
    if dtype == "float16" and form not in ("dense", "fortran"):
        form = "dense"  # scipy has no sparse float16
    return FORMS[form](dense)


@st.composite
def columns(draw, n_cells):
    """A column of `obs`, of categories, numbers, or neither."""
    words = draw(st.lists(draw(st.sampled_from([WORDS, WORDS, WORDS | st.none()])), min_size=1, max_size=4))
    drawn = np.random.default_rng(0).integers(len(words), size=n_cells)
    values = pd.Series([words[i] for i in drawn], dtype=object)
    kind = draw(st.sampled_from(["object", "category", "unused", "ordered", "string", "int", "float", "bool", "mixed"]))
    if kind in ("category", "unused", "ordered"):
        names = list(dict.fromkeys(word for word in words if word is not None))
        names = draw(st.permutations(names + ["unused"] * (kind == "unused")))
        return pd.Categorical(values, categories=names, ordered=kind == "ordered")
    mixed = draw(st.permutations(["a", 1, 2.5, "1"]))
    convert = {
        "object": lambda: values.to_numpy(),
        "string": lambda: values.astype("string").array,
        "int": lambda: drawn,
        "float": lambda: np.where(drawn == 0, draw(st.sampled_from([0.5, np.nan, np.inf, 1e300])), drawn),
        "bool": lambda: drawn == 0,
        "mixed": lambda: np.array([mixed[i] for i in drawn], dtype=object),
    }
    return convert[kind]()


@st.composite
def datasets(draw):
    X = draw(expressions())
    adata = ad.AnnData(X)
    for key in draw(st.lists(KEYS, unique=True, max_size=3)):
        adata.obs[key] = draw(columns(adata.n_obs))
    if draw(st.booleans()):
        adata.layers["counts"] = adata.X.copy()
        adata.X = np.log1p(np.asarray(X.toarray() if sp.issparse(X) else X, dtype=np.float32).clip(0))
    if draw(st.booleans()):
        adata.var_names = [f"基因{i % draw(st.sampled_from([100, 100, 3]))}" for i in range(adata.n_vars)]
    storage = draw(st.sampled_from(["memory", "memory", "view", "backed"]))
    return adata, storage


def in_memory(adata: ad.AnnData) -> ad.AnnData:
    return adata.to_memory() if adata.isbacked else adata.copy()


def assert_untouched(adata: ad.AnnData, before: ad.AnnData) -> None:
    adata = in_memory(adata)
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    for now, then in [(adata.X, before.X), *((adata.layers[name], before.layers[name]) for name in before.layers)]:
        assert type(now) is type(then) and now.dtype == then.dtype
        np.testing.assert_array_equal(*(x.toarray() if sp.issparse(x) else x for x in (now, then)))
    assert set(adata.obsm) <= {"_scvi_scdiffusion_conditions", "_scvi_scdiffusion_continuous"}
    assert set(adata.uns) <= {"_scvi_uuid", "_scvi_manager_uuid"}


@settings(SAME_EVERY_TIME, max_examples=200)
@given(data=datasets(), chosen=st.data())
def test_setup_takes_data_or_says_why_not_and_changes_nothing(tmp_path_factory, data, chosen):
    adata, storage = data
    present = st.sampled_from([None, *adata.obs])
    keys = chosen.draw(st.lists(st.sampled_from([*adata.obs, *adata.obs, "absent"]), max_size=3))
    arguments = {
        "layer": chosen.draw(st.sampled_from([*[*adata.layers, None], *[*adata.layers, None], "nowhere"])),
        "values": chosen.draw(st.sampled_from(["counts", "counts", "counts", "log-normalised", "tpm"])),
        "condition_keys": keys[0] if len(keys) == 1 else list(dict.fromkeys(keys)),
        "batch_key": chosen.draw(present) if chosen.draw(st.booleans()) else None,
        "continuous_condition_keys": chosen.draw(present) if chosen.draw(st.booleans()) else None,
    }
    if storage == "view":
        adata = adata[np.arange(adata.n_obs)]
    if storage == "backed":
        if any("/" in key or not key or key == "_index" for key in adata.obs):
            return  # h5ad has no such names
        path = tmp_path_factory.mktemp("backed") / "cells.h5ad"
        try:
            adata.write_h5ad(path)
        except (TypeError, ValueError, RuntimeError):
            return
        adata = ad.read_h5ad(path, backed="r")
    before = in_memory(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            scd.SCDiffusion.setup_anndata(adata, **arguments)
        except (ValueError, TypeError) as error:
            assert re.search("adata|condition_keys|batch_key|values must be|layer", str(error)), error
        else:
            assert adata.n_obs >= 50 and adata.n_vars >= 1
            if arguments["values"] != "counts" or storage == "backed":
                return
            model = scd.SCDiffusion(adata, n_latent=2, n_hidden=2, denoiser_hidden=2, denoiser_layers=1)
            assert model.composition.n_trained == adata.n_obs
            for key, names in model.composition.categories.items():
                if isinstance(adata.obs[key].dtype, pd.CategoricalDtype):
                    assert names == [str(name) for name in adata.obs[key].cat.categories]
                assert set(names) >= set(adata.obs[key].astype(str))
    assert_untouched(adata, before)
    if storage == "backed":
        adata.file.close()


@pytest.fixture(scope="module")
def model():
    adata = scd.datasets.pbmc68k_reduced()
    codes = np.random.default_rng(0).integers(3, size=700)
    adata.obs["类型"] = pd.Categorical.from_codes(codes, ["NK ☂", "B", "1.0"], ordered=True)
    adata.obs["day"] = codes * 1.5
    adata.obs["chip"] = np.array(["a", "b"])[codes % 2]
    scd.SCDiffusion.setup_anndata(
        adata, layer="counts", condition_keys="类型", batch_key="chip", continuous_condition_keys="day"
    )
    model = scd.SCDiffusion(adata, n_latent=3, n_hidden=4, denoiser_hidden=4, denoiser_layers=1)
    model.train(max_epochs=1, progress=False)
    return model


NUMBERS = st.sampled_from([0, 1, 2, 3, 1.0, 2.0, 1.5, -1, True, np.int8(2), np.float32(3), np.nan, np.inf, 1e300])
ODDITIES = st.sampled_from(
    [None, pd.NA, pd.NaT, b"B", 1j, (), {}, frozenset({"B"}), object, np.datetime64("2020-01-01")]
)
ENTRIES = st.one_of(
    st.sampled_from(["NK ☂", "B", "1.0", "a", "b"]), st.sampled_from(["NK ☂", "B"]), NUMBERS, WORDS, ODDITIES
)
LISTS = st.lists(ENTRIES, max_size=4)
REQUESTS = st.one_of(
    ENTRIES,
    LISTS,
    LISTS.map(tuple),
    LISTS.map(lambda entries: pd.Series(entries, index=range(9, 9 + len(entries)), dtype=object)),
    LISTS.map(lambda entries: np.array([*entries, None], dtype=object)[:-1]),
    st.lists(NUMBERS, max_size=4).map(np.array),
    st.lists(st.sampled_from(["B", "NK ☂", None]), max_size=4).map(lambda entries: pd.Categorical(entries)),
    st.dictionaries(st.sampled_from(["NK ☂", "B", "x", 1, None, 1.5]), NUMBERS, max_size=3),
    st.just(np.zeros((2, 2))),
    st.just(iter("ab")),
)
CONDITIONS = st.one_of(
    st.dictionaries(
        st.sampled_from(["类型", "类型", "day", "day", "chip", "chip", "Type", "", 0, None]), REQUESTS, max_size=3
    ),
    st.fixed_dictionaries({"类型": LISTS, "day": st.lists(NUMBERS, max_size=4)}).map(
        lambda lists: pd.DataFrame({key: pd.Series(column, dtype=object) for key, column in lists.items()})
    ),
    st.sampled_from(["observed", "Observed", 3, [], None, pd.DataFrame(index=[1, 2]), pd.DataFrame({"day": [1, 2]})]),
)


def is_same(asked, given_back) -> bool:
    """Whether an entry came back: as a word, as a number, or as nothing."""
    if pd.isna(asked):
        return bool(pd.isna(given_back))
    try:
        return float(asked) == float(given_back)
    except ValueError:
        return str(asked) == str(given_back)


@settings(SAME_EVERY_TIME, max_examples=200)
@given(conditions=CONDITIONS, n_cells=st.sampled_from([None, None, 1, 2, 3, 3.0, 2.5, 0, -1, "3", True]))
def test_generate_delivers_what_is_asked_or_says_why_not(model, conditions, n_cells):
    before = copy.deepcopy(conditions) if not isinstance(conditions, dict) else dict(conditions)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            cells = model.generate(n_cells, conditions, rng=0, n_steps=1)
        except (ValueError, TypeError) as error:
            assert re.search("obs_conditions|n_cells|condition|categor|continuous|out of all proportion", str(error)), (
                error
            )
            return
    assert n_cells is None or cells.n_obs == n_cells
    assert list(cells.obs["类型"].cat.categories) == ["NK ☂", "B", "1.0"] and cells.obs["类型"].cat.ordered
    assert cells.obs["chip"].isin(["a", "b"]).all() and cells.obs["day"].dtype == np.float64
    for key, request in (conditions if isinstance(conditions, dict | pd.DataFrame) else {}).items():
        if isinstance(request, str):
            assert all(is_same(request, back) for back in cells.obs[key])
        elif isinstance(request, list | tuple | pd.Series | np.ndarray):
            pairs = list(zip(request, cells.obs[key], strict=True))
            assert all(is_same(entry, back) or (pd.isna(entry) and key == "chip") for entry, back in pairs)
    if isinstance(conditions, pd.DataFrame):
        pd.testing.assert_frame_equal(conditions, before)
    else:
        assert repr(conditions) == repr(before)
