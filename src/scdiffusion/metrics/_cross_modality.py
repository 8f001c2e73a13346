"""Whether modalities of the same cells belong together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ._checks import Matrix, as_pair
from ._coexpression import standardised
from ._marginals import CorrelationMethod, check_method, gene_moments


def cross_correlation_error(
    real_a: Matrix,
    real_b: Matrix,
    generated_a: Matrix,
    generated_b: Matrix,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    n_top: int = 200,
    method: CorrelationMethod = "spearman",
) -> float:
    r"""Mean absolute difference of the correlations between features of two modalities, RNA and protein for instance.

    .. math:: \frac{1}{|P|} \sum_{(g, h) \in P} \lvert \rho'_{gh} - \rho_{gh}\rvert

    Lower is better. Sampling noise alone contributes about :math:`1.1/\sqrt n`. Generators that draw each modality well
    but apart from the other fail here.

    Parameters
    ----------
    real_a, real_b
        Two modalities of the real cells, log-normalised, shapes (n_real, n_features_a) and (n_real, n_features_b), dense
        or CSR.
    generated_a, generated_b
        The same of the generated cells.
    pairs
        Columns to correlate, one of the first and one of the second modality each, such as genes and the proteins they
        code for. By default every feature of the one with every feature of the other, of the most variable ones.
    n_top
        Most features of a modality, those with the largest variance in real cells; not with ``pairs``.
    method
        ``"spearman"`` or ``"pearson"``.

    Returns
    -------
    Mean absolute difference; a feature that is constant on one side counts as uncorrelated there.

    Raises
    ------
    ValueError
        If the modalities of a side differ in their cells, or a pair names a column that does not exist.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> genes = rng.normal(size=(500, 3))
    >>> proteins = genes + 0.1 * rng.normal(size=(500, 3))
    >>> shuffled = rng.permutation(proteins)
    >>> cross_correlation_error(genes, proteins, genes, proteins)
    0.0
    >>> cross_correlation_error(genes, proteins, genes, shuffled, pairs=[(0, 0), (1, 1), (2, 2)]) > 0.8
    True
    """
    check_method(method)
    a = as_pair(real_a, generated_a, min_cells=3, allow_sparse=True)
    b = as_pair(real_b, generated_b, min_cells=3, allow_sparse=True)
    for side, first, second in zip(("real", "generated"), a, b, strict=True):
        if first.shape[0] != second.shape[0]:
            raise ValueError(
                f"{side}_a has {first.shape[0]} cells but {side}_b has {second.shape[0]}: both must be modalities of the "
                "same cells in the same order."
            )
    if pairs is None:
        first, second = (np.argsort(-gene_moments(X)[1], kind="stable")[:n_top] for X in (a[0], b[0]))
        product = "cg,ch->gh"
    else:
        first, second = _read_pairs(pairs, a[0].shape[1], b[0].shape[1])
        product = "cg,cg->g"
    real, generated = (
        np.einsum(product, standardised(x[:, first], method), standardised(y[:, second], method), optimize=True)
        for x, y in zip(a, b, strict=True)
    )
    return float(np.abs(generated - real).mean())


def _read_pairs(pairs: Sequence[tuple[int, int]], n_first: int, n_second: int) -> tuple[np.ndarray, np.ndarray]:
    array = np.asarray(pairs)
    if array.ndim != 2 or array.shape[1] != 2 or array.dtype.kind not in "iu" or not len(array):
        raise ValueError("pairs must be columns, one of each modality: [(0, 3), (1, 0)].")
    if (array < 0).any() or (array >= [n_first, n_second]).any():
        raise ValueError(f"pairs names a column that does not exist: there are {n_first} and {n_second}.")
    return array[:, 0], array[:, 1]
