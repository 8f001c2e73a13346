import numpy as np
import pytest
from scipy import sparse, stats

from scdiffusion.metrics import cross_correlation_error


@pytest.fixture
def sides():
    """Two modalities of 300 real and 200 generated cells, tied by a shared factor that is weaker in generated cells."""
    rng = np.random.default_rng(0)
    parts = []
    for n, strength in ((300, 1.0), (200, 0.3)):
        factor = rng.normal(size=(n, 1))
        parts += [strength * factor + rng.normal(size=(n, 5)), strength * factor + rng.normal(size=(n, 3))]
    return parts


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_is_the_mean_difference_of_scipys_correlations(sides, method):
    real_a, real_b, generated_a, generated_b = sides
    correlate = {"spearman": stats.spearmanr, "pearson": stats.pearsonr}[method]

    def table(a, b):
        return np.array([[correlate(x, y).statistic for y in b.T] for x in a.T])

    difference = np.abs(table(real_a, real_b) - table(generated_a, generated_b))
    assert cross_correlation_error(*sides, method=method) == pytest.approx(difference.mean())
    pairs = [(0, 2), (4, 1)]
    expected = (difference[0, 2] + difference[4, 1]) / 2
    assert cross_correlation_error(*sides, pairs=pairs, method=method) == pytest.approx(expected)
    assert cross_correlation_error(*map(sparse.csr_matrix, sides), method=method) == pytest.approx(difference.mean())


def test_modalities_drawn_apart_are_found_out(sides):
    real_a, real_b, *_ = sides
    assert cross_correlation_error(real_a, real_b, real_a, real_b) == 0
    assert cross_correlation_error(real_a, real_b, real_a, np.random.default_rng(0).permutation(real_b)) > 0.3


def test_most_variable_features_are_chosen_from_real_cells(sides):
    real_a, real_b, generated_a, generated_b = sides
    scaled = real_a * np.array([1, 1, 10, 1, 1])
    chosen = cross_correlation_error(scaled, real_b, generated_a, generated_b, n_top=1)
    top = int(np.argmax(real_b.var(0)))
    assert chosen == pytest.approx(cross_correlation_error(*sides, pairs=[(2, top)]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b, c, d: ((a[:50], b, c, d), {}), "real_a has 50 cells but real_b has 300"),
        (lambda a, b, c, d: ((a, b, c, d), {"pairs": [(0, 3)]}), "column that does not exist: there are 5 and 3"),
        (lambda a, b, c, d: ((a, b, c, d), {"pairs": [("x", "y")]}), "pairs must be columns"),
        (lambda a, b, c, d: ((a, b, c, d[:, :2]), {}), "real has 3 columns but generated has 2"),
    ],
)
def test_bad_input(sides, change, message):
    arguments, kwargs = change(*sides)
    with pytest.raises(ValueError, match=message):
        cross_correlation_error(*arguments, **kwargs)
