"""What the older and the newer versions of the libraries do differently."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import anndata
import mudata
from anndata import AnnData


def named_layers(adata: AnnData) -> dict[str, Any]:
    """Layers by name; from anndata 0.13 on, `adata.layers` holds `X` too, as None."""
    return {name: adata.layers[name] for name in adata.layers if name is not None}


def without_pulling() -> AbstractContextManager[Any]:
    """Keep columns of a MuData's modalities from being copied to its `obs`, as mudata does by itself from 0.4 on."""
    return mudata.set_options(pull_on_update=False) if hasattr(mudata, "set_options") else nullcontext()


def zarr_format() -> int:
    """The version of zarr that anndata writes: a setting of it, which anndata 0.13 deprecates and 0.14 will not have."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return getattr(anndata.settings, "zarr_write_format", 3)
