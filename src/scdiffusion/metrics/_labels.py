"""Whether generated cells are taken for the type they should have, and can stand in for real cells of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ._checks import Matrix, as_labelled_pair


def label_accuracy(
    train_X: Matrix, train_y: Sequence[Any], X: Matrix, y: Sequence[Any], *, C: float = 1.0, max_iter: int = 1000
) -> float:
    """Share of cells whose type, as a classifier trained on real cells sees it, is the type that was asked for.

    Multinomial logistic regression on standardised features. The goal is the figure of held-out real cells, not 1:
    a higher one means that types are drawn too cleanly.

    Parameters
    ----------
    train_X, train_y
        Real cells the classifier learns from, (n_train, n_features), and their types, (n_train,).
    X, y
        Cells to be judged, (n_cells, n_features), and the types they should have, (n_cells,).
    C
        Inverse strength of the ridge penalty.
    max_iter
        Iterations of the optimiser.

    Returns
    -------
    Accuracy between 0 and 1.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518 (there with CellTypist, a logistic regression on genes).

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["B", "T"], 50)
    >>> X = np.random.default_rng(0).normal(size=(100, 2)) + 9 * (y == "T")[:, None]
    >>> label_accuracy(X, y, X, y), label_accuracy(X, y, X, y[::-1])
    (1.0, 0.0)
    """
    train_X, train_y, X, y = as_labelled_pair(train_X, train_y, X, y, names=("train_X", "train_y", "X", "y"))
    predicted = _type_classifier(train_X, train_y, C, max_iter).predict(X)
    return float((predicted == y).mean())


def train_on_synthetic_f1(
    generated_X: Matrix,
    generated_y: Sequence[Any],
    test_X: Matrix,
    test_y: Sequence[Any],
    *,
    C: float = 1.0,
    max_iter: int = 1000,
) -> float:
    r"""Macro F1 on real cells of a classifier that was trained on generated cells only.

    .. math:: \frac1K \sum_{t} \frac{2\,\mathrm{TP}_t}{2\,\mathrm{TP}_t + \mathrm{FP}_t + \mathrm{FN}_t}

    over the :math:`K` types of the test cells; a type that was never generated scores 0. Higher is better; the
    yardstick is the same classifier trained on as many real cells.

    Parameters
    ----------
    generated_X, generated_y
        Generated cells, (n_generated, n_features), and their types, (n_generated,).
    test_X, test_y
        Real held-out cells, (n_test, n_features), and their types, (n_test,).
    C
        Inverse strength of the ridge penalty.
    max_iter
        Iterations of the optimiser.

    Returns
    -------
    Macro F1 between 0 and 1.

    References
    ----------
    Esteban et al. (2017), Real-valued (medical) time series generation, arXiv 1706.02633 (TSTR).

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat(["B", "T"], 50)
    >>> X = np.random.default_rng(0).normal(size=(100, 2)) + 9 * (y == "T")[:, None]
    >>> train_on_synthetic_f1(X, y, X, y)
    1.0
    """
    names = ("generated_X", "generated_y", "test_X", "test_y")
    generated_X, generated_y, test_X, test_y = as_labelled_pair(generated_X, generated_y, test_X, test_y, names=names)
    predicted = _type_classifier(generated_X, generated_y, C, max_iter).predict(test_X)
    return float(f1_score(test_y, predicted, labels=np.unique(test_y), average="macro", zero_division=0))


def _type_classifier(X: Matrix, y: np.ndarray, C: float, max_iter: int) -> Pipeline:
    if len(np.unique(y)) < 2:
        raise ValueError("A classifier of types needs training cells of at least two types.")
    # without centring a sparse matrix stays sparse; the intercept takes the mean's place
    scaler = StandardScaler(with_mean=isinstance(X, np.ndarray))
    return make_pipeline(scaler, LogisticRegression(C=C, max_iter=max_iter)).fit(X, y)
