"""Real and synthetic cells together, so that no category is rare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from scdiffusion._compat import named_layers
from scdiffusion.autoencoders import COUNTS, TARGET_SUM, normalise
from scdiffusion.model._composition import TrainingComposition, is_whole
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import check_expression
from scdiffusion.model._messages import did_you_mean

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion

LARGEST = "max"
FLAG = "synthetic"
# Deviation of log-normalised expression from that of the counts that is a matter of floating point
_ROUNDING = 1e-3
Recipe = Callable[[sp.csr_matrix], sp.csr_matrix]


def augment(
    adata: AnnData,
    model: SCDiffusion,
    key: str,
    *,
    target: str | int | Mapping[str, int] = LARGEST,
    rng: int | np.random.Generator | None = None,
    **generate_kwargs: Any,
) -> AnnData:
    """Add synthetic cells to real ones, up to a number of cells per category.

    Parameters
    ----------
    adata
        Real cells with the genes that the model was trained on; left as they are.
    model
        A trained :class:`~scdiffusion.SCDiffusion` with the condition `key`.
    key
        Categorical condition key of the model and column of `adata.obs`.
    target
        Number of cells that each category is to have, real and synthetic together: `"max"`, as many as the largest; a
        number for all categories; or numbers by category, `{"Dendritic": 200}`, others staying as they are.
    rng
        Seed. The same seed gives the same cells.
    **generate_kwargs
        Passed on to :meth:`~scdiffusion.SCDiffusion.generate`, e.g. `guidance`, `keep_top` or `sampler`.

    Returns
    -------
    :class:`~anndata.AnnData`: the real cells in their order, then synthetic ones category after category, with

    - `obs["synthetic"]`: which is which.
    - other `obs` columns: as they were; of synthetic cells their conditions, the others missing, for which columns of
      whole numbers and of truth values become pandas' nullable ones, `Int64` and `boolean`, values unchanged.
      Conditions other than `key` are drawn from the training cells of the category.
    - `X` and `layers`: of synthetic cells counts where the matrix holds the counts that the model was trained on, and
      log-normalised counts, to the same total, where it holds these log-normalised; NaN elsewhere, as in scaled
      expression.
    - `obsm`: NaN for synthetic cells but for `"X_scdiffusion"` and what the model generates there.
    - `obsp`: as sparse matrices, in which synthetic cells have no neighbours: call `sc.pp.neighbors` to find them.
    - `var`, `varm` and `uns`: as they were; `uns["scdiffusion"]`: how the synthetic cells were generated.

    `raw` is left out: its genes are often more than the model knows, and scanpy, which reads it before `X`, would find
    gaps there.

    Raises
    ------
    TypeError
        If `adata` is a MuData.
    ValueError
        If the model has no such condition, a category is unknown to it or has more cells than its target, genes differ,
        or no matrix of `adata` holds what the model generates.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
    >>> model = scd.SCDiffusion(adata)
    >>> model.train(max_epochs=1, progress=False)
    >>> balanced = scd.tl.augment(adata, model, "bulk_labels", target={"CD34+": 40}, rng=0)
    >>> balanced.obs.loc[balanced.obs["bulk_labels"] == "CD34+", "synthetic"].value_counts().to_dict()
    {True: 27, False: 13}
    """
    model._require_trained("augment")
    if not isinstance(adata, AnnData):
        raise TypeError(
            f"adata must be an AnnData, not {type(adata).__name__}. Of a MuData, generate what is missing, "
            "cells = model.generate(obs_conditions=...), and join them: mudata.concat([mdata, cells])."
        )
    composition = model.composition
    if key not in composition.categories:
        raise ValueError(f"The model has no categorical condition {key!r}.{did_you_mean(key, composition.categories)}")
    if key not in adata.obs:
        raise ValueError(f"adata.obs has no column {key!r}.{did_you_mean(key, adata.obs.columns)}")
    missing = _missing(adata.obs[key], target, key, composition)
    genes = model.var_.index
    if len(genes) != adata.n_vars or not genes.isin(adata.var_names).all():
        raise ValueError(
            f"adata has {adata.n_vars} genes, and not the {len(genes)} that the model was trained on. Bring them in line: "
            "adata = adata[:, model.var_.index].copy()."
        )
    matrices = {None: adata.X, **named_layers(adata)}
    recipes = _recipes(matrices, adata, model)
    real = adata.copy()
    real.raw = None
    for slot in (real.uns, real.obsm):
        for name in [name for name in slot if name.startswith("_scvi")]:  # of the registration of the real cells
            del slot[name]
    real.obs[FLAG] = real.obs.get(FLAG, False)  # cells may have been augmented before
    if not missing:
        return real

    planning = rng if isinstance(rng, np.random.Generator) else np.random.default_rng(rng)
    plans = [_of_category(composition, key, name).sample(n, planning, exact=True) for name, n in missing.items()]
    codes, values = (np.concatenate(part) for part in zip(*plans, strict=True))
    columns = {
        name: np.asarray(names)[column]
        for (name, names), column in zip(composition.categories.items(), codes.T, strict=True)
    }
    columns |= dict(zip(composition.continuous, values.T, strict=True))
    drawn = model.generate(obs_conditions=pd.DataFrame(columns), rng=rng, **generate_kwargs)

    drawn.obs_names = [f"synthetic_{adata.n_obs + i}" for i in range(drawn.n_obs)]

    expression = drawn[:, adata.var_names].X
    filled = {layer: _filled(recipes[layer], expression, matrix) for layer, matrix in matrices.items()}
    synthetic = AnnData(
        filled.pop(None),
        obs=_obs(drawn.obs, adata.obs),
        var=adata.var,
        layers=filled,
        obsm={name: drawn.obsm[name] for name in drawn.obsm if name in adata.obsm},
        uns=drawn.uns,
    )
    real.uns.pop(Key.PROVENANCE, None)
    for name, column in real.obs.items():
        if name not in synthetic.obs and isinstance(column.dtype, np.dtype) and column.dtype.kind in "iub":
            real.obs[name] = pd.array(column.to_numpy())  # nullable, so that values stay exact beside gaps
    return ad.concat([real, synthetic], join="outer", merge="first", uns_merge="first", pairwise=True)


def _missing(
    labels: pd.Series, target: str | int | Mapping[str, int], key: str, composition: TrainingComposition
) -> dict[str, int]:
    """How many cells of each category are to be generated."""
    names = composition.categories[key]
    present = labels.dropna().map(lambda label: names[composition.code(key, label)])
    existing = present.value_counts().to_dict()
    if isinstance(target, str) and target == LARGEST:
        target = max(existing.values(), default=0)
    if isinstance(target, Mapping):
        wanted = {names[composition.code(key, name)]: number for name, number in target.items()}
    else:
        wanted = dict.fromkeys((name for name in names if name in existing), target)
    for name, number in wanted.items():
        if not is_whole(number) or number < 0:
            raise ValueError(
                f"target must be {LARGEST!r}, a number of cells, or numbers by category, e.g. {{{names[0]!r}: 200}}; got "
                f"{target!r}."
            )
        if number < existing.get(name, 0):
            raise ValueError(
                f"target asks for {number} cells of {name!r}, but adata has {existing[name]}, and augment only adds cells: "
                f"ask for {existing[name]} or more, or name only those that are to grow, target={{{names[0]!r}: ...}}."
            )
    return {
        name: int(number) - existing.get(name, 0) for name, number in wanted.items() if number > existing.get(name, 0)
    }


def _of_category(composition: TrainingComposition, key: str, name: str) -> TrainingComposition:
    """The part of the training cells that is of one category."""
    column = composition.keys.index(key)
    of_category = composition.combinations[:, column] == composition.code(key, name)
    return dataclasses.replace(
        composition,
        combinations=composition.combinations[of_category],
        n_cells=composition.n_cells[of_category],
        values=composition.values[of_category],
    )


def _obs(synthetic: pd.DataFrame, real: pd.DataFrame) -> pd.DataFrame:
    """What is known of synthetic cells, in columns of the real ones and of their types."""
    columns = {name: column for name, column in synthetic.items() if name in real or name == Key.SCORE}
    for name, column in columns.items():
        dtype = real[name].dtype if name in real else column.dtype
        if isinstance(column.dtype, pd.CategoricalDtype):  # the model calls a category by its string
            column = column.cat.rename_categories({str(value): value for value in real[name].dropna().unique()})
        if isinstance(dtype, pd.CategoricalDtype):
            new = [category for category in column.cat.categories if category not in dtype.categories]
            dtype = pd.CategoricalDtype([*dtype.categories, *new], dtype.ordered)
        columns[name] = column.astype(dtype)
    return pd.DataFrame({**columns, FLAG: True}, index=synthetic.index)


def _recipes(matrices: Mapping[str | None, Any], adata: AnnData, model: SCDiffusion) -> dict[str | None, Recipe | None]:
    """How what the model generates becomes like each matrix of the real cells; None where it cannot."""
    setup, drawn = model.registry_["setup_args"], model.module.autoencoder.likelihood.values
    registered = sp.csr_matrix(check_expression(adata, setup["layer"], setup["values"]))

    def recipe(matrix: Any) -> Recipe | None:
        matrix = sp.csr_matrix(matrix)
        if abs(matrix - registered).max() == 0:
            return (lambda expression: expression) if setup["values"] == drawn else None
        if setup["values"] != COUNTS:
            return None
        totals = np.asarray(matrix.expm1().sum(1)).ravel()
        total = float(np.median(totals))
        if not np.isfinite(total) or abs(matrix - normalise(registered, total)).max() > _ROUNDING:
            return None
        if drawn == COUNTS:
            return lambda counts: normalise(counts, total)
        return lambda logs: (logs.expm1() * (total / TARGET_SUM)).log1p()

    recipes = {layer: recipe(matrix) for layer, matrix in matrices.items()}
    if not any(recipes.values()):
        raise ValueError(
            f"The model generates {drawn} expression, and neither adata.X nor a layer holds any. For log-normalised "
            "expression keep the counts in a layer, adata.layers['counts'] = adata.X.copy(), and then "
            "sc.pp.normalize_total(adata, target_sum=1e4); sc.pp.log1p(adata)."
        )
    return recipes


def _filled(recipe: Recipe | None, expression: sp.csr_matrix, like: Any) -> np.ndarray | sp.csr_matrix:
    """A matrix of synthetic cells, of the type of that of the real ones."""
    if recipe is None:
        return np.full(expression.shape, np.nan, dtype=np.result_type(like.dtype, np.float32))
    made = recipe(expression).astype(like.dtype)
    return made if sp.issparse(like) else made.toarray()
