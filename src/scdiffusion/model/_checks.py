"""Errors before any time is spent: what is wrong with the data, and what to type instead."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from anndata import AnnData

from scdiffusion.autoencoders import COUNTS
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import check_expression
from scdiffusion.model._messages import did_you_mean, name_some

MIN_CELLS = 50
MIN_CELLS_PER_CATEGORY = 3
MAX_FLOAT_CATEGORIES = 20


def check_anndata(
    adata: AnnData,
    layer: str | None = None,
    condition_keys: str | Sequence[str] | None = None,
    batch_key: str | None = None,
    values: str = COUNTS,
) -> list[str]:
    """Check that a model can be trained on ``adata``, which is left as it is.

    Parameters
    ----------
    adata
        Cells by genes.
    layer
        Where the expression is; ``None`` for ``adata.X``.
    condition_keys
        One ``obs`` column or several, to generate cells by.
    batch_key
        An ``obs`` column of no interest in itself.
    values
        What the expression is, ``"counts"`` or ``"log-normalised"``.

    Returns
    -------
    The condition keys as a list, without ``batch_key``.

    Raises
    ------
    TypeError
        If ``adata`` is no :class:`~anndata.AnnData`.
    ValueError
        If the expression, the names or a condition cannot be used. The message says what to type instead.

    Warns
    -----
    UserWarning
        If a condition has one category only, or categories with too few cells to learn.
    """
    if not isinstance(adata, AnnData):
        raise TypeError(f"adata must be an AnnData, not {type(adata).__name__}. Of a MuData, call setup_mudata.")
    if not isinstance(adata.obs, pd.DataFrame):
        raise TypeError(
            "adata.obs is lazy, as read_lazy gives it. Only the expression may stay on disk: AnnData(sparse_dataset(group['X']), "
            "obs=read_elem(group['obs']), var=read_elem(group['var'])), with both functions from anndata.io."
        )
    _check_names(adata)
    keys = check_conditions(adata, condition_keys, batch_key)
    if Key.POSTERIORS not in adata.obsm:  # else the expression is not read, and may not be there
        check_expression(adata, layer, values)
    return keys


def check_conditions(adata: AnnData, condition_keys: str | Sequence[str] | None, batch_key: str | None) -> list[str]:
    """Check the columns of categorical conditions, see :func:`check_anndata`, and return them as a list."""
    keys = _as_list(condition_keys, batch_key)
    columns = [*keys, batch_key] if batch_key is not None else keys
    for key in columns:
        _check_column(adata, key)
    _warn_about_categories(adata, columns)
    return keys


def check_continuous(adata: AnnData, keys: str | Sequence[str] | None = None, taken: Iterable[str] = ()) -> list[str]:
    """Check that ``obs`` columns can be learned from as continuous conditions.

    Parameters
    ----------
    adata
        Cells by genes.
    keys
        One ``obs`` column or several.
    taken
        Columns that are categorical conditions or the batch.

    Returns
    -------
    The keys as a list.

    Raises
    ------
    ValueError
        If a column is missing or taken, or holds anything but finite numbers, or one number only.
    """
    keys = [keys] if isinstance(keys, str) else list(keys or [])
    twice = [key for key in dict.fromkeys(keys) if [*keys, *taken].count(key) > 1]
    if twice:
        raise ValueError(
            f"continuous_condition_keys names {name_some(twice)}, which is named elsewhere too. Name every column "
            "once: in condition_keys to ask for its categories, in continuous_condition_keys to ask for any number."
        )
    for key in keys:
        _check_exists(adata, key)
        column, where = adata.obs[key], f"adata.obs[{key!r}]"
        if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
            raise ValueError(
                f"{where} holds no numbers but {column.dtype}. Pass condition_keys=[{key!r}] for categories, or turn "
                f"it into numbers: {where} = {where}.astype(float)"
            )
        values = column.to_numpy(dtype=float, na_value=np.nan)
        n_bad = int((~np.isfinite(values)).sum())
        if n_bad:
            raise ValueError(
                f"{where} is missing (NaN) or infinite in {n_bad} of {adata.n_obs} cells. Drop them: "
                f"adata = adata[np.isfinite({where}.astype(float))].copy()"
            )
        if np.ptp(values) == 0:
            raise ValueError(
                f"{where} is {values[0]:g} in every cell: there is nothing to learn from it. Leave it out."
            )
    return keys


def _as_list(condition_keys: str | Sequence[str] | None, batch_key: str | None) -> list[str]:
    if condition_keys is None:
        condition_keys = []
    keys = [condition_keys] if isinstance(condition_keys, str) else list(condition_keys)
    twice = [key for key in dict.fromkeys(keys) if keys.count(key) > 1]
    if twice:
        raise ValueError(f"condition_keys names {name_some(twice)} twice. Name every column once.")
    if batch_key in keys:
        raise ValueError(
            f"batch_key {batch_key!r} is also in condition_keys. Give it in one of them: in condition_keys to generate "
            "cells by it, as batch_key if it is a nuisance."
        )
    return keys


def _check_names(adata: AnnData) -> None:
    if adata.n_vars == 0:
        raise ValueError("adata has no genes (adata.n_vars is 0).")
    if adata.n_obs < MIN_CELLS:
        raise ValueError(f"adata has {adata.n_obs} cells; scdiffusion needs {MIN_CELLS} or more to learn from.")
    if not adata.var_names.is_unique:
        twice = adata.var_names[adata.var_names.duplicated()].unique()
        raise ValueError(
            f"adata.var_names are not unique ({name_some(twice, 5)}). Call adata.var_names_make_unique() first."
        )


def _check_exists(adata: AnnData, key: str) -> None:
    if key not in adata.obs:
        raise ValueError(f"adata.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")


def _check_column(adata: AnnData, key: str) -> None:
    _check_exists(adata, key)
    column, where = adata.obs[key], f"adata.obs[{key!r}]"
    if pd.api.types.is_float_dtype(column) and column.nunique() > MAX_FLOAT_CATEGORIES:
        raise ValueError(
            f"{where} holds {column.nunique()} different numbers, but conditions are categorical. To ask for any "
            f"number, pass continuous_condition_keys=[{key!r}]; else make categories of it. Bin it first: "
            f"adata.obs['{key}_binned'] = pd.cut({where}, bins=5).astype(str)"
        )
    n_missing = int(column.isna().sum())
    if n_missing:
        as_category = "" if isinstance(column.dtype, pd.CategoricalDtype) else ".astype('category')"
        raise ValueError(
            f"{where} is missing (NaN) in {n_missing} of {adata.n_obs} cells. Drop them: "
            f"adata = adata[{where}.notna()].copy()\nor make them a category: "
            f"{where} = {where}{as_category}.cat.add_categories('unknown').fillna('unknown')"
        )
    names = pd.Series(column.unique()).astype(str)
    if not names.is_unique:
        raise ValueError(
            f"{where} holds different values that read alike ({name_some(names[names.duplicated()])}), such as 1 and '1'. "
            f"Make them one: {where} = {where}.astype(str)"
        )


def _warn_about_categories(adata: AnnData, keys: list[str]) -> None:
    rare = []
    for key in keys:
        n_cells = adata.obs[key].value_counts()
        # A category that a subset has left behind has no cells and is not one to learn.
        n_cells = n_cells[n_cells > 0]
        if len(n_cells) == 1:
            message = f"adata.obs[{key!r}] carries no information: its only category is {name_some(n_cells.index)}."
            warnings.warn(message, UserWarning, stacklevel=5)
        rare += [f"{key}: {category}" for category in n_cells.index[n_cells < MIN_CELLS_PER_CATEGORY]]
    if rare:
        message = f"Fewer than {MIN_CELLS_PER_CATEGORY} cells to learn from in {name_some(rare)}."
        warnings.warn(message, UserWarning, stacklevel=5)
