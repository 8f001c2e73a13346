"""Generate single cells that were never sequenced."""

from importlib.metadata import version

from . import datasets
from .model import SCDiffusion

__all__ = ["SCDiffusion", "datasets"]

__version__ = version("scdiffusion")
