"""A table of named classes, so that a new member is one new file plus one decorated class."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any


class Registry:
    """Named classes of one kind; :meth:`resolve` also accepts a ready-made instance.

    Parameters
    ----------
    kind
        What the members are, as error messages should call them, e.g. ``"sampler"``.

    Examples
    --------
    >>> samplers = Registry("sampler")
    >>> @samplers.register("ddim")
    ... class DDIM: ...
    >>> isinstance(samplers.resolve("ddim"), DDIM)
    True
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, type] = {}

    def register(self, name: str) -> Callable[[type], type]:
        """Class decorator that adds the class under ``name``."""

        def add(member: type) -> type:
            self._members[name] = member
            return member

        return add

    def resolve(self, choice: Any, **kwargs: Any) -> Any:
        """Return an instance: ``choice`` itself unless it is a name, else ``member(**kwargs)``."""
        return self.member(choice)(**kwargs) if isinstance(choice, str) else choice

    def member(self, name: str) -> type:
        """Return the class of that name."""
        if name not in self._members:
            close = difflib.get_close_matches(name, self._members, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"Unknown {self.kind} {name!r}.{hint} Available: {', '.join(sorted(self._members))}.")
        return self._members[name]

    def __iter__(self):
        return iter(self._members)
