"""Whether the generator repeats its training cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from ._checks import as_labels, as_matrix, check_columns


def nearest_training_ratio(generated: np.ndarray, train: np.ndarray, heldout: np.ndarray) -> float:
    r"""How far generated cells keep from the training cells, relative to real cells that were not trained on.

    .. math::
        \frac{\operatorname{median}_{y \in \text{generated}} \min_{x \in \text{train}} \lVert y - x\rVert}
        {\operatorname{median}_{z \in \text{heldout}} \min_{x \in \text{train}} \lVert z - x\rVert}

    1 is ideal; near 0 the training cells are being repeated, above 1 generated cells stray from the real ones.
    A weak proxy of privacy: also look at :func:`membership_auc`.

    Parameters
    ----------
    generated, train, heldout
        Coordinates in one space, shapes (n_cells, n_features); held-out cells from the same population as ``train``.

    Returns
    -------
    Ratio of the median distances.

    References
    ----------
    Meehan et al. (2020), A non-parametric test to detect data-copying in generative models, AISTATS.

    Examples
    --------
    >>> import numpy as np
    >>> train, heldout, fresh = np.random.default_rng(0).normal(size=(3, 500, 5))
    >>> nearest_training_ratio(train, train, heldout), 0.9 < nearest_training_ratio(fresh, train, heldout) < 1.1
    (0.0, True)
    """
    generated, train, heldout = _check(generated=generated, train=train, heldout=heldout)
    scale = np.median(_radius(heldout, train, 1))
    if scale == 0:
        raise ValueError("Most held-out cells are copies of training cells: hold out cells that were not trained on.")
    return float(np.median(_radius(generated, train, 1)) / scale)


def membership_auc(
    train: np.ndarray,
    heldout: np.ndarray,
    generated: np.ndarray,
    *,
    n_neighbors: int = 1,
    train_donors: Sequence[Any] | None = None,
    heldout_donors: Sequence[Any] | None = None,
) -> float:
    r"""Membership inference: how well generated cells tell which real cells were trained on.

    The attacker scores a cell by how much denser generated cells lie around it than cells of the population do,

    .. math:: s(x) = \frac{\hat p_\mathrm{gen}(x)}{\hat p_\mathrm{ref}(x)} \propto
        \Bigl(\frac{r_\mathrm{ref}(x)}{r_\mathrm{gen}(x)}\Bigr)^{d},

    with nearest-neighbour density estimates: :math:`r` is the distance to the k-th nearest cell. The held-out cells are
    the reference; a held-out cell is left out of its own. The result is the AUC of training against held-out cells, or,
    with donors given, of training against held-out donors by their cells' mean log score (a held-out donor is then left
    out of the reference as a whole).

    0.5 is ideal, 1 means that every training cell is given away; lower is better.

    Parameters
    ----------
    train, heldout, generated
        Coordinates in one space, shapes (n_cells, n_features): ``reference_pca(train, heldout, generated)``. Axes
        fitted on the held-out cells would stretch these and give members away.
    n_neighbors
        Neighbour that defines the density; 1 is the most sensitive to copies.
    train_donors, heldout_donors
        Donor of each training and of each held-out cell; no donor in both.

    Returns
    -------
    Area under the ROC curve.

    References
    ----------
    van Breugel et al. (2023), Membership inference attacks against synthetic data through overfitting detection
    (DOMIAS), AISTATS.

    Examples
    --------
    >>> import numpy as np
    >>> train, heldout, fresh = np.random.default_rng(0).normal(size=(3, 500, 5))
    >>> membership_auc(train, heldout, train), 0.45 < membership_auc(train, heldout, fresh) < 0.55
    (1.0, True)
    """
    train, heldout, generated = _check(train=train, heldout=heldout, generated=generated, min_cells=n_neighbors + 1)
    if (train_donors is None) != (heldout_donors is None):
        raise ValueError("Give the donors of both training and held-out cells, or of neither.")
    if train_donors is None:
        score_train = _log_radius(train, heldout, n_neighbors)
        score_heldout = _log_radius(heldout, None, n_neighbors)
    else:
        train_donors = as_labels(train_donors, len(train), "train_donors")
        heldout_donors = as_labels(heldout_donors, len(heldout), "heldout_donors")
        score_train, score_heldout = _leave_donor_out(train, heldout, train_donors, heldout_donors, n_neighbors)
    score_train -= _log_radius(train, generated, n_neighbors)
    score_heldout -= _log_radius(heldout, generated, n_neighbors)
    if train_donors is not None:
        score_train = _mean_by(train_donors, score_train)
        score_heldout = _mean_by(heldout_donors, score_heldout)
    is_member = np.repeat([True, False], [len(score_train), len(score_heldout)])
    return float(roc_auc_score(is_member, np.concatenate([score_train, score_heldout])))


def _check(*, min_cells: int = 2, **matrices: np.ndarray) -> list[np.ndarray]:
    checked = {name: as_matrix(X, name, min_cells=min_cells) for name, X in matrices.items()}
    check_columns(*checked.items())
    return list(checked.values())


def _leave_donor_out(
    train: np.ndarray, heldout: np.ndarray, train_donors: np.ndarray, heldout_donors: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Log reference radii; training cells see each leave-one-donor-out reference too, so that sizes match."""
    donors = np.unique(heldout_donors)
    shared = np.intersect1d(donors, train_donors)
    if len(shared) or len(donors) < 2 or len(np.unique(train_donors)) < 2:
        raise ValueError(
            f"By donor, at least two training and two held-out donors are needed, none of them on both sides "
            f"(on both sides: {len(shared)}; held out: {len(donors)})."
        )
    score_train, score_heldout = np.zeros(len(train)), np.empty(len(heldout))
    for donor in donors:
        own = heldout_donors == donor
        if np.count_nonzero(~own) < k:
            raise ValueError(f"Without donor {donor!r} fewer than {k} held-out cells are left.")
        score_heldout[own] = _log_radius(heldout[own], heldout[~own], k)
        score_train += _log_radius(train, heldout[~own], k) / len(donors)
    return score_train, score_heldout


def _mean_by(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    _, codes = np.unique(groups, return_inverse=True)
    return np.bincount(codes, values) / np.bincount(codes)


def _log_radius(X: np.ndarray, reference: np.ndarray | None, k: int) -> np.ndarray:
    # an exact copy has radius 0; any floor far below real distances ranks it first without an infinity
    return np.log(np.maximum(_radius(X, reference, k), 1e-12))


def _radius(X: np.ndarray, reference: np.ndarray | None, k: int) -> np.ndarray:
    """Distance of every cell to its ``k``-th nearest in ``reference``, or to its ``k``-th nearest other cell."""
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(X if reference is None else reference)
    distances, _ = index.kneighbors(None if reference is None else X)
    return distances[:, -1]
