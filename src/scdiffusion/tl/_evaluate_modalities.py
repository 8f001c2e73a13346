"""Comparing cells of several modalities: each on its own, then how they go together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from scdiffusion._compat import named_layers
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.tl._comparison import build_pools
from scdiffusion.tl._evaluation_input import Cells, Input, read
from scdiffusion.tl._evaluation_table import COLUMNS, compare, make_row, make_table
from scdiffusion.tl._metric_table import CROSS_CORRELATION, cross_correlation


def compare_modalities(
    sides: Mapping[str, Any],
    *,
    groupby: str | None,
    donor_key: str | None,
    metrics: str | Sequence[str] | None,
    layer: str | None,
    pairs: Sequence[tuple[str, str]] | None,
    baseline: bool,
    n_cells: int | None,
    n_splits: int,
    rng: int | np.random.Generator | None,
    progress: bool,
) -> pd.DataFrame:
    """The table of :func:`scdiffusion.tl.evaluate` for MuData by name of the side; parameters are as there."""
    modalities = _shared_modalities(sides)
    seed = int(np.random.default_rng(rng).integers(2**31 - 1))
    metrics = [metrics] if isinstance(metrics, str) else metrics
    of_one = None if metrics is None else [name for name in metrics if name != CROSS_CORRELATION]

    parts = {
        name: {side: _part(mdata, name, [groupby, donor_key]) for side, mdata in sides.items()} for name in modalities
    }
    layers = {name: layer if layer in parts[name]["real"].layers else None for name in modalities}
    if layer is not None and not any(layers.values()):
        raise ValueError(f"No modality of real has a layer {layer!r}.")
    wants_two = pairs is not None or of_one == []
    if len(modalities) < 2 and wants_two or len(modalities) > 2 and pairs is not None:
        raise ValueError(f"Correlations between modalities need two of them; shared are {name_some(modalities)}.")
    with_cross = pairs is not None or metrics is None or CROSS_CORRELATION in metrics
    inputs = (
        {name: read(parts[name], groupby, layers[name], few_genes=True) for name in modalities} if with_cross else {}
    )
    columns = None if pairs is None else _columns_of(pairs, inputs)
    tables, notes = [], []
    for name in modalities if of_one != [] or not with_cross else []:
        table = compare(
            parts[name], groupby=groupby, donor_key=donor_key, baseline=baseline, metrics=of_one, layer=layers[name],
            n_cells=n_cells, n_splits=n_splits, rng=seed, progress=progress, few_genes=True,
        )  # fmt: skip
        notes += [f"{name}: {note}" for note in table.attrs["notes"]]
        tables.append(table.assign(modality=name))
    for a, b in combinations(inputs, 2):
        metric = cross_correlation(len(inputs[a].genes), columns)
        data = _side_by_side(inputs[a], inputs[b])
        pools = build_pools(data.cells, data.genes, baseline=baseline, pcs=False, seed=seed)
        row = make_row(metric, pools.all(n_cells), pools.context, n_splits, seed, notes)
        tables.append(make_table([row], n_splits).assign(modality=f"{a}, {b}"))
    table = pd.concat(tables, ignore_index=True)[["modality", *COLUMNS]]
    table.attrs = {"notes": notes, "modalities": modalities, "groupby": groupby, "n_splits": n_splits}
    return table


def _shared_modalities(sides: Mapping[str, Any]) -> list[str]:
    for name, side in sides.items():
        if not isinstance(side, MuData):
            raise TypeError(
                f"{name} is an {type(side).__name__}, but another side is a MuData. Compare like with like: a modality of "
                "each, such as real['rna'] with generated['rna'], or a MuData on all sides."
            )
    modalities = [name for name in sides["real"].mod if all(name in side.mod for side in sides.values())]
    if not modalities:
        have = "; ".join(f"{name}: {name_some(side.mod)}" for name, side in sides.items())
        raise ValueError(f"The sides share no modality by name ({have}).")
    for name, side in sides.items():
        for modality in modalities:
            if not side[modality].obs_names.equals(side.obs_names):
                raise ValueError(
                    f"{name}[{modality!r}] has other cells than {name}, or in another order. Keep those that all "
                    f"modalities have: {name} = {name}[cells].copy()"
                )
    return modalities


def _part(mdata: MuData, modality: str, keys: Sequence[str | None]) -> AnnData:
    """A modality with the types and donors that the MuData or the modality itself knows."""
    part = mdata[modality]
    added = [key for key in keys if key is not None and key not in part.obs and key in mdata.obs]
    if not added:
        return part
    return AnnData(part.X, obs=part.obs.join(mdata.obs[added]), var=part.var[[]], layers=named_layers(part))


def _side_by_side(a: Input, b: Input) -> Input:
    """Log-normalised expression of two modalities as one matrix; of such, the baseline resamples each feature."""
    cells = {
        side: Cells(sparse.hstack([a.cells[side].log, b.cells[side].log], format="csr"), labels=a.cells[side].labels)
        for side in a.cells
    }
    return Input(cells, a.genes.append(b.genes), [])


def _columns_of(pairs: Sequence[tuple[str, str]], inputs: Mapping[str, Input]) -> list[tuple[int, int]]:
    """Columns of named features, one of each modality."""
    for pair in pairs:
        for (name, data), feature in zip(inputs.items(), pair, strict=True):
            if feature not in data.genes:
                raise ValueError(f"{name!r} has no {feature!r} on all sides.{did_you_mean(feature, data.genes)}")
    first, second = (data.genes for data in inputs.values())
    return [(first.get_loc(a), second.get_loc(b)) for a, b in pairs]
