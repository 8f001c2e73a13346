"""Formats of AnnData on disk that cells are added to, and read from where they are sliced."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import zarr
from anndata import AnnData
from anndata.io import read_elem, sparse_dataset, write_elem

from scdiffusion._compat import zarr_format


class _Format(ABC):
    """A format of AnnData on disk that can be extended cell by cell.

    Attributes
    ----------
    compression, resizable
        Keyword arguments with which an array is stored compressed, and with which a dense one can be extended.
    must_fit
        Whether to look for room on the disk beforehand, because the library does not survive a full one.
    """

    compression: dict[str, Any] = {}
    resizable: dict[str, Any] = {}
    must_fit = False

    @abstractmethod
    def write(self, cells: AnnData, path: Path) -> None:
        """Write an AnnData."""

    @abstractmethod
    def extending(self, path: Path) -> Any:
        """Context in which the group of a written AnnData is open to be extended."""

    @abstractmethod
    def group(self, path: Path) -> Any:
        """The group of a written AnnData, to read."""

    def open(self, path: Path) -> AnnData:
        """A written AnnData, of which `X` and `obsm` stay on disk."""
        group = self.group(path)
        return AnnData(
            sparse_dataset(group["X"]),
            obs=read_elem(group["obs"]),
            var=read_elem(group["var"]),
            uns=read_elem(group["uns"]),
            obsm={key: group["obsm"][key] for key in group["obsm"]},
        )


class _H5ad(_Format):
    compression = {"compression": "gzip", "compression_opts": 1}
    resizable = {"maxshape": (None, None)}
    must_fit = True

    def write(self, cells: AnnData, path: Path) -> None:
        cells.write_h5ad(path)

    def extending(self, path: Path) -> Any:
        return h5py.File(path, "r+")

    def group(self, path: Path) -> Any:
        return h5py.File(path, "r")


class _Zarr(_Format):
    def write(self, cells: AnnData, path: Path) -> None:
        group = zarr.open_group(path, mode="w", zarr_format=zarr_format())
        write_elem(group, "/", cells)

    @contextmanager
    def extending(self, path: Path) -> Iterator[Any]:
        yield zarr.open_group(path, mode="r+", use_consolidated=False)
        with warnings.catch_warnings():  # as anndata does, where metadata are not yet part of the specification
            warnings.filterwarnings("ignore", ".*[Cc]onsolidated metadata", UserWarning)
            zarr.consolidate_metadata(path)

    def group(self, path: Path) -> Any:
        return zarr.open_group(path, mode="r")


#: By the end of a path.
FORMATS: dict[str, type[_Format]] = {".h5ad": _H5ad, ".zarr": _Zarr}
