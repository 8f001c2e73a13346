"""Autoencoders: from expression to latents and back."""

from ._base import COUNTS, LOG_NORMALISED, Autoencoder, Likelihood, Parameters, autoencoders
from ._borrowed import BorrowedAutoencoder, BorrowedTotalVI, NormalParameters, RectifiedNormal
from ._components import count_components, normalise
from ._counts import CountAutoencoder
from ._likelihoods import (
    CountLikelihood,
    CountParameters,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
    likelihoods,
)
from ._linear import LinearAutoencoder
from ._log_normalised import TARGET_SUM, LogNormalisedAutoencoder, MeanParameters, SquaredError
from ._pretrained import PretrainedWeights, read_pretrained
from ._scimilarity import SCimilarityAutoencoder

__all__ = [
    "COUNTS",
    "LOG_NORMALISED",
    "TARGET_SUM",
    "Autoencoder",
    "BorrowedAutoencoder",
    "BorrowedTotalVI",
    "CountAutoencoder",
    "CountLikelihood",
    "CountParameters",
    "Likelihood",
    "LinearAutoencoder",
    "LogNormalisedAutoencoder",
    "MeanParameters",
    "NegativeBinomial",
    "NormalParameters",
    "Parameters",
    "Poisson",
    "PretrainedWeights",
    "RectifiedNormal",
    "SCimilarityAutoencoder",
    "SquaredError",
    "ZeroInflatedNegativeBinomial",
    "autoencoders",
    "count_components",
    "likelihoods",
    "normalise",
    "read_pretrained",
]
