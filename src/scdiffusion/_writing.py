"""Files that are there under their names only when they are whole, and clear errors where they cannot be written."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a path to write to, of this writer alone, from where the file is moved to its name."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def explaining_write_errors(path: str | Path, remedy: str) -> Iterator[None]:
    """Name the path that cannot be written, and what to do about it."""
    try:
        yield
    except FileExistsError:
        raise
    except (OSError, RuntimeError) as error:  # torch raises the latter when the disk is full, and HDF5 either
        raise OSError(f"Could not write {path}: {error}. Is the disk full? {remedy}") from error
