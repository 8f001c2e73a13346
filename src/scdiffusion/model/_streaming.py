"""Cells drawn to disk: chunk by chunk, by one process or several, to be gone on with after an interruption."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import uuid
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import pandas as pd
import zarr
from anndata import AnnData, read_h5ad
from anndata.io import read_elem, sparse_dataset, write_elem

from scdiffusion.model._constants import Key
from scdiffusion.model._messages import name_some
from scdiffusion.model._ranks import meeting, rank_and_size

_CALL_FILE = "call.json"
# Values in a chunk of an array on disk, so that it depends neither on the batch size nor on the number of genes.
_STORED_TOGETHER = 2**17


class Stream:
    """The way of generated cells to a file.

    Chunks are kept in a folder beside it, `cells.zarr.partial`, as they are finished, together with what the call was.
    When all are there they are joined in that folder, and the result is moved to its name. A repeated call draws what
    is missing. Several ranks share the chunks out among themselves.

    Parameters
    ----------
    output
        Path to write, which ends in `.h5ad` or `.zarr`.

    Raises
    ------
    ValueError
        If the path ends otherwise.
    FileExistsError
        If it exists.
    """

    def __init__(self, output: str | Path) -> None:
        self.output = Path(output)
        self.partial = self.output.with_name(f"{self.output.name}.partial")
        self.rank, self.n_ranks = rank_and_size()
        if self.output.suffix not in _FORMATS:
            raise ValueError(f"output must end in {' or '.join(_FORMATS)}; got {str(output)!r}.")
        self._format = _FORMATS[self.output.suffix]()
        self._refuse_existing()

    def entropy(self, rng: Any) -> Any:
        """The seed to use: where there is none, that of the unfinished call, if there is one."""
        if rng is not None:
            return rng
        if self.n_ranks > 1:
            raise ValueError("Several processes generate together: give them the same seed, e.g. rng=0.")
        unfinished = self._unfinished_call()
        return unfinished["seed"] if unfinished else None

    def write(
        self,
        call: Mapping[str, Any],
        seed: int,
        n_chunks: int,
        draw: Callable[[Sequence[int]], Iterator[AnnData]],
        join_provenance: Callable[[Sequence[Mapping[str, Any]], Sequence[int]], dict[str, Any]],
    ) -> AnnData:
        """Draw the chunks that are missing, and join all.

        Parameters
        ----------
        call
            Everything but the seed that determines the cells, under names that a message can use.
        seed
            Entropy of the call.
        n_chunks
            Number of chunks.
        draw
            Draws the chunks of some numbers, one after the other.
        join_provenance
            Makes one provenance of those of all chunks, given their numbers of cells.

        Returns
        -------
        The cells, `X` and `obsm` on disk.

        Raises
        ------
        ValueError
            If there is unfinished work of another call.
        OSError
            If the disk is full.
        """
        self._begin({"seed": seed, **{name: joblib.hash(part) for name, part in call.items()}})
        finished = sum(self._chunk(number).exists() for number in range(n_chunks))
        if finished and self.rank == 0:
            message = f"{self.partial} holds {finished} of the {n_chunks} chunks of this call: going on from there."
            warnings.warn(message, UserWarning, stacklevel=3)
        with meeting() as meet:
            missing = [n for n in range(self.rank, n_chunks, self.n_ranks) if not self._chunk(n).exists()]
            for number, cells in zip(missing, draw(missing), strict=True):
                with self._explaining_errors():
                    self._keep(number, cells)
            meet()
            if self.rank == 0:
                with self._explaining_errors():
                    self._join(n_chunks, join_provenance)
            meet()
        return self._format.open(self.output)

    def _refuse_existing(self) -> None:
        if self.output.exists():
            raise FileExistsError(f"{self.output} already exists. Choose another output, or delete it first.")

    def _unfinished_call(self) -> dict[str, Any] | None:
        path = self.partial / _CALL_FILE
        return json.loads(path.read_text()) if path.exists() else None

    def _begin(self, call: dict[str, Any]) -> None:
        """Write down what the call is, or check that it is the one that was begun."""
        self.partial.mkdir(parents=True, exist_ok=True)
        begun = self._unfinished_call()
        if begun is None:
            _write_whole(self.partial / _CALL_FILE, json.dumps(call).encode())
            return
        other = [name for name in call if call[name] != begun.get(name)]
        if other:
            raise ValueError(
                f"{self.partial} holds unfinished work of another call, with another {name_some(other)}. Repeat that call "
                f"to finish it, choose another output, or delete it: import shutil; shutil.rmtree({str(self.partial)!r})"
            )

    def _chunk(self, number: int) -> Path:
        return self.partial / f"chunk-{number:07d}.h5ad"

    def _keep(self, number: int, cells: AnnData) -> None:
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            write_elem(file, "/", cells)
        _write_whole(self._chunk(number), buffer.getbuffer())

    def _join(self, n_chunks: int, join_provenance: Callable[..., dict[str, Any]]) -> None:
        """Make one AnnData of all chunks, of which one at a time is in memory, and move it to its name."""
        chunks = [self._chunk(number) for number in range(n_chunks)]
        joined = self.partial / f"joined{self.output.suffix}"
        _remove(joined)
        if self._format.must_fit:
            _require_room(self.partial, sum(chunk.stat().st_size for chunk in chunks))
        first = read_h5ad(chunks[0])
        self._format.write(AnnData(var=first.var), joined)
        obs, provenance = [], []
        with self._format.extending(joined) as group:
            for chunk in chunks:
                cells = read_h5ad(chunk)
                self._append(group, cells, is_first=not obs)
                obs.append(cells.obs)
                provenance.append(cells.uns[Key.PROVENANCE])
            write_elem(group, "obs", pd.concat(obs))
            write_elem(group, f"uns/{Key.PROVENANCE}", join_provenance(provenance, [len(frame) for frame in obs]))
        self._refuse_existing()
        os.replace(joined, self.output)
        # What is left after an interruption from here on is still the begun call, without some chunks.
        for chunk in chunks:
            chunk.unlink()
        shutil.rmtree(self.partial)

    def _append(self, group: Any, cells: AnnData, *, is_first: bool) -> None:
        if is_first:
            cells.X.indptr = cells.X.indptr.astype(np.int64)  # all cells together may have more than 2^31 non-zeros
            stored = {"chunks": (_STORED_TOGETHER,), **self._format.compression}
            write_elem(group, "X", cells.X, dataset_kwargs=stored)
            for key, values in cells.obsm.items():
                stored["chunks"] = (max(1, _STORED_TOGETHER // values.shape[1]), values.shape[1])
                write_elem(group, f"obsm/{key}", values, dataset_kwargs=stored | self._format.resizable)
            return
        sparse_dataset(group["X"]).append(cells.X)
        for key, values in cells.obsm.items():
            stored = group["obsm"][key]
            n_before = stored.shape[0]
            stored.resize((n_before + len(values), values.shape[1]))
            stored[n_before:] = values

    @contextmanager
    def _explaining_errors(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except (OSError, RuntimeError) as error:  # HDF5 raises both when the disk is full
            raise OSError(
                f"Could not write {self.output}: {error}. The chunks that are finished are safe in {self.partial}. "
                "Is the disk full? Make room and repeat the call to go on."
            ) from error


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
        cells.write_zarr(path)

    @contextmanager
    def extending(self, path: Path) -> Iterator[Any]:
        yield zarr.open_group(path, mode="r+", use_consolidated=False)
        zarr.consolidate_metadata(path)

    def group(self, path: Path) -> Any:
        return zarr.open_group(path, mode="r")


_FORMATS: dict[str, type[_Format]] = {".h5ad": _H5ad, ".zarr": _Zarr}


def _write_whole(path: Path, contents: bytes | memoryview) -> None:
    """Write a file that is there under its name only when all of it is on disk."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with open(temporary, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _require_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(errno.ENOSPC, f"it may need {n_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
