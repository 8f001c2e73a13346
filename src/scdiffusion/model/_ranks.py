"""Processes that work together: those of torch's process group, or those that torchrun started."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial

from torch import distributed as dist

# One rank may be far slower than another, or write for hours what all have drawn. A rank that died is noticed at once.
_PATIENCE = timedelta(days=7)


def rank_and_size() -> tuple[int, int]:
    """Which process this is, and of how many."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextmanager
def meeting() -> Iterator[Callable[[], None]]:
    """Give a function that returns once every rank has called it."""
    if rank_and_size()[1] == 1:
        yield lambda: None
        return
    starts = not dist.is_initialized()
    if starts:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    group = dist.new_group(backend="gloo", timeout=_PATIENCE)  # another backend's would need a device
    try:
        yield partial(dist.barrier, group)
    finally:
        dist.destroy_process_group(None if starts else group)
