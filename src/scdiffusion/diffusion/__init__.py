"""Diffusion on plain tensors: noise schedules, the forward process, samplers and guidance."""

from .guidance import classifier_free
from .process import DiffusionProcess, loss_weightings, predictions
from .samplers import DDIMSampler, DDPMSampler, DPMPP2MSampler, EulerSampler, Sampler, samplers
from .schedules import CosineSchedule, LinearSchedule, NoiseSchedule, schedules

__all__ = [
    "CosineSchedule",
    "DDIMSampler",
    "DDPMSampler",
    "DPMPP2MSampler",
    "DiffusionProcess",
    "EulerSampler",
    "LinearSchedule",
    "NoiseSchedule",
    "Sampler",
    "classifier_free",
    "loss_weightings",
    "predictions",
    "samplers",
    "schedules",
]
