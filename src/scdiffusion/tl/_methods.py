"""Methods of the tools: chosen by name with settings, or passed as instances."""

from __future__ import annotations

from dataclasses import asdict, fields, is_dataclass, replace
from typing import Any

from scdiffusion._registry import Registry
from scdiffusion.model._messages import did_you_mean


def read_method(registry: Registry, method: Any, settings: dict[str, Any]) -> Any:
    """The method of a name, or itself, with settings by name.

    Raises
    ------
    TypeError
        If it has no such setting.
    """
    method = registry.resolve(method)
    known = [field.name for field in fields(method)] if is_dataclass(method) else []
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise TypeError(f"{type(method).__name__} has no setting {unknown[0]!r}.{did_you_mean(unknown[0], known)}")
    return replace(method, **settings) if settings else method


def settings_of(method: Any) -> dict[str, Any]:
    """Settings of a method for `uns`, where there can be no None."""
    settings = asdict(method) if is_dataclass(method) else {}
    return {name: value for name, value in settings.items() if value is not None}
