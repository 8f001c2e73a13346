"""Classifier two-sample tests: how well generated cells can be told from real ones."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ._checks import Matrix, Rng, as_pair, stack, to_seed


def random_forest_auc(
    real: Matrix,
    generated: Matrix,
    *,
    n_estimators: int = 1000,
    max_depth: int | None = 5,
    test_size: float = 0.25,
    rng: Rng = 0,
    n_jobs: int = -1,
) -> float:
    r"""Held-out AUC of a random forest that tells generated from real cells.

    With the forest's score :math:`s`, over held-out cells,

    .. math:: \mathrm{AUC} = P\bigl(s(y) > s(x)\bigr), \quad x \in \text{real}, \; y \in \text{generated}.

    0.5 is perfect, 1 means every cell is recognised; a value below 0.5 beyond chance points to copies of real cells.
    The settings are those of scDiffusion (joint 50 PCs) and of SCLD; gene space is the stringent variant.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features), dense or CSR. Give both the same number of cells.
    n_estimators, max_depth
        Trees and their depth.
    test_size
        Share of the cells, of either kind, that the AUC is computed on.
    rng
        Seed or generator for the split and the forest.
    n_jobs
        Threads; -1 uses all cores.

    Returns
    -------
    Area under the ROC curve.

    References
    ----------
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, ICLR.
    Luo et al. (2024), scDiffusion, Bioinformatics btae518. SCLD (2023), arXiv 2312.14220.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> random_forest_auc(rng.normal(size=(100, 5)), rng.normal(9, size=(100, 5)), n_estimators=10, n_jobs=1)
    1.0
    """
    X, y = _pool(real, generated)
    seed = to_seed(rng)
    # class weights as in scDiffusion's code; they matter only where the two sides differ in number
    forest = RandomForestClassifier(
        n_estimators, max_depth=max_depth, class_weight="balanced", random_state=seed, n_jobs=n_jobs
    )
    return _held_out_auc(forest, X, y, test_size, seed)


def logistic_auc(
    real: Matrix, generated: Matrix, *, C: float = 0.01, test_size: float = 0.25, rng: Rng = 0, max_iter: int = 1000
) -> float:
    """Held-out AUC of a logistic regression on standardised features: differences of means, summed over all genes.

    0.5 is perfect, 1 means every cell is recognised. A linear classifier is blind to correlations, so cells drawn gene
    by gene from the right means pass it; it sees small shifts spread over many genes that a shallow forest misses.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features), dense or CSR. Give both the same number of cells.
    C
        Inverse strength of the ridge penalty.
    test_size
        Share of the cells, of either kind, that the AUC is computed on.
    rng
        Seed or generator for the split.
    max_iter
        Iterations of the optimiser.

    Returns
    -------
    Area under the ROC curve, as in :func:`random_forest_auc`.

    References
    ----------
    Lopez-Paz & Oquab (2017), Revisiting classifier two-sample tests, ICLR.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> logistic_auc(rng.normal(size=(100, 5)), rng.normal(9, size=(100, 5)))
    1.0
    """
    X, y = _pool(real, generated)
    # without centring a sparse matrix stays sparse; the intercept takes the mean's place
    scaler = StandardScaler(with_mean=isinstance(X, np.ndarray))
    model = make_pipeline(scaler, LogisticRegression(C=C, max_iter=max_iter))
    return _held_out_auc(model, X, y, test_size, to_seed(rng))


def knn_auc(real: Matrix, generated: Matrix, *, n_neighbors: int = 5, test_size: float = 0.3, rng: Rng = 0) -> float:
    """Held-out AUC of a nearest-neighbour classifier that tells generated from real cells.

    0.5 is perfect, 1 means every cell is recognised. Use it in principal components: in raw gene space distances are
    nearly equal, and smooth fakes pass at 0.5.

    Parameters
    ----------
    real, generated
        Shapes (n_real, n_features) and (n_generated, n_features). Give both the same number of cells.
    n_neighbors
        Neighbours that vote.
    test_size
        Share of the cells, of either kind, that the AUC is computed on.
    rng
        Seed or generator for the split.

    Returns
    -------
    Area under the ROC curve, as in :func:`random_forest_auc`.

    References
    ----------
    Luo et al. (2024), scDiffusion, Bioinformatics btae518.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> knn_auc(rng.normal(size=(100, 5)), rng.normal(9, size=(100, 5)))
    1.0
    """
    X, y = _pool(real, generated)
    n_train = int(len(y) * (1 - test_size))
    if n_train < n_neighbors:
        raise ValueError(f"{n_neighbors} neighbours need as many training cells, but there are only {n_train}.")
    # floats of the same width let scikit-learn take its blocked brute-force path
    model = KNeighborsClassifier(n_neighbors, algorithm="brute")
    return _held_out_auc(model, X.astype(np.float32), y, test_size, to_seed(rng))


def _pool(real: Matrix, generated: Matrix) -> tuple[Matrix, np.ndarray]:
    real, generated = as_pair(real, generated, min_cells=10, allow_sparse=True)
    return stack(real, generated), np.repeat([0, 1], [real.shape[0], generated.shape[0]])


def _held_out_auc(model: Any, X: Matrix, y: np.ndarray, test_size: float, seed: int) -> float:
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=test_size, stratify=y, random_state=seed)
    model.fit(X_train, y_train)
    return float(roc_auc_score(y_test, model.predict_proba(X_test)[:, 1]))
