"""Diffusion on plain tensors: noise schedules, the forward process, samplers, guidance and selection."""

from .guidance import (
    ClassifierFreeGuidance,
    ClassifierGuidance,
    Composition,
    Guidance,
    Guide,
    JointComposition,
    ShiftComposition,
    Step,
    SumComposition,
    compositions,
    guidances,
)
from .process import DiffusionProcess, loss_weightings, predictions
from .samplers import DDIMSampler, DDPMSampler, DPMPP2MSampler, EulerSampler, Sampler, samplers
from .schedules import CosineSchedule, LinearSchedule, NoiseSchedule, schedules
from .selection import RankSelection, RejectionSelection, Selection, selections

__all__ = [
    "ClassifierFreeGuidance",
    "ClassifierGuidance",
    "Composition",
    "CosineSchedule",
    "DDIMSampler",
    "DDPMSampler",
    "DPMPP2MSampler",
    "DiffusionProcess",
    "EulerSampler",
    "Guidance",
    "Guide",
    "JointComposition",
    "LinearSchedule",
    "NoiseSchedule",
    "RankSelection",
    "RejectionSelection",
    "Sampler",
    "Selection",
    "ShiftComposition",
    "Step",
    "SumComposition",
    "compositions",
    "guidances",
    "loss_weightings",
    "predictions",
    "samplers",
    "schedules",
    "selections",
]
