"""Errors before any time is spent, of several modalities: what is wrong with the data, and what to type instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scdiffusion.autoencoders import COUNTS
from scdiffusion.model._checks import _check_names, check_conditions, check_continuous
from scdiffusion.model._expression_checks import KEEP_COUNTS, MIN_FEATURES, check_counts, check_expression
from scdiffusion.model._messages import did_you_mean, name_some


def check_mudata(mdata: MuData, layers: Mapping[str, str | None], modalities: Mapping[str, str] | None) -> None:
    """Check that a model can be trained on the modalities of ``mdata``, which is left as it is.

    Parameters
    ----------
    mdata
        The data.
    layers
        Layer of each modality, by argument of ``setup_mudata``; ``None`` for ``X``.
    modalities
        Name of each modality, by argument.

    Raises
    ------
    TypeError
        If ``mdata`` is no :class:`~mudata.MuData`.
    ValueError
        If modalities are not named or not there, do not share their cells, or hold no counts.
    """
    if not isinstance(mdata, MuData):
        raise TypeError(f"mdata must be a MuData, not {type(mdata).__name__}. Of an AnnData, call setup_anndata.")
    named = _check_modalities(mdata, layers, modalities)
    _check_shared_cells(mdata, list(named.values()))
    for argument, name in named.items():
        with called(f"mdata[{name!r}]", {"layer=": f"{argument}="}):
            if mdata[name].n_vars < MIN_FEATURES:
                raise ValueError(f"adata has {mdata[name].n_vars} feature(s); a modality needs {MIN_FEATURES} or more.")
            _check_names(mdata[name])
            check_expression(mdata[name], layers[argument], COUNTS)


def check_mudata_conditions(
    mdata: MuData,
    modality: str | None,
    condition_keys: str | Sequence[str] | None,
    batch_key: str | None,
    continuous_condition_keys: str | Sequence[str] | None,
) -> tuple[list[str], list[str]]:
    """Check conditions in ``mdata.obs``, or in that of a modality, and return both kinds of keys as lists."""
    obs = mdata.obs if modality is None else mdata[modality].obs
    where = "mdata" if modality is None else f"mdata[{modality!r}]"
    given = [condition_keys, batch_key, continuous_condition_keys]
    asked = [key for keys in given for key in ([keys] if isinstance(keys, str) else keys or [])]
    for key in asked:
        elsewhere = [name for name, part in mdata.mod.items() if key in part.obs]
        if key not in obs and elsewhere:
            raise ValueError(
                f"{where}.obs has no column {key!r}, but mdata[{elsewhere[0]!r}].obs has: pass "
                f"modalities={{..., 'condition_keys': {elsewhere[0]!r}}}."
            )
    with called(where):
        cells = AnnData(obs=pd.DataFrame(obs))
        keys = check_conditions(cells, condition_keys, batch_key)
        taken = [*keys, batch_key] if batch_key else keys
        return keys, check_continuous(cells, continuous_condition_keys, taken)


def check_protein(adata: AnnData, key: str, values: str) -> None:
    """Check that ``obsm`` of an AnnData holds counts of proteins."""
    if values != COUNTS:
        raise ValueError("protein_obsm_key needs counts of RNA beside those of protein: leave values out.")
    if key not in adata.obsm:
        raise ValueError(f"adata.obsm has no {key!r}.{did_you_mean(key, adata.obsm)}")
    protein, name = adata.obsm[key], f"adata.obsm[{key!r}]"
    if isinstance(protein, pd.DataFrame) and not protein.columns.is_unique:
        raise ValueError(f"The columns of {name} are not unique: rename those that stand for different proteins.")
    if np.ndim(protein) != 2 or protein.shape[1] < MIN_FEATURES:
        raise ValueError(f"{name} must be cells x proteins with {MIN_FEATURES} or more; it is {np.shape(protein)}.")
    with called("adata", {KEEP_COUNTS: " Put the proteins there as they were counted."}):
        check_counts(protein if sparse.issparse(protein) else np.asarray(protein), name)


def _check_modalities(
    mdata: MuData, layers: Mapping[str, str | None], modalities: Mapping[str, str] | None
) -> dict[str, str]:
    """The modalities that are to be modelled, by argument."""
    arguments = [*layers, "condition_keys"]
    named = {argument: name for argument, name in (modalities or {}).items() if argument in layers}
    if not named:
        example = {f"{kind}_layer": kind for kind in ("rna", "protein", "atac") if kind in mdata.mod}
        raise ValueError(
            f"modalities must say which modality is which, e.g. modalities={example or {'rna_layer': 'rna'}}. mdata has "
            f"{name_some(mdata.mod)}."
        )
    for argument, name in modalities.items():
        if argument not in arguments:
            raise ValueError(f"modalities has no {argument!r}.{did_you_mean(argument, arguments)}")
        if name not in mdata.mod:
            raise ValueError(f"mdata has no modality {name!r}.{did_you_mean(name, mdata.mod)}")
    if len(set(named.values())) < len(named):
        raise ValueError(f"modalities names the same modality twice: {dict(named)}.")
    for argument, layer in layers.items():
        if layer is not None and argument not in named:
            raise ValueError(f"{argument} is given, but modalities does not say of which modality: add it there.")
    return named


def _check_shared_cells(mdata: MuData, names: Sequence[str]) -> None:
    cells = [mdata[name].obs_names for name in names]
    shared = reduce(lambda a, b: a[a.isin(b)], cells)
    keep = " & ".join(f"set(mdata[{name!r}].obs_names)" for name in names)
    remedy = f"shared = [cell for cell in mdata.obs_names if cell in {keep}]; mdata = mdata[shared].copy()"
    if any(len(own) != len(shared) for own in [*cells, mdata.obs_names]):
        n_cells = ", ".join(f"{name} {len(own)}" for name, own in zip(names, cells, strict=True))
        raise ValueError(
            f"{mdata.n_obs - len(shared)} of {mdata.n_obs} cells are not in all modalities ({n_cells}; shared "
            f"{len(shared)}). Keep the shared ones: {remedy}"
        )
    if any(not own.equals(mdata.obs_names) for own in cells):
        raise ValueError(f"The modalities have their cells in different orders. Bring them into one: {remedy}")


@contextmanager
def called(name: str, words: Mapping[str, str] | None = None) -> Iterator[None]:
    """Let messages about an AnnData call it, and arguments, what the user does."""
    try:
        yield
    except ValueError as error:
        message = str(error).replace("adata", name)
        for word, own in (words or {}).items():
            message = message.replace(word, own)
        raise ValueError(message) from None
