"""Settings of a model of several modalities: what is left out is chosen by the kind of each, or from the data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from scdiffusion.autoencoders import MODALITIES, count_latents
from scdiffusion.model._messages import did_you_mean, name_some

PRESET = "multimodal"

if TYPE_CHECKING:
    from scdiffusion.model._modalities import Modality


def choose_preset(preset: str | None, overrides: dict[str, Any], modalities: Mapping[str, Modality]) -> str | None:
    """The preset of several modalities, whose likelihoods are added to what the user overrides; of one, that asked for.

    Raises
    ------
    ValueError
        If what is asked for is there for RNA alone, or for several modalities only, or a modality does not exist.
    """
    parts = {"preset": preset, "autoencoder": overrides.get("autoencoder")}
    if not modalities:
        if PRESET in parts.values():
            raise ValueError(
                f"{PRESET!r} is for several modalities: register them with setup_mudata, or proteins with "
                "setup_anndata(adata, protein_obsm_key=...)."
            )
        return preset
    asked = [f"{part}={choice!r}" for part, choice in parts.items() if choice not in (None, PRESET)]
    if overrides.get("condition_encoder") == "mean_expression":
        raise ValueError(
            "condition_encoder='mean_expression' knows a category by its mean log-normalised RNA, and there are the "
            f"modalities {name_some(modalities)}, which have no such mean in common. Leave it out (categories then have "
            "learned vectors), or set up an AnnData of the RNA alone."
        )
    if asked:
        raise ValueError(
            f"{asked[0]} is for models of RNA alone, but there are the modalities {name_some(modalities)}. Leave it out, "
            "or set up an AnnData of the RNA."
        )
    likelihood = {name: MODALITIES[modality.kind] for name, modality in modalities.items()}
    overrides["likelihood"] = likelihood | _given(overrides, "likelihood", modalities)
    return PRESET


def add_n_latent(
    overrides: dict[str, Any],
    modalities: Mapping[str, Modality],
    expression: sp.csr_matrix,
    labels: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Add the number of latents of those modalities that the user gives none for, as the data calls for."""
    given = _given(overrides, "n_latent", modalities)
    if set(given) == set(modalities):
        return
    sizes, kinds = sizes_of(modalities).values()
    n_latent, n_discriminant = count_latents(expression, labels, sizes, kinds, rng)
    overrides["n_latent"] = n_latent | given
    overrides["n_discriminant"] = n_discriminant | dict.fromkeys(given, [])


def sizes_of(modalities: Mapping[str, Modality]) -> dict[str, dict[str, Any]]:
    """What the autoencoder must know of the modalities."""
    return {
        "n_features": {name: len(modality.features) for name, modality in modalities.items()},
        "kinds": {name: modality.kind for name, modality in modalities.items()},
    }


def _given(overrides: Mapping[str, Any], setting: str, modalities: Mapping[str, Modality]) -> dict[str, Any]:
    given = overrides.get(setting) or {}
    if not isinstance(given, Mapping):
        raise ValueError(
            f"{setting} must be a dict by modality, e.g. {setting}={dict.fromkeys(modalities, given)}; got {given!r}."
        )
    for name in given:
        if name not in modalities:
            raise ValueError(
                f"{setting} names {name!r}, which is no modality of the data.{did_you_mean(name, modalities)}"
            )
    return dict(given)
