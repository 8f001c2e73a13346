"""Mean-expression profiles: of the training cells' categories, and as users give them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor

from scdiffusion.autoencoders import COUNTS, TARGET_SUM, normalise
from scdiffusion.model._composition import TrainingComposition
from scdiffusion.model._expression_checks import MAX_LOG_VALUE, check_expression
from scdiffusion.model._messages import name_some
from scdiffusion.networks import MeanExpressionConditions
from scdiffusion.training import Expression, expression_source


def log_normalised(expression: sp.csr_matrix, values: str) -> sp.csr_matrix:
    """Log-normalised expression of what was registered."""
    return normalise(expression, TARGET_SUM) if values == COUNTS else expression


def set_profiles(
    encoder: MeanExpressionConditions,
    expression: Expression,
    values: str,
    codes: np.ndarray,
    categories: Mapping[str, Any],
) -> None:
    """Give the encoder the mean of each category's cells.

    Parameters
    ----------
    encoder
        The condition encoder.
    expression, values
        Of the registered cells, and what it is.
    codes
        Their conditions, `(n_cells, n_keys)`.
    categories
        Categories of each condition key.

    Raises
    ------
    ValueError
        If a category has no cells.
    """
    n_cells = [
        np.bincount(column, minlength=len(names)) for column, names in zip(codes.T, categories.values(), strict=True)
    ]
    for n, (key, names) in zip(n_cells, categories.items(), strict=True):
        if not n.all():
            raise ValueError(
                f"No cell has the category {name_some(names[n == 0])} of {key!r}, so that it has no mean "
                f"expression. Drop it: adata.obs[{key!r}] = adata.obs[{key!r}].cat.remove_unused_categories(), then call "
                "setup_anndata again."
            )
    profiles, overall, start = [np.zeros((len(n), expression.shape[1])) for n in n_cells], 0.0, 0
    for block in expression.blocks():
        x = log_normalised(block, values)
        overall += np.asarray(x.sum(0)).ravel() / len(codes)
        for profile, n, column in zip(profiles, n_cells, codes[start : start + x.shape[0]].T, strict=True):
            cells = np.arange(len(column))
            profile += (sp.csr_matrix((1 / n[column], (column, cells)), (len(n), len(column))) @ x).toarray()
        start += x.shape[0]
    encoder.set_profiles([_tensor(profile) for profile in profiles], _tensor(overall))


def take_profiles(
    obs_conditions: Any,
    genes: pd.Index,
    composition: TrainingComposition,
    covariate_keys: Collection[str],
    setup: Mapping[str, Any],
) -> tuple[Any, dict[int, AnnData | pd.Series]]:
    """Take the profiles out of what a user asks for.

    Parameters
    ----------
    obs_conditions
        As :meth:`~scdiffusion.SCDiffusion.generate` takes it.
    genes
        Genes of the model.
    composition
        What the model was trained on.
    covariate_keys
        Conditions that the decoder is told.
    setup
        How the training cells were registered.

    Returns
    -------
    What is left, and cells or a profile by the position of the condition key.

    Raises
    ------
    ValueError
        If a condition can have no profile.
    """
    if not isinstance(obs_conditions, Mapping):
        return obs_conditions, {}
    rest, profiles = {}, {}
    for key, request in obs_conditions.items():
        if key not in composition.keys or not _is_profile(request, key, genes, composition):
            rest[key] = request
            continue
        if key in covariate_keys:
            what = "the batch" if key == setup["batch_key"] else "a covariate"
            raise ValueError(f"{key!r} is {what}, which the decoder must know: there is no profile of it.")
        if key in composition.continuous:
            raise ValueError(f"{key!r} is continuous: ask for numbers, there is no profile of it.")
        profiles[composition.keys.index(key)] = request
    return rest, profiles


def _is_profile(request: Any, key: str, genes: pd.Index, composition: TrainingComposition) -> bool:
    """Whether what is asked of a condition key is meant as a profile: cells, or numbers by gene."""
    if isinstance(request, AnnData):
        return True
    if not isinstance(request, pd.Series) or not pd.api.types.is_numeric_dtype(request.dtype):
        return False
    if request.index.isin(genes).any():
        return True
    # Numbers, one per cell, may be categories or values of a continuous key; else they can only be of other genes.
    is_of_cells = key in composition.continuous or not pd.api.types.is_float_dtype(request.dtype)
    return not is_of_cells and not all(composition.is_category(key, value) for value in request.dropna().unique())


def read_cells(request: AnnData, key: str, genes: pd.Index, setup: Mapping[str, Any]) -> sp.csr_matrix:
    """Read the expression of cells that a user gives in place of a category, `(n_cells, n_genes)`.

    Parameters and errors are those of :func:`read_profile`.
    """
    if not request.n_obs:
        raise ValueError(f"{key!r} was given as cells, but there are none.")
    columns = _columns_of(request.var_names, genes, key)
    expression = expression_source(check_expression(request, setup.get("layer"), setup.get("values", COUNTS)))
    return expression.take(np.arange(request.n_obs))[:, columns]


def read_profile(request: AnnData | pd.Series, key: str, genes: pd.Index, setup: Mapping[str, Any]) -> Tensor:
    """Read a profile that a user gives in place of a category.

    Parameters
    ----------
    request
        Cells, whose expression is where that of the training cells was, or mean log-normalised expression by gene.
    key
        The condition key.
    genes
        Genes of the model; the profile is brought into their order, and further genes are left out.
    setup
        How the training cells were registered.

    Returns
    -------
    Mean log-normalised expression, `(n_genes,)`.

    Raises
    ------
    ValueError
        If genes are missing or occur twice, or a value is not that of expression.
    """
    if isinstance(request, AnnData):
        expression = log_normalised(read_cells(request, key, genes, setup), setup.get("values", COUNTS))
        return _tensor(np.asarray(expression.mean(0)).ravel())
    profile = request.to_numpy(dtype=np.float64)[_columns_of(request.index, genes, key)]
    if not (np.isfinite(profile) & (profile >= 0) & (profile <= MAX_LOG_VALUE)).all():
        raise ValueError(
            f"The profile of {key!r} holds NaN, infinite or negative values, or ones above {MAX_LOG_VALUE}. It must be "
            "mean log-normalised expression by gene, neither scaled nor counts; of cells, pass the AnnData itself."
        )
    return _tensor(profile)


def _columns_of(given: pd.Index, genes: pd.Index, key: str) -> np.ndarray:
    """Where the model's genes are among those given."""
    if not genes.isin(given).any():
        raise ValueError(
            f"The profile of {key!r} shares no genes with the model: it has {name_some(given, 3)}, the model "
            f"{name_some(genes, 3)}. (A Series with one entry per cell must hold categories of {key!r}.)"
        )
    if not given.is_unique:
        raise ValueError(
            f"The profile of {key!r} names genes twice: {name_some(given[given.duplicated()].unique(), 5)}."
        )
    columns = given.get_indexer(genes)
    missing = genes[columns < 0]
    if len(missing):
        raise ValueError(
            f"The profile of {key!r} lacks {len(missing)} of the model's {len(genes)} genes: {name_some(missing, 5)}. "
            "Give all genes of model.var_.index, zero where there is no expression."
        )
    return columns


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))
