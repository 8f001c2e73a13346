"""Reading what `generate` is told of guidance into a :class:`~scdiffusion.diffusion.Guide`."""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from scdiffusion.diffusion import Composition, Guidance, Guide, compositions, guidances
from scdiffusion.model._messages import did_you_mean, name_some

Scale = float | Mapping[str, float]
Methods = str | Guidance | Mapping[str | Guidance, Scale | None]

#: Says that there is to be no guidance, where None leaves it to the preset.
NO_GUIDANCE = "none"


def needs_classifiers(guidance: Methods | None) -> bool:
    """Whether a guidance method needs classifiers, or one of several."""
    return any(_method(choice).needs_classifier for choice in _requests(guidance, None))


def read_guidance(
    guidance: Methods | None,
    scale: Scale | None,
    interval: tuple[float, float] | None,
    rescale: float,
    compose: str | Composition,
    *,
    defaults: Mapping[str, Any],
    keys: Mapping[str, int],
    asked: Collection[str],
    profiles: Collection[str],
    classifiers: Collection[str],
    sees_conditions: bool,
) -> tuple[Guide, dict[str, Any]]:
    """Read and check the arguments of :meth:`~scdiffusion.SCDiffusion.generate` that concern guidance.

    Parameters
    ----------
    guidance, scale, interval, rescale, compose
        As given to `generate`.
    defaults
        The preset's `guidance` and `guidance_interval`.
    keys
        Condition keys that cells can be guided by, and their positions; the batch is not among them.
    asked
        Those that are not left to the model in all cells.
    profiles
        Those that are asked for by an expression profile.
    classifiers
        Those with a trained classifier.
    sees_conditions
        Whether the denoiser does.

    Returns
    -------
    The guide, and what `uns` says of it.

    Raises
    ------
    TypeError
        If `guidance` is of another type.
    ValueError
        If a name, key, scale or interval is wrong, a classifier is missing, or nothing brings a condition in.
    """
    if guidance is None:
        guidance = defaults["guidance"] if asked else NO_GUIDANCE
        if scale is not None and isinstance(guidance, Mapping) and len(guidance) == 1:
            (guidance,) = guidance  # the default's method, with another scale
    requests = _requests(guidance, scale)
    if not requests:
        for name, given in {"scale": scale, "interval": interval, "rescale": rescale or None}.items():
            if given is not None:
                raise ValueError(
                    f"guidance_{name} needs guidance: pass obs_conditions, and guidance='classifier_free' or 'classifier'."
                )
    interval = _read_interval(defaults["guidance_interval"] if interval is None else interval)
    if not 0 <= rescale <= 1:
        raise ValueError(f"guidance_rescale must be between 0 (off) and 1; got {rescale!r}.")
    methods, scales = [], {}
    for choice, given in requests.items():
        method = _method(choice)
        if not keys:
            raise ValueError(
                "Guidance needs conditions, and the model was trained without. Train one with "
                "SCDiffusion.setup_anndata(adata, condition_keys=...)."
            )
        given = method.default_scale if given is None else given
        scales[choice if isinstance(choice, str) else type(choice).__name__] = given
        of_keys = _read_scale(given, method, keys, asked)
        if method.needs_classifier:
            _check_classifiers([key for names in of_keys for key in names], profiles, classifiers)
        if of_keys:
            methods.append((method, {frozenset(keys[key] for key in names): w for names, w in of_keys.items()}))
        else:
            warnings.warn("Nothing to guide by: obs_conditions leaves it to the model.", UserWarning, stacklevel=3)
    composition = compositions.resolve(compose)
    guide = Guide(methods, frozenset(keys[key] for key in asked), composition, interval, float(rescale))
    unseen = [] if sees_conditions else [key for key in asked if keys[key] not in guide.hidden]
    if unseen:
        raise ValueError(
            f"The denoiser of this model sees no conditions, and nothing else brings in {name_some(unseen)}: pass "
            "guidance='classifier', or train a model that sees them, SCDiffusion(adata, ..., "
            "condition_encoder='embedding', guidance='none')."
        )
    provenance = {"compose": compose if isinstance(compose, str) else type(compose).__name__, "guidance": NO_GUIDANCE}
    if scales:
        one = len(scales) == 1
        provenance |= {
            "guidance": next(iter(scales)) if one else list(scales),
            "guidance_scale": next(iter(scales.values())) if one else scales,
            "guidance_interval": list(interval),
            "guidance_rescale": float(rescale),
        }
    return guide, provenance


def _check_classifiers(guided: Sequence[str], profiles: Collection[str], classifiers: Collection[str]) -> None:
    by_profile = [key for key in guided if key in profiles]
    if by_profile:
        raise ValueError(
            f"A classifier tells trained categories apart and cannot guide by the profile of {name_some(by_profile)}: "
            "pass guidance='classifier_free', or guidance_scale={...} with the other keys alone."
        )
    missing = [key for key in guided if key not in classifiers]
    if missing:
        raise ValueError(f"There is no classifier of {name_some(missing)} to guide by: call model.train_classifier().")


def _method(choice: Any) -> Guidance:
    method = guidances.resolve(choice)
    if not isinstance(method, Guidance):
        raise TypeError(
            f"guidance must be one of {name_some([NO_GUIDANCE, *guidances])} or a Guidance; got {choice!r}."
        )
    return method


def _requests(guidance: Methods | None, scale: Scale | None) -> dict[Any, Scale | None]:
    """Guidance methods and their scales."""
    if guidance is None or guidance == NO_GUIDANCE:
        return {}
    if not isinstance(guidance, Mapping):
        if isinstance(guidance, Sequence) and not isinstance(guidance, str):
            raise TypeError(
                "To combine guidance methods, give each with its scale: guidance={'classifier_free': 0.5, "
                "'classifier': 1}."
            )
        return {guidance: scale}
    if scale is not None:
        raise ValueError("guidance has the scales in it: leave guidance_scale out.")
    return dict(guidance)


def _read_scale(
    scale: Scale, method: Guidance, keys: Collection[str], asked: Collection[str]
) -> dict[tuple[str, ...], float]:
    """The scale of each group of keys: of all that are asked for together, or of each."""
    if isinstance(scale, Mapping):
        unknown = [key for key in scale if key not in keys]
        if unknown:
            raise ValueError(f"guidance_scale names {unknown[0]!r}.{did_you_mean(unknown[0], keys)}")
        groups = {(key,): value for key, value in scale.items()}
    else:
        groups = {tuple(asked): scale}
    for value in groups.values():
        if not isinstance(value, numbers.Real) or not method.lowest_scale <= value < math.inf:
            raise ValueError(
                f"guidance_scale of {type(method).__name__} must be {method.lowest_scale:g} or more; got {value!r}."
            )
    return {group: float(value) for group, value in groups.items() if group and set(group) <= set(asked)}


def _read_interval(interval: Any) -> tuple[float, float]:
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high <= 1:
        raise ValueError(
            "guidance_interval must be two shares of the process between 0 (clean) and 1 (pure noise), the smaller "
            f"first, e.g. (0, 0.5); got {interval!r}."
        )
    return low, high
