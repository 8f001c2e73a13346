"""Cells drawn to disk: chunk by chunk, by one process or several, to be gone on with after an interruption."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import h5py
import joblib
import numpy as np
import pandas as pd
from anndata import AnnData, read_h5ad
from anndata.io import sparse_dataset, write_elem
from filelock import FileLock, Timeout

from scdiffusion._writing import explaining_write_errors, whole_file
from scdiffusion.model._constants import Key
from scdiffusion.model._messages import name_some
from scdiffusion.model._ranks import meeting, rank_and_size
from scdiffusion.model._stream_formats import FORMATS

_CALL_FILE, _LOCK_FILE, _JOINED = "call.json", "lock", "joined"
# Values in a chunk of an array on disk, so that it depends neither on the batch size nor on the number of genes.
_STORED_TOGETHER = 2**17


class Stream:
    """The way of generated cells to a file.

    Chunks are kept in a folder beside it, `cells.zarr.partial`, as they are finished, together with what the call was.
    When all are there they are joined in that folder, and the result is moved to its name. A repeated call draws what
    is missing, but not while another one is at it. Several ranks share the chunks out among themselves.

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
        if self.output.suffix not in FORMATS:
            raise ValueError(f"output must end in {' or '.join(FORMATS)}; got {str(output)!r}.")
        self._format = FORMATS[self.output.suffix]()
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
            If the disk is full, or another call is writing there.
        """
        call = {"seed": seed, **{name: joblib.hash(part) for name, part in call.items()}}
        with meeting() as meet, self._held_by_rank_0():
            if self.rank > 0:
                meet()
            self._begin(call)
            if self.rank == 0:
                self._look_through(n_chunks)
                meet()
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
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise ValueError(
                f"{path}, which says what the unfinished call was, is damaged. Delete its folder to begin anew: "
                f"import shutil; shutil.rmtree({str(self.partial)!r})"
            ) from error

    @contextmanager
    def _held_by_rank_0(self) -> Iterator[None]:
        """Keep other calls out for as long as this one takes; the system lets them in again if it is killed."""
        self.partial.mkdir(parents=True, exist_ok=True)
        if self.rank > 0:
            yield
            return
        lock = FileLock(self.partial / _LOCK_FILE)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise OSError(
                f"Another call is writing {self.output} at this moment. Wait for it, or choose another output."
            ) from None
        try:
            self._refuse_existing()  # the other call may just have finished
            yield
        finally:
            lock.release()

    def _begin(self, call: dict[str, Any]) -> None:
        """Write down what the call is, or check that it is the one that was begun."""
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

    def _look_through(self, n_chunks: int) -> None:
        """Say how many chunks are there already, once those that cannot be read are gone."""
        kept = [chunk for chunk in map(self._chunk, range(n_chunks)) if chunk.exists()]
        damaged = [chunk for chunk in kept if not _is_readable(chunk)]
        for chunk in damaged:
            chunk.unlink()
        if kept:
            message = f"{self.partial} holds {len(kept)} of the {n_chunks} chunks of this call: going on from there."
            if damaged:
                message += f" {len(damaged)} of them are damaged and drawn again."
            warnings.warn(message, UserWarning, stacklevel=4)

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
        for left_over in self.partial.glob(f"{_JOINED}*"):
            _remove(left_over)
        joined = self.partial / f"{_JOINED}-{uuid.uuid4().hex}{self.output.suffix}"
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
            write_elem(group["uns"], Key.PROVENANCE, join_provenance(provenance, [len(frame) for frame in obs]))
        self._refuse_existing()
        os.replace(joined, self.output)
        # What is left after an interruption from here on is still the begun call, without some chunks.
        for chunk in chunks:
            chunk.unlink()
        shutil.rmtree(self.partial, ignore_errors=True)  # a call that is refused may be looking into it

    def _append(self, group: Any, cells: AnnData, *, is_first: bool) -> None:
        if is_first:
            cells.X.indptr = cells.X.indptr.astype(np.int64)  # all cells together may have more than 2^31 non-zeros
            stored = {"chunks": (_STORED_TOGETHER,), **self._format.compression}
            write_elem(group, "X", cells.X, dataset_kwargs=stored)
            for key, values in cells.obsm.items():
                stored["chunks"] = (max(1, _STORED_TOGETHER // values.shape[1]), values.shape[1])
                write_elem(group["obsm"], key, values, dataset_kwargs=stored | self._format.resizable)
            return
        sparse_dataset(group["X"]).append(cells.X)
        for key, values in cells.obsm.items():
            stored = group["obsm"][key]
            n_before = stored.shape[0]
            stored.resize((n_before + len(values), values.shape[1]))
            stored[n_before:] = values

    def _explaining_errors(self) -> AbstractContextManager[None]:
        remedy = f"Make room and repeat the call to go on. The chunks that are finished are safe in {self.partial}."
        return explaining_write_errors(self.output, remedy)


def _write_whole(path: Path, contents: bytes | memoryview) -> None:
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        file.write(contents)
        file.flush()
        os.fsync(file.fileno())


def _is_readable(chunk: Path) -> bool:
    try:
        read_h5ad(chunk)
    except (AttributeError, KeyError, OSError, RuntimeError, TypeError, ValueError):  # whatever the damage leads to
        return False
    return True


def _require_room(folder: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise OSError(errno.ENOSPC, f"it may need {n_bytes / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
