import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.preprocessing import StandardScaler

from scdiffusion import metrics

CENTRES = 1.5 * np.random.default_rng(0).normal(size=(3, 6))
NAMES = np.array(["B", "NK", "T"])


def draw(seed, n=300, spread=1.0, p=(0.6, 0.3, 0.1)):
    rng = np.random.default_rng(seed)
    codes = rng.choice(3, size=n, p=p)
    return CENTRES[codes] + spread * rng.normal(size=(n, 6)), NAMES[codes]


def test_accuracy_and_f1_against_sklearn():
    (X, y), (X2, y2) = draw(1), draw(2)
    scaler = StandardScaler().fit(X)
    predicted = LogisticRegression(max_iter=1000).fit(scaler.transform(X), y).predict(scaler.transform(X2))
    assert metrics.label_accuracy(X, y, X2, y2) == pytest.approx((predicted == y2).mean())
    assert metrics.train_on_synthetic_f1(X, y, X2, y2) == pytest.approx(f1_score(y2, predicted, average="macro"))


def test_types_drawn_too_cleanly_beat_real_cells():
    X, y = draw(1)
    real, clean = draw(2), draw(3, spread=0.2)
    assert 0.7 < metrics.label_accuracy(X, y, *real) < metrics.label_accuracy(X, y, *clean)


def test_wrong_types_are_wrong():
    (X, y), (X2, y2) = draw(1), draw(2, spread=0.1)
    swapped = np.where(y2 == "B", "T", np.where(y2 == "T", "B", y2))
    assert metrics.label_accuracy(X, y, X2, swapped) == pytest.approx((y2 == "NK").mean(), abs=0.02)


def test_a_type_that_was_never_generated_scores_zero():
    X, y = draw(1, spread=0.1)
    without = y != "T"
    complete = metrics.train_on_synthetic_f1(X, y, *draw(2, spread=0.1))
    missing = metrics.train_on_synthetic_f1(X[without], y[without], *draw(2, spread=0.1))
    assert complete == 1
    assert missing < 2 / 3


def test_sparse_expression_gives_the_same_answer():
    rng = np.random.default_rng(0)
    y = NAMES[rng.integers(3, size=400)]
    X = rng.poisson(np.where((np.arange(30) % 3)[None] == np.searchsorted(NAMES, y)[:, None], 1.5, 0.5)).astype(float)
    dense = metrics.label_accuracy(X[:200], y[:200], X[200:], y[200:])
    csr = sparse.csr_matrix(X)
    assert metrics.label_accuracy(csr[:200], y[:200], csr[200:], y[200:]) == pytest.approx(dense, abs=0.02)
    assert dense > 0.8
