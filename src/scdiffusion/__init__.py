"""Generate single cells that were never sequenced."""

from importlib.metadata import version

from . import datasets, diffusion, metrics, pl, pp, tl
from .model import SCDiffusion

__all__ = ["SCDiffusion", "datasets", "diffusion", "metrics", "pl", "pp", "tl"]

__version__ = version("scdiffusion")
