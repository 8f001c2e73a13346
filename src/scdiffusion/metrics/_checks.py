"""What every metric asks of its input, so that bad input fails with a sentence and not with a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

Matrix = np.ndarray | sparse.csr_matrix | sparse.csr_array
Rng = int | np.random.Generator | None
# a column with more different numbers than this is one of measurements
MAX_NUMERIC_CATEGORIES = 50


def as_matrix(X: Any, name: str, *, min_cells: int = 2, allow_sparse: bool = False) -> Matrix:
    """Return ``X`` as a finite float matrix (cells x features); CSR stays CSR where that is allowed."""
    if sparse.issparse(X):
        if not allow_sparse:
            raise ValueError(
                f"{name} is sparse, but this metric needs dense coordinates: "
                "reduce both sides first, e.g. with scdiffusion.metrics.joint_pca(real, generated)."
            )
        X = X.tocsr()
        values = X.data
    else:
        X = values = np.asarray(X)
    if X.ndim != 2:
        raise ValueError(f"{name} must be a matrix of cells x features, but it has {X.ndim} dimension(s).")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold numbers, but its dtype is {values.dtype}.")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds NaN or infinite values: remove those cells or features first.")
    if values.dtype not in (np.float32, np.float64):
        X = X.astype(np.float64)
    if X.shape[0] < min_cells:
        raise ValueError(f"{name} has {X.shape[0]} cell(s), but this metric needs at least {min_cells}.")
    return X


def check_columns(*named: tuple[str, Matrix]) -> None:
    """Raise unless all matrices have the same features."""
    (first, reference), *others = named
    for name, X in others:
        if X.shape[1] != reference.shape[1]:
            raise ValueError(
                f"{first} has {reference.shape[1]} columns but {name} has {X.shape[1]}: "
                "both need the same features in the same order."
            )


def as_pair(real: Any, generated: Any, *, min_cells: int = 2, allow_sparse: bool = False) -> tuple[Matrix, Matrix]:
    """Check both sides of a comparison, and that they have the same features."""
    real = as_matrix(real, "real", min_cells=min_cells, allow_sparse=allow_sparse)
    generated = as_matrix(generated, "generated", min_cells=min_cells, allow_sparse=allow_sparse)
    check_columns(("real", real), ("generated", generated))
    return real, generated


def as_labels(labels: Sequence[Any], n_cells: int, name: str) -> np.ndarray:
    """Return ``labels`` as an array with one present value per cell."""
    labels = np.asarray(labels)
    if labels.shape != (n_cells,):
        raise ValueError(f"{name} must hold one label for each of {n_cells} cells, but its shape is {labels.shape}.")
    # pandas.NA compares to neither True nor False, NaN is unequal to itself
    n_missing = sum(label is None or (label == label) is not True for label in labels.tolist())
    if n_missing:
        raise ValueError(f"{name} lacks the label of {n_missing} cell(s): give them one, or leave those cells out.")
    return labels


def as_labelled_pair(
    X: Any, y: Sequence[Any], X2: Any, y2: Sequence[Any], names: tuple[str, str, str, str]
) -> tuple[Matrix, np.ndarray, Matrix, np.ndarray]:
    """Check two matrices and the labels of their cells; ``names`` are what error messages call the four."""
    X, X2 = as_matrix(X, names[0], allow_sparse=True), as_matrix(X2, names[2], min_cells=1, allow_sparse=True)
    check_columns((names[0], X), (names[2], X2))
    return X, as_labels(y, X.shape[0], names[1]), X2, as_labels(y2, X2.shape[0], names[3])


def category_name(value: Any) -> str:
    """Return the name of a category, the same for 1 and 1.0: a column with missing values turns integers to floats."""
    is_integer = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value) if is_integer else value)


def stack(*matrices: Matrix) -> Matrix:
    """Put cells below one another; the result is CSR as soon as one of them is."""
    if any(sparse.issparse(X) for X in matrices):
        return sparse.vstack([sparse.csr_matrix(X) for X in matrices], format="csr")
    return np.concatenate(matrices)


def to_seed(rng: Rng) -> int:
    """One integer for scikit-learn, which does not take numpy Generators."""
    return int(np.random.default_rng(rng).integers(2**31 - 1))
