"""Measurements in a process of their own, so that its memory can be told."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def told_by(script: str, *arguments: Any, launcher: Sequence[str] = ()) -> dict[str, Any]:
    """What a script prints last, as JSON; `launcher` are arguments of Python that come before it."""
    command = [sys.executable, *launcher, script, *map(str, arguments)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


def peak_gb() -> float:
    """Most memory that this process has had, in 10⁹ bytes; that of `getrusage` begins with the parent's."""
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024 / 1e9
