"""Names in messages: some of many, and those that may have been meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def name_some(names: Iterable[Any], n: int = 10) -> str:
    """Return the first ``n`` names as a message shows them: ``'B cell', 'NK' and 3 more``."""
    names = [repr(str(name)) for name in names]
    more = f" and {len(names) - n} more" if len(names) > n else ""
    return ", ".join(names[:n]) + more if names else "none"


def did_you_mean(name: Any, available: Iterable[Any]) -> str:
    """Return the end of a message about an unknown name: the closest ones, whatever their case, and the list."""
    available = [str(candidate) for candidate in available]
    folded = difflib.get_close_matches(str(name).casefold(), {candidate.casefold() for candidate in available})
    close = [repr(candidate) for match in folded for candidate in available if candidate.casefold() == match]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    return f"{hint} Available: {name_some(available)}."
