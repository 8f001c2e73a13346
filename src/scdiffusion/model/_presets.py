"""Named configurations of the model."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from scdiffusion._registry import Registry
from scdiffusion.autoencoders import autoencoders
from scdiffusion.diffusion import DiffusionProcess
from scdiffusion.model._messages import did_you_mean
from scdiffusion.networks import condition_encoders, denoisers

_CLASSIFIER_TRAINING = {
    "n_hidden": 256,
    "dropout": 0.1,
    "batch_size": 512,
    "lr": 1e-3,
    "lr_decay": "cosine",
    "weight_decay": 1e-2,
    "ema_decay": 0.998,
    "patience": 15,
    "n_steps": None,  # by the number of cells
}

_SCORER_TRAINING = {
    "n_hidden": 128,
    "dropout": 0.2,
    "n_cells": 20_000,
    "n_generated_per_real": 4,
    "batch_size": 256,
    "lr": 3e-3,
    "weight_decay": 1e-2,
    "patience": 20,
    "n_steps": None,  # 100 epochs
}

#: Settings of each preset: those of the parts of the module, by the names that :class:`~scdiffusion.SCDiffusion` takes
#: them under, then how each stage is trained, and how `generate` samples, guides and selects. `n_steps` is the most optimiser
#: steps.
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "default": {
        "autoencoder": {
            "autoencoder": "counts",
            "n_latent": None,  # estimated from the data, discriminants of the conditions included
            "n_discriminant": (),
            "n_hidden": 256,
            "n_layers": 1,
            "likelihood": None,  # by whether counts are of molecules or of reads
            "dispersion": "gene",
            "dropout": 0.3,
        },
        "latents": {"standardise_latents": True},
        "process": {"schedule": "cosine", "prediction": "v", "loss_weighting": "min_snr", "n_timesteps": 1000},
        "condition_encoder": {"condition_encoder": "embedding", "condition_hidden": 256},
        "denoiser": {
            "denoiser": "mlp",
            "denoiser_hidden": 256,
            "denoiser_layers": 3,
            "denoiser_dropout": 0.1,
            "fusion": "add",
        },
        "autoencoder_training": {
            "batch_size": 128,
            "kl_weight": 0.5,
            "lr": 2e-4,
            "dispersion_lr": 1e-3,
            "weight_decay": 1e-4,
            "patience": 3,
            "n_steps": None,  # 100 epochs
        },
        "diffusion_training": {
            "batch_size": 512,
            "condition_dropout": 0.15,
            "lr": 3e-3,
            "lr_decay": "cosine",
            "weight_decay": 1e-4,
            "ema_decay": 0.998,
            "patience": 15,
            "n_steps": None,  # by the number of cells
        },
        "classifier_training": _CLASSIFIER_TRAINING,
        "scorer_training": _SCORER_TRAINING,
        "sampling": {"sampler": "dpmpp_2m"},
        # As much as decoding blurs categories: cells are then told apart as well as real ones are.
        "guidance": {"guidance": {"classifier_free": 0.15}, "guidance_interval": (0.0, 1.0), "compose": "shift"},
        "selection": {"keep_top": "none"},
    },
    # Luo et al. 2024 and its public code.
    "scdiffusion": {
        "autoencoder": {"autoencoder": "scimilarity", "n_latent": 128, "n_hidden": (1024, 1024, 1024), "dropout": 0.0},
        "latents": {"standardise_latents": True},
        "process": {"schedule": "linear", "prediction": "epsilon", "loss_weighting": "uniform", "n_timesteps": 1000},
        "condition_encoder": {"condition_encoder": "none", "condition_hidden": 512},
        "denoiser": {
            "denoiser": "skip_mlp",
            "denoiser_hidden": (512, 512, 256, 128),
            "denoiser_dropout": 0.0,
            "fusion": "add",
        },
        "autoencoder_training": {
            "batch_size": 128,
            "lr": 5e-4,
            "weight_decay": 0.01,
            "patience": 10,
            "n_steps": 150_000,
        },
        "diffusion_training": {
            "batch_size": 128,
            "condition_dropout": 0.15,
            "lr": 1e-4,
            "lr_decay": "linear",
            "weight_decay": 1e-4,
            "ema_decay": 0.9999,
            "patience": 50,
            "n_steps": 600_000,
        },
        "classifier_training": {
            "n_hidden": 512,
            "dropout": 0.1,
            "batch_size": 128,
            "lr": 3e-4,
            "lr_decay": "linear",
            "weight_decay": 1e-2,
            "ema_decay": 0.9999,
            "patience": 50,
            "n_steps": 200_000,
        },
        "scorer_training": _SCORER_TRAINING,
        "sampling": {"sampler": "ddpm", "variance_weight": 0.5},
        "guidance": {
            "guidance": "classifier",
            "guidance_interval": (0.0, 0.5),
            "compose": "joint",
        },  # with its default scale, the paper's 2
        "selection": {"keep_top": "none"},
    },
    # Wang et al. 2023; widths of the autoencoder and what else the paper leaves open are ours.
    "scld": {
        "autoencoder": {"autoencoder": "linear", "n_latent": 64, "n_hidden": 512},
        "latents": {"standardise_latents": True},
        "process": {"schedule": "linear", "prediction": "epsilon", "loss_weighting": "uniform", "n_timesteps": 1000},
        "condition_encoder": {
            "condition_encoder": "mean_expression",
            "condition_hidden": 256,
            "project_profiles": False,
        },
        "denoiser": {
            "denoiser": "unet",
            "denoiser_hidden": (64, 128, 128),
            "denoiser_dropout": 0.1,
            "fusion": "add",
        },
        "autoencoder_training": {
            "batch_size": 128,
            "lr": 5e-4,
            "weight_decay": 0.01,
            "patience": 10,
            "n_steps": 20_000,
        },
        "diffusion_training": {
            "batch_size": 128,
            "condition_dropout": 0.15,
            "lr": 1e-4,
            "lr_decay": "linear",
            "weight_decay": 0.01,
            "ema_decay": 0.999,
            "patience": 50,
            "n_steps": 20_000,
        },
        "classifier_training": _CLASSIFIER_TRAINING,
        "scorer_training": {**_SCORER_TRAINING, "n_generated_per_real": 1},  # they take DDPM's 1000 steps
        "sampling": {"sampler": "ddpm"},
        "guidance": {"guidance": "none", "guidance_interval": (0.0, 1.0), "compose": "joint"},
        "selection": {"keep_top": 0.8},
    },
}

# Of several modalities: narrow posteriors, as the many counts of a protein leave little noise in its latents.
PRESETS["multimodal"] = copy.deepcopy(PRESETS["default"])
PRESETS["multimodal"]["autoencoder"] |= {"autoencoder": "multimodal", "likelihood": None, "n_discriminant": None}
PRESETS["multimodal"]["autoencoder_training"]["kl_weight"] = 0.1

# How users call those arguments of the parts that go by another name there.
_ARGUMENTS = {
    "denoiser_hidden": "n_hidden",
    "denoiser_layers": "n_layers",
    "denoiser_dropout": "dropout",
    "condition_hidden": "n_hidden",
}
_CHOICES: dict[str, Registry] = {
    "autoencoder": autoencoders,
    "condition_encoder": condition_encoders,
    "denoiser": denoisers,
}
_PARTS: dict[str, tuple[str, ...]] = {
    "autoencoder": (
        "autoencoder", "n_latent", "n_hidden", "n_layers", "likelihood", "dispersion", "dropout", "freeze_hidden",
        "n_discriminant", "scvi_module", "scvi_settings", "covariates",
    ),
    "latents": ("standardise_latents",),
    "process": tuple(name for name in inspect.signature(DiffusionProcess).parameters),
    "condition_encoder": ("condition_encoder", "condition_hidden", "project_profiles"),
    "denoiser": ("denoiser", "denoiser_hidden", "denoiser_layers", "denoiser_dropout", "fusion"),
    "guidance": ("guidance",),
    "selection": ("keep_top",),
}  # fmt: skip


def read_preset(preset: str | None, overrides: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings of a preset, by part, with some of them overridden.

    A part that is overridden by name, say `denoiser="unet"`, leaves the preset's settings of that part behind and
    starts from its own defaults.

    Raises
    ------
    ValueError
        If the preset, or a part, does not exist.
    TypeError
        If a setting does not exist, or is not one of the part that was chosen.
    """
    name = preset or "default"
    if name not in PRESETS:
        raise ValueError(f"Unknown preset {preset!r}.{did_you_mean(name, PRESETS)}")
    settings = copy.deepcopy(PRESETS[name])
    part_of = {setting: part for part, names in _PARTS.items() for setting in names}
    for key in overrides:
        if key not in part_of:
            raise TypeError(f"SCDiffusion has no setting {key!r}.{did_you_mean(key, part_of)}")
    for part in _CHOICES:
        if overrides.get(part, settings[part][part]) != settings[part][part]:
            settings[part] = {part: overrides[part]}
    for key, value in overrides.items():
        part = part_of[key]
        choice = settings[part].get(part)
        if key != part and part in _CHOICES and isinstance(choice, str):
            taken = inspect.signature(_CHOICES[part].member(choice)).parameters
            if _ARGUMENTS.get(key, key) not in taken:
                raise TypeError(f"The {part.replace('_', ' ')} {choice!r} takes no {key}; leave it out.")
        settings[part][key] = value
    return settings


def arguments_of(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a part as its class takes them."""
    return {_ARGUMENTS.get(key, key): value for key, value in settings.items()}
