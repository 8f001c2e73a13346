import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scanpy.pl import palettes

from scdiffusion.metrics import log_normalise
from scdiffusion.pl import _utils as utils


def dense(X):
    return X.toarray() if hasattr(X, "toarray") else X


def test_counts_of_either_side_are_log_normalised(real, generated):
    a, b = utils.read_pair(real, generated, "counts")
    np.testing.assert_allclose(dense(a.X), dense(log_normalise(real.layers["counts"])))
    np.testing.assert_allclose(dense(b.X), dense(log_normalise(generated.X)))


def test_log_normalised_expression_is_taken_as_it_is(generated):
    logs = generated.copy()
    logs.X = log_normalise(generated.X)
    _, b = utils.read_pair(generated, logs)
    np.testing.assert_array_equal(dense(b.X), dense(logs.X))


def test_raw_counts_on_request(real, generated):
    a, _ = utils.read_pair(real, generated, "counts", counts=True)
    np.testing.assert_array_equal(dense(a.X), dense(real.layers["counts"]))


def test_genes_are_matched_by_name_and_normalised_together(generated):
    other = generated[:, ::-2].copy()
    with pytest.warns(UserWarning, match=r"30 genes that real \(60\) and generated \(30\) share"):
        a, b = utils.read_pair(generated, other)
    assert list(a.var_names) == list(b.var_names) == [g for g in generated.var_names if g in set(other.var_names)]
    np.testing.assert_allclose(dense(a.X), dense(b.X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X - 3, r"real.X holds negative values .* Pass layer='counts'"),
        (lambda X: X * 100.5, r"real.X holds non-integers up to .* Pass layer='counts'"),
        (lambda X: X * np.nan, "real.X holds NaN"),
    ],
)
def test_what_is_no_expression_is_refused(generated, change, message):
    broken = generated.copy()
    broken.layers["counts"] = generated.X
    broken.X = change(generated.X.toarray())
    with pytest.raises(ValueError, match=message):
        utils.read_pair(broken, generated)


def test_bad_sides(real, generated):
    with pytest.raises(TypeError, match="generated must be an AnnData, not DataFrame"):
        utils.read_pair(real, pd.DataFrame())
    with pytest.raises(ValueError, match="Neither side has a layer 'count'. Did you mean 'counts'"):
        utils.read_pair(real, generated, "count")
    other = generated.copy()
    other.var_names = [f"ENSG{i}" for i in range(other.n_vars)]
    with pytest.raises(ValueError, match="share no gene: 'GENE0', .* against 'ENSG0'"):
        utils.read_pair(real, other, "counts")
    other.var_names = ["GENE0"] * other.n_vars
    with pytest.raises(ValueError, match="generated.var_names are not unique"):
        utils.read_pair(real, other, "counts")


def test_key_has_the_categories_of_both_sides_those_of_the_real_first(real, generated):
    real.obs["batch"] = ["b", "a"] * 75
    generated.obs["batch"] = pd.Categorical(["c", "a"] * 60)
    a, b = utils.read_pair(real, generated, "counts", "batch")
    assert list(a.obs["batch"].cat.categories) == list(b.obs["batch"].cat.categories) == ["a", "b", "c"]
    assert list(a.obs["batch"]) == list(real.obs["batch"])
    assert list(b.obs["batch"]) == list(generated.obs["batch"])


def test_bad_keys(real, generated):
    with pytest.raises(ValueError, match=r"real.obs has no column 'cell_typ'. Did you mean 'cell_type'"):
        utils.read_pair(real, generated, "counts", "cell_typ")
    with pytest.raises(ValueError, match=r"real.obs\['depth'\] holds numbers"):
        utils.read_pair(real, generated, "counts", "depth")


def test_groups_on_one_side_only_are_left_out_with_a_warning(real, generated):
    sides = utils.read_pair(real, generated[generated.obs["cell_type"] != "NK"], "counts", "cell_type")
    with pytest.warns(UserWarning, match="Left out.*'NK'"):
        assert utils.pick_groups(*sides, "cell_type") == ["T", "B"]
    assert utils.pick_groups(*sides, "cell_type", ["B", "T"]) == ["B", "T"]
    with pytest.raises(ValueError, match="'NK' has fewer than 1 cell.* in generated"):
        utils.pick_groups(*sides, "cell_type", "NK")
    with pytest.raises(ValueError, match="no category 'nk'. Did you mean 'NK'"):
        utils.pick_groups(*sides, "cell_type", ["T", "nk"])


def test_genes_are_checked(generated):
    assert utils.pick_genes(generated, "GENE3") == ["GENE3"]
    with pytest.raises(ValueError, match="Gene 'gene59' .* Did you mean 'GENE59'"):
        utils.pick_genes(generated, ["GENE3", "gene59"])
    with pytest.raises(ValueError, match="empty"):
        utils.pick_genes(generated, [])


def test_colors_come_from_uns_of_the_first_side_that_has_them(real, generated):
    categories = ["T", "B", "NK"]
    expected = dict(zip(categories, real.uns["cell_type_colors"], strict=True))
    assert utils.colors_of(categories, "cell_type", real, generated) == expected
    assert utils.colors_of(categories, "cell_type", generated, real) == expected
    generated.uns["cell_type_colors"] = ["#111111", "#222222", "#333333"]
    assert utils.colors_of(categories, "cell_type", real, generated) == expected
    assert utils.colors_of(categories, "cell_type", generated, real)["B"] == "#222222"
    # colours stay with their categories where one is not drawn
    assert utils.colors_of(["T", "NK"], "cell_type", real) == {"T": expected["T"], "NK": expected["NK"]}


@pytest.mark.parametrize(("n", "palette"), [(15, palettes.default_20), (25, palettes.default_28)])
def test_colors_are_scanpys_without_uns(n, palette):
    names = [f"t{i:02}" for i in range(n)]
    adata = ad.AnnData(np.ones((n, 1)), obs=pd.DataFrame({"x": names}, index=names))
    adata.uns["x_colors"] = ["#111111"]  # too few, as after adding a category
    assert list(utils.colors_of(names, "x", adata).values()) == list(palette[:n])


@pytest.mark.parametrize(("n_panels", "shape"), [(1, (1, 1)), (4, (1, 4)), (6, (2, 3)), (10, (3, 4))])
def test_panels_fill_the_figure(n_panels, shape):
    panels = utils.make_axes(None, n_panels, (2, 3))
    assert len(panels) == len(panels[0].figure.axes) == n_panels
    assert panels[0].get_subplotspec().get_gridspec().get_geometry() == shape
    assert tuple(panels[0].figure.get_size_inches()) == (2 * shape[1], 3 * shape[0])


def test_numbered_categories_are_the_same_as_integers_and_floats(real, generated):
    real.obs["k"], generated.obs["k"] = np.arange(real.n_obs) % 2, np.arange(generated.n_obs) % 2 * 1.0
    a, b = utils.read_pair(real, generated, "counts", "k")
    assert list(a.obs["k"].cat.categories) == list(b.obs["k"].cat.categories) == ["0", "1"]
    generated.uns["k_colors"] = ["red", "blue"]
    assert utils.colors_of(["0", "1"], "k", generated) == {"0": "red", "1": "blue"}
