"""Autoencoders: from expression to latents and back."""

from ._base import Autoencoder, autoencoders
from ._components import count_components
from ._counts import CountAutoencoder
from ._likelihoods import (
    CountLikelihood,
    CountParameters,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    likelihoods,
)

__all__ = [
    "Autoencoder",
    "CountAutoencoder",
    "CountLikelihood",
    "CountParameters",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
    "autoencoders",
    "count_components",
    "likelihoods",
]
