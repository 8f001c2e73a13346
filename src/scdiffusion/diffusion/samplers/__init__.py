"""Samplers, one per file. A new one is a registered :class:`Sampler` in a file of its own and a line here."""

from ._base import Sampler, samplers
from ._ddim import DDIMSampler
from ._ddpm import DDPMSampler
from ._dpmpp_2m import DPMPP2MSampler
from ._euler import EulerSampler

__all__ = ["DDIMSampler", "DDPMSampler", "DPMPP2MSampler", "EulerSampler", "Sampler", "samplers"]
