import numpy as np
import pytest
from scipy.spatial.distance import cdist

from scdiffusion import metrics

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(200, 3)), rng.normal(0.5, 1.2, size=(150, 3))


def pair_at(shift):
    rng = np.random.default_rng(0)
    X = np.concatenate([rng.normal(size=(300, 5)), rng.normal(size=(200, 5)) + shift])
    return X, np.repeat(["real", "generated"], [300, 200])


# From scib-metrics 0.5.10, on X, batches = pair_at(shift), or three batches of 200, 150 and 150 cells at shift 0.5:
#   distances, indices = NearestNeighbors(n_neighbors=90, algorithm="brute").fit(X).kneighbors(X)
#   ilisi_knn(NeighborsResults(indices=indices, distances=distances), batches)
SCIB = {0.0: 0.8504851, 0.5: 0.7315831, 1.5: 0.039099693}
SCIB_THREE_BATCHES = 0.7686999


@pytest.mark.parametrize("shift", SCIB)
def test_lisi_against_stored_scib_metrics(shift):
    assert metrics.lisi(*pair_at(shift)) == pytest.approx(SCIB[shift], abs=1e-5)


def test_lisi_of_three_batches_against_stored_scib_metrics():
    X, _ = pair_at(0.5)
    batches = np.repeat(["a", "b", "c"], [200, 150, 150])
    assert metrics.lisi(X, batches) == pytest.approx(SCIB_THREE_BATCHES, abs=1e-5)
    assert metrics.lisi(1e4 * X, batches) == pytest.approx(SCIB_THREE_BATCHES, abs=1e-4)


def test_lisi_against_installed_scib_metrics():
    scib_metrics = pytest.importorskip("scib_metrics")
    from scib_metrics.nearest_neighbors import NeighborsResults
    from sklearn.neighbors import NearestNeighbors

    X, batches = pair_at(0.7)
    distances, indices = NearestNeighbors(n_neighbors=90, algorithm="brute").fit(X).kneighbors(X)
    reference = scib_metrics.ilisi_knn(NeighborsResults(indices=indices, distances=distances), batches)
    assert metrics.lisi(X, batches) == pytest.approx(float(reference), abs=1e-4)


def test_lisi_is_one_when_mixed_and_zero_when_apart():
    X = np.random.default_rng(0).normal(size=(2000, 4))
    batches = np.arange(2000) % 2
    assert 0.9 < metrics.lisi(X, batches) < 1
    assert metrics.lisi(X + 50 * batches[:, None], batches) == pytest.approx(0, abs=1e-9)
    assert metrics.lisi(np.zeros((200, 4)), np.arange(200) % 2) > 0.9


def reference_prdc(real, fake, k):
    """Naeem et al.'s four metrics, by brute force."""
    r_real = np.sort(cdist(real, real), axis=1)[:, k]
    r_fake = np.sort(cdist(fake, fake), axis=1)[:, k]
    d = cdist(real, fake)
    in_real = d < r_real[:, None]
    return (
        in_real.sum(axis=0).mean() / k,
        in_real.any(axis=1).mean(),
        in_real.any(axis=0).mean(),
        (d < r_fake).any(axis=1).mean(),
    )


@pytest.mark.parametrize("k", [1, 5, 10])
def test_balls_against_brute_force(k):
    result = *metrics.density_coverage(X, Y, k=k), *metrics.precision_recall(X, Y, k=k)
    assert result == pytest.approx(reference_prdc(X, Y, k))


def test_coverage_of_a_second_real_sample_is_what_the_paper_predicts():
    """Naeem et al. (2020), Lemma 2, for equal numbers: 1 - 2^-k."""
    draws = np.random.default_rng(0).normal(size=(40, 2, 150, 4))
    results = np.array([metrics.density_coverage(A, B, k=3) for A, B in draws])
    assert results.mean(axis=0) == pytest.approx([1, 1 - 2**-3], abs=0.03)


def test_balls_of_identical_and_distant_sets():
    assert metrics.density_coverage(X, X) == (1, 1)
    assert metrics.precision_recall(X, X) == (1, 1)
    assert metrics.density_coverage(X, X + 99) == (0, 0)
    assert metrics.precision_recall(X, X + 99) == (0, 0)


def test_a_missing_state_costs_coverage_and_recall_but_not_precision():
    real = np.concatenate([X, X + 20])
    generated = np.random.default_rng(1).normal(size=(400, 3))
    assert metrics.density_coverage(real, generated).coverage < 0.55
    assert metrics.precision_recall(real, generated).recall < 0.55
    assert metrics.precision_recall(real, generated).precision > 0.9


def test_one_nn_accuracy_against_brute_force():
    pooled, is_real = np.concatenate([X, Y]), np.repeat([True, False], [200, 150])
    distances = cdist(pooled, pooled)
    np.fill_diagonal(distances, np.inf)
    correct = is_real[distances.argmin(axis=1)] == is_real
    expected = (correct[is_real].mean() + correct[~is_real].mean()) / 2
    assert metrics.one_nn_accuracy(X, Y) == pytest.approx(expected)
    assert metrics.one_nn_accuracy(Y, X) == pytest.approx(expected)


@pytest.mark.parametrize("n_generated", [600, 150])
def test_one_nn_accuracy_of_the_same_distribution_is_half_whatever_the_numbers(n_generated):
    rng = np.random.default_rng(0)
    accuracy = metrics.one_nn_accuracy(rng.normal(size=(600, 4)), rng.normal(size=(n_generated, 4)))
    assert accuracy == pytest.approx(0.5, abs=0.05)


def test_one_nn_accuracy_of_copies_is_zero():
    assert metrics.one_nn_accuracy(X, X) == 0
    assert metrics.one_nn_accuracy(X, X + 99) == 1
