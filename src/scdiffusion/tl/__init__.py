"""Tools on AnnData, in scanpy's idiom."""

from ._evaluate import evaluate
from ._latent import latent

__all__ = ["evaluate", "latent"]
