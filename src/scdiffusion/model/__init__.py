"""The model: setup, train, generate, save and load."""

from ._scdiffusion import SCDiffusion

__all__ = ["SCDiffusion"]
