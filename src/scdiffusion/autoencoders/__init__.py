"""Autoencoders: from expression to latents and back."""

from ._base import COUNTS, LOG_NORMALISED, Autoencoder, Likelihood, Parameters, autoencoders
from ._borrowed import BorrowedAutoencoder, BorrowedTotalVI, NormalParameters, RectifiedNormal
from ._components import are_reads, count_components, normalise
from ._counts import CountAutoencoder
from ._joint import JointLikelihood, JointParameters
from ._likelihoods import (
    Bernoulli,
    CountLikelihood,
    CountParameters,
    NegativeBinomial,
    NegativeBinomialMixture,
    Poisson,
    ZeroInflatedNegativeBinomial,
    likelihoods,
)
from ._linear import LinearAutoencoder
from ._log_normalised import TARGET_SUM, LogNormalisedAutoencoder, MeanParameters, SquaredError
from ._multimodal import MODALITIES, MultimodalAutoencoder, count_latents
from ._pretrained import PretrainedWeights, read_pretrained
from ._scimilarity import SCimilarityAutoencoder

__all__ = [
    "COUNTS",
    "LOG_NORMALISED",
    "MODALITIES",
    "TARGET_SUM",
    "Autoencoder",
    "Bernoulli",
    "BorrowedAutoencoder",
    "BorrowedTotalVI",
    "CountAutoencoder",
    "CountLikelihood",
    "CountParameters",
    "JointLikelihood",
    "JointParameters",
    "Likelihood",
    "LinearAutoencoder",
    "LogNormalisedAutoencoder",
    "MeanParameters",
    "MultimodalAutoencoder",
    "NegativeBinomial",
    "NegativeBinomialMixture",
    "NormalParameters",
    "Parameters",
    "Poisson",
    "PretrainedWeights",
    "RectifiedNormal",
    "SCimilarityAutoencoder",
    "SquaredError",
    "ZeroInflatedNegativeBinomial",
    "are_reads",
    "autoencoders",
    "count_components",
    "count_latents",
    "likelihoods",
    "normalise",
    "read_pretrained",
]
