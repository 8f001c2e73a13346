"""Code run in processes of their own, which tests kill, starve of disk space, or let work together."""

from __future__ import annotations

import multiprocessing
import socket
from typing import Any

# Starts processes from one that has imported the package but has no threads, so that each is there at once.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["scdiffusion"])

# Counts what is done to files whose path contains `watched`, and is killed by it when it is the `moment`-th thing.
DIES_AT_A_MOMENT = """
import os, signal, sys
n_events = 0
def count(event, arguments):
    global n_events
    touches_files = event in ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir")
    if touches_files and watched in str(arguments[0]):
        n_events += 1
        if n_events == moment:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(count)
"""

WRITES_NO_MORE_THAN = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
"""


def start(code: str, **variables: Any) -> multiprocessing.Process:
    """Run code in a new process, with these global variables."""
    process = _CONTEXT.Process(target=exec, args=(code, variables), daemon=True)
    process.start()
    return process


def run(code: str, **variables: Any) -> int:
    """Run code in a new process and return how it ended: 0, or minus the signal that killed it."""
    process = start(code, **variables)
    process.join(120)
    return process.exitcode


def rank_environments(n_ranks: int) -> list[dict[str, str]]:
    """What torchrun tells each of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(n_ranks)}
    return [{**shared, "RANK": str(rank)} for rank in range(n_ranks)]
