"""Named configurations of the model."""

from __future__ import annotations

from typing import Any

from scdiffusion.model._checks import did_you_mean

#: Settings of each preset, by the names that :class:`~scdiffusion.SCDiffusion` takes them under.
PRESETS: dict[str, dict[str, Any]] = {
    "default": {
        "autoencoder": "counts",
        "n_latent": None,
        "n_discriminant": (),
        "n_hidden": 256,
        "n_layers": 1,
        "likelihood": "nb",
        "dispersion": "gene",
        "dropout": 0.3,
        "schedule": "cosine",
        "prediction": "v",
        "loss_weighting": "min_snr",
        "n_timesteps": 1000,
        "denoiser": "mlp",
        "denoiser_hidden": 256,
        "denoiser_layers": 3,
        "denoiser_dropout": 0.1,
        "condition_encoder": "embedding",
    }
}


def read_preset(preset: str | None, overrides: dict[str, Any]) -> dict[str, Any]:
    """Settings of a preset with some of them overridden.

    Raises
    ------
    ValueError
        If the preset does not exist.
    TypeError
        If a setting does not exist.
    """
    name = preset or "default"
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}.{did_you_mean(name, PRESETS)}")
    unknown = [key for key in overrides if key not in PRESETS[name]]
    if unknown:
        raise TypeError(f"SCDiffusion has no setting {unknown[0]!r}.{did_you_mean(unknown[0], PRESETS[name])}")
    return {**PRESETS[name], **overrides}


def module_settings(settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort the settings of a model by the part of the module they belong to."""
    return {
        "autoencoder_settings": {
            key: settings[key]
            for key in (
                "autoencoder",
                "n_latent",
                "n_hidden",
                "n_layers",
                "likelihood",
                "dispersion",
                "dropout",
                "n_discriminant",
            )
        },
        "process_settings": {key: settings[key] for key in ("schedule", "prediction", "loss_weighting", "n_timesteps")},
        "denoiser_settings": {
            "denoiser": settings["denoiser"],
            "condition_encoder": settings["condition_encoder"],
            "n_hidden": settings["denoiser_hidden"],
            "n_layers": settings["denoiser_layers"],
            "dropout": settings["denoiser_dropout"],
        },
    }
