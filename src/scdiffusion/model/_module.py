"""The networks of a model and how they fit together, in tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from scdiffusion.autoencoders import Parameters, autoencoders
from scdiffusion.diffusion import DiffusionProcess, Guide, Sampler
from scdiffusion.networks import (
    CategoryClassifier,
    Conditions,
    NoiseAwareClassifier,
    NumberRegressor,
    Scorer,
    condition_encoders,
    denoisers,
)

# Cells decoded together. Matrix products of one fixed shape treat each row alike, whatever stands in the others.
DECODING_BLOCK = 256


class SCDiffusionModule(BaseModuleClass):
    """Autoencoder, standardisation of the latents, and diffusion of the standardised latents.

    Where expression has a library size, its logarithm is one more coordinate of what the diffusion learns; with several
    modalities, one of each that has one.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_categories
        Number of categories of each categorical condition key, the batch last where there is one.
    n_continuous
        Number of continuous condition keys.
    n_batches
        Number of batches; 0 for none.
    values
        What was registered, `"counts"` or `"log-normalised"` expression.
    autoencoder_settings, process_settings, condition_settings, denoiser_settings
        Keyword arguments of the parts and, but for the process, their names.
    standardise_latents
        Whether the diffusion sees latents of mean 0 and variance 1, or latents as they are.
    """

    def __init__(
        self,
        n_genes: int,
        n_categories: Sequence[int],
        n_continuous: int,
        n_batches: int,
        values: str,
        *,
        autoencoder_settings: dict[str, Any],
        process_settings: dict[str, Any],
        condition_settings: dict[str, Any],
        denoiser_settings: dict[str, Any],
        standardise_latents: bool,
    ) -> None:
        super().__init__()
        settings = dict(autoencoder_settings)
        self.autoencoder = autoencoders.resolve(
            settings.pop("autoencoder"), n_genes=n_genes, n_batches=n_batches, values=values, **settings
        )
        self.n_batches = n_batches
        self.n_categories = list(n_categories)
        self.classifiers = nn.ModuleDict()  # by position of the condition key; empty until they are trained
        self.scorer: Scorer | None = None
        self.process = DiffusionProcess(**process_settings)
        settings = dict(condition_settings)
        conditions = condition_encoders.resolve(
            settings.pop("condition_encoder"),
            n_categories=n_categories,
            n_continuous=n_continuous,
            n_genes=n_genes,
            **settings,
        )
        self.n_library = self.autoencoder.likelihood.n_library
        self.n_features = self.autoencoder.n_latent + self.n_library
        settings = dict(denoiser_settings)
        self.denoiser = denoisers.resolve(
            settings.pop("denoiser"),
            n_features=self.n_features,
            condition_encoder=conditions,
            n_timesteps=self.process.n_timesteps,
            **settings,
        )
        self.standardise_latents = standardise_latents
        self.register_buffer("feature_mean", torch.zeros(self.n_features))
        self.register_buffer("feature_scale", torch.ones(self.n_features))
        self.register_buffer("feature_limit", torch.full((self.n_features,), 10.0))
        self.register_buffer("value_mean", torch.zeros(n_continuous))
        self.register_buffer("value_scale", torch.ones(n_continuous))
        self.eval()  # an autoencoder that is never trained, because it came trained, must not use batch statistics

    def add_classifier(self, key: int, **settings: Any) -> NoiseAwareClassifier:
        """Make the classifier of the condition key at a position anew, and return it."""
        settings = {"n_features": self.n_features, "n_timesteps": self.process.n_timesteps, **settings}
        is_categorical = key < len(self.n_categories)
        classifier = (
            CategoryClassifier(n_outputs=self.n_categories[key], **settings)
            if is_categorical
            else NumberRegressor(**settings)
        )
        self.classifiers[str(key)] = classifier.to(self.feature_mean.device)
        return classifier

    def add_scorer(self, **settings: Any) -> Scorer:
        """Make the scorer anew, and return it."""
        # The number of genes detected stands beside the features of the diffusion where cells are drawn as counts.
        self.scorer = Scorer(self.n_features + self.n_library, **settings).to(self.feature_mean.device)
        return self.scorer

    @torch.no_grad()
    def set_standardisation(self, mean: Tensor, log_variance: Tensor, log_library: Tensor, values: Tensor) -> None:
        """Make posterior samples, log library sizes and values of the training cells have mean 0 and variance 1.

        Parameters
        ----------
        mean, log_variance
            Posteriors of the training cells, `(n_cells, n_latent)`.
        log_library
            `(n_cells, n_library)`, where `n_library` is the number of modalities with a library size.
        values
            Values of the continuous conditions, `(n_cells, n_continuous)`.
        """
        self.value_mean.copy_(values.mean(0))
        self.value_scale.copy_((values - values.mean(0)).square().mean(0).sqrt().clamp(min=1e-12))
        features = torch.cat([mean, log_library], 1)
        variance = features.var(0)
        variance[: mean.shape[1]] += log_variance.exp().mean(0)
        spread = variance.sqrt()
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(spread.clamp(min=1e-4))
        if not self.standardise_latents:
            self.feature_mean[: mean.shape[1]] = 0.0
            self.feature_scale[: mean.shape[1]] = 1.0
        farthest = self.standardise(mean, log_library).abs().amax(0)
        self.feature_limit.copy_(farthest + spread / self.feature_scale)

    def standardise(self, latents: Tensor, log_library: Tensor) -> Tensor:
        """Latents and log library sizes as the diffusion sees them, `(n_cells, n_features)`."""
        return (torch.cat([latents, log_library], 1) - self.feature_mean) / self.feature_scale

    def conditions(self, codes: Tensor, values: Tensor, profiles: Mapping[int, Tensor] | None = None) -> Conditions:
        """Conditions as the networks see them.

        Parameters
        ----------
        codes, profiles
            As for :class:`~scdiffusion.networks.Conditions`.
        values
            Values of the continuous conditions as registered, `(n_cells, n_continuous)`.
        """
        standardised = (values.double() - self.value_mean.to(values.device)) / self.value_scale.to(values.device)
        return Conditions(codes, standardised.float(), profiles)

    def split(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised latents, and log library sizes in counts, of what the diffusion draws."""
        latents, log_library = features.split([self.autoencoder.n_latent, self.n_library], dim=1)
        of_library = slice(self.autoencoder.n_latent, None)
        return latents, log_library * self.feature_scale[of_library] + self.feature_mean[of_library]

    def decode(self, latents: Tensor, log_library: Tensor, covariates: Tensor | None = None) -> Parameters:
        """Distribution of the expression of at most :data:`DECODING_BLOCK` cells, of which each is decoded alone.

        Parameters
        ----------
        latents
            Standardised latents, `(n_cells, n_latent)`.
        log_library
            Log library size in counts, `(n_cells, n_library)`.
        covariates
            As :class:`~scdiffusion.autoencoders.Autoencoder` takes them.
        """
        n_cells = len(latents)

        def pad(values: Tensor) -> Tensor:
            padded = values.new_zeros((DECODING_BLOCK, *values.shape[1:]))
            padded[:n_cells] = values
            return padded

        of_latents = slice(self.autoencoder.n_latent)
        unstandardised = latents * self.feature_scale[of_latents] + self.feature_mean[of_latents]
        parameters = self.autoencoder.parameters_of(
            pad(unstandardised), pad(log_library).exp().squeeze(1), None if covariates is None else pad(covariates)
        )
        return parameters.head(n_cells)

    def sample(
        self,
        conditions: Conditions,
        sampler: Sampler,
        n_steps: int | None,
        generator: torch.Generator,
        guide: Guide | None = None,
        *,
        origin: Tensor | None = None,
        level: float = 1.0,
    ) -> Tensor:
        """Draw what the diffusion has learned, to be taken apart by :meth:`split`.

        Parameters
        ----------
        conditions
            Of the cells, on this module's device.
        sampler, n_steps
            The reverse process.
        generator
            Source of randomness on this module's device.
        guide
            How conditions are composed and guided; by default jointly and without guidance.
        origin
            Cells to start from, standardised, `(n_cells, n_features)`; by default pure noise.
        level
            Share of the process, above 0 and up to 1, that the origin is noised to and denoised from.

        Returns
        -------
        `(n_cells, n_features)`.
        """
        guide = Guide() if guide is None else guide
        schedule, start, conditions = self.process.schedule, None, conditions.grouped()
        x = torch.randn((len(conditions), self.n_features), generator=generator, device=conditions.device)
        if origin is not None:
            start = schedule.level_to_timestep(level)
            x = self.process.add_noise(origin, x, torch.full((len(x),), start, device=x.device))

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return self._limited(guide(self, x_t, t, conditions))

        return sampler.sample(denoise, x, schedule, n_steps, generator=generator, start=start)

    def estimate(self, x_t: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The denoiser's estimate of x_0, `(n_cells, n_features)`, from noised latents at timesteps `(n_cells,)`."""
        # Where next to nothing is left of the signal, an error of a predicted noise is blown up without bound.
        return self._limited(self.process.to_x0(self.denoiser(x_t, t, conditions), x_t, t))

    def log_probability(self, x_t: Tensor, t: Tensor, conditions: Conditions, key: int) -> Tensor:
        """Log-likelihood of one condition of noised cells, `(n_cells,)`; 0 where it is left to the model.

        Of a continuous condition, it is the density of the standardised value.
        """
        classifier = self.classifiers[str(key)]
        asked = conditions.asked[:, key]
        # Any valid target will do where nothing is asked for.
        target = conditions.column(key).where(asked, 0)
        output = classifier(self.process.linear_estimate(x_t, t), t)
        return classifier.log_prob(output, target).where(asked, 0)

    def _limited(self, x0: Tensor) -> Tensor:
        return torch.clamp(x0, -self.feature_limit, self.feature_limit)

    def _get_inference_input(self, tensors: dict[str, Tensor], **kwargs: Any) -> dict[str, Tensor]:
        return {"expression": tensors["X"], "covariates": tensors.get("covariates")}

    @auto_move_data
    def inference(self, expression: Tensor, covariates: Tensor | None = None) -> dict[str, Tensor]:
        """Posterior of the latents of registered expression, `(n_cells, n_genes)`, before standardisation."""
        told = (covariates,) if self.autoencoder.encodes_covariates else ()
        mean, log_variance = self.autoencoder.encode(expression, *told)
        return {
            "mean": mean,
            "log_variance": log_variance,
            "library_size": self.autoencoder.likelihood.library_size(expression),
        }

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        return {
            "latents": inference_outputs["mean"],
            "library_size": inference_outputs["library_size"],
            "covariates": tensors.get("covariates"),
        }

    @auto_move_data
    def generative(self, latents: Tensor, library_size: Tensor, covariates: Tensor | None = None) -> dict[str, Any]:
        """Distribution of the expression given latents before standardisation."""
        return {"px": self.autoencoder.parameters_of(latents, library_size, covariates)}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Any]
    ) -> LossOutput:
        """Loss of the autoencoder, the latents at their means: a bound on the evidence where they have a posterior."""
        mean, log_variance = inference_outputs["mean"], inference_outputs["log_variance"]
        reconstruction = self.autoencoder.loss(tensors["X"], mean, tensors.get("covariates"))
        divergence = torch.zeros_like(reconstruction)
        if self.autoencoder.variational:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return LossOutput(
            loss=(reconstruction + divergence).mean(), reconstruction_loss=reconstruction, kl_local=divergence
        )
