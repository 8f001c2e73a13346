"""Methods of the tools: chosen by name with settings, or passed as instances."""

from __future__ import annotations

import warnings
from dataclasses import asdict, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from scdiffusion._registry import Registry
from scdiffusion.model._composition import Plan
from scdiffusion.model._conditions import beyond_training
from scdiffusion.model._messages import did_you_mean

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion


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


def check_sees_conditions(model: SCDiffusion, method: str, instead: str) -> None:
    """Raise where a method denoises under conditions that the denoiser does not see, and would do nothing."""
    if not model.module.denoiser.condition_encoder.sees_conditions:
        raise ValueError(
            f"The denoiser of this model sees no conditions, so that method={method!r} cannot bring one in: {instead}, or "
            "train a model that sees them, the default or SCDiffusion(adata, ..., condition_encoder='embedding', "
            "guidance='none')."
        )


def warn_of_extrapolation(model: SCDiffusion, plan: Plan) -> None:
    """Warn the caller of a tool of numbers outside the range of training, as :meth:`SCDiffusion.generate` does."""
    for message in beyond_training(plan.values, model.composition):
        warnings.warn(f"{message}: the model extrapolates.", UserWarning, stacklevel=3)


def settings_of(method: Any) -> dict[str, Any]:
    """Settings of a method for `uns`, where there can be no None."""
    settings = asdict(method) if is_dataclass(method) else {}
    return {name: value for name, value in settings.items() if value is not None}
