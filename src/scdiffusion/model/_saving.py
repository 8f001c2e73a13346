"""Model files: tensors and plain settings only, written aside and moved into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


def to_plain(value: Any) -> Any:
    """Turn registries, arrays and data frames into dicts, lists, strings and numbers."""
    if isinstance(value, pd.DataFrame):
        columns = {str(name): to_plain(column.to_numpy()) for name, column in value.items()}
        return {"__frame__": columns, "index": to_plain(value.index.to_numpy()), "index_name": value.index.name}
    if isinstance(value, np.ndarray):
        return {"__array__": value.tolist(), "dtype": "object" if value.dtype.kind in "OU" else str(value.dtype)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool | torch.Tensor):
        return value
    raise TypeError(f"Cannot save a {type(value).__name__} as a plain setting: {value!r}")


def from_plain(value: Any) -> Any:
    """Undo :func:`to_plain`."""
    if isinstance(value, dict):
        if "__frame__" in value:
            index = pd.Index(from_plain(value["index"]), name=value["index_name"])
            return pd.DataFrame({name: from_plain(column) for name, column in value["__frame__"].items()}, index=index)
        if "__array__" in value:
            return np.array(value["__array__"], dtype=value["dtype"])
        return {key: from_plain(item) for key, item in value.items()}
    return [from_plain(item) for item in value] if isinstance(value, list) else value


class AtomicDirectory:
    """A directory that appears under its name only when everything in it is written.

    Used as a context manager that gives the temporary path. With `overwrite`, files of the same names in an existing
    directory are replaced one by one and others are left alone.
    """

    def __init__(self, path: str | Path, *, overwrite: bool) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise ValueError(f"{self.path} already exists. Choose another directory, or pass overwrite=True.")

    def __enter__(self) -> Path:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        return self.temporary

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        try:
            if error is None:
                if not self.path.exists():
                    os.chmod(self.temporary, 0o777 & ~_umask())
                    os.replace(self.temporary, self.path)
                else:
                    for file in self.temporary.iterdir():
                        os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(self.temporary, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
