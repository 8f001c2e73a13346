"""The networks of a model and how they fit together, in tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scvi.module.base import BaseModuleClass, LossOutput, auto_move_data
from torch import Tensor, nn

from scdiffusion.autoencoders import CountParameters, autoencoders
from scdiffusion.diffusion import DiffusionProcess, Guide, Sampler
from scdiffusion.networks import (
    CategoryClassifier,
    Conditions,
    NoiseAwareClassifier,
    NumberRegressor,
    condition_encoders,
    denoisers,
)

# Cells decoded together. Matrix products of one fixed shape treat each row alike, whatever stands in the others.
DECODING_BLOCK = 256


class SCDiffusionModule(BaseModuleClass):
    """Autoencoder, standardisation of the latents, and diffusion of the standardised latents and log library size.

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
    autoencoder_settings, process_settings, denoiser_settings
        Keyword arguments of the three parts; `autoencoder_settings` holds the autoencoder's name too.
    """

    def __init__(
        self,
        n_genes: int,
        n_categories: Sequence[int],
        n_continuous: int,
        n_batches: int,
        autoencoder_settings: dict[str, Any],
        process_settings: dict[str, Any],
        denoiser_settings: dict[str, Any],
    ) -> None:
        super().__init__()
        settings = dict(autoencoder_settings)
        self.autoencoder = autoencoders.resolve(
            settings.pop("autoencoder"), n_genes=n_genes, n_batches=n_batches, **settings
        )
        self.n_batches = n_batches
        self.n_categories = list(n_categories)
        self.classifiers = nn.ModuleDict()  # by position of the condition key; empty until they are trained
        self.process = DiffusionProcess(**process_settings)
        settings = dict(denoiser_settings)
        conditions = condition_encoders.resolve(
            settings.pop("condition_encoder"),
            n_categories=n_categories,
            n_continuous=n_continuous,
            n_hidden=settings["n_hidden"],
        )
        self.n_features = self.autoencoder.n_latent + 1
        self.denoiser = denoisers.resolve(
            settings.pop("denoiser"),
            n_features=self.n_features,
            condition_encoder=conditions,
            n_timesteps=self.process.n_timesteps,
            **settings,
        )
        self.register_buffer("feature_mean", torch.zeros(self.n_features))
        self.register_buffer("feature_scale", torch.ones(self.n_features))
        self.register_buffer("feature_limit", torch.full((self.n_features,), 10.0))
        self.register_buffer("value_mean", torch.zeros(n_continuous))
        self.register_buffer("value_scale", torch.ones(n_continuous))

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

    @torch.no_grad()
    def set_standardisation(self, mean: Tensor, log_variance: Tensor, log_library: Tensor, values: Tensor) -> None:
        """Make posterior samples, log library sizes and values of the training cells have mean 0 and variance 1.

        Parameters
        ----------
        mean, log_variance
            Posteriors of the training cells, `(n_cells, n_latent)`.
        log_library
            `(n_cells, 1)`.
        values
            Values of the continuous conditions, `(n_cells, n_continuous)`.
        """
        self.value_mean.copy_(values.mean(0))
        self.value_scale.copy_(values.std(0).clamp(min=1e-12))
        variance = torch.cat([mean.var(0) + log_variance.exp().mean(0), log_library.var(0)])
        self.feature_mean.copy_(torch.cat([mean.mean(0), log_library.mean(0)]))
        self.feature_scale.copy_(variance.sqrt().clamp(min=1e-4))
        self.feature_limit.copy_(self.standardise(mean, log_library).abs().amax(0) + 1)

    def standardise(self, latents: Tensor, log_library: Tensor) -> Tensor:
        """Latents and log library size as the diffusion sees them, `(n_cells, n_latent + 1)`."""
        return (torch.cat([latents, log_library], 1) - self.feature_mean) / self.feature_scale

    def conditions(self, codes: Tensor, values: Tensor) -> Conditions:
        """Conditions as the networks see them, of codes `(n_cells, n_categorical)` and values `(n_cells, n_continuous)`."""
        standardised = (values.double() - self.value_mean.to(values.device)) / self.value_scale.to(values.device)
        return Conditions(codes, standardised.float())

    def decode(self, latents: Tensor, log_library: Tensor, batch: Tensor | None = None) -> CountParameters:
        """Distribution of the expression of at most :data:`DECODING_BLOCK` cells, of which each is decoded alone.

        Parameters
        ----------
        latents
            Standardised latents, `(n_cells, n_latent)`.
        log_library
            Log library size in counts, `(n_cells,)`.
        batch
            Batch codes, `(n_cells,)`.
        """
        n_cells = len(latents)

        def pad(values: Tensor) -> Tensor:
            padded = values.new_zeros((DECODING_BLOCK, *values.shape[1:]))
            padded[:n_cells] = values
            return padded

        unstandardised = latents * self.feature_scale[:-1] + self.feature_mean[:-1]
        parameters = self.autoencoder.parameters_of(
            pad(unstandardised), pad(log_library).exp(), None if batch is None else pad(batch)
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
        """Draw standardised latents and log library sizes.

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
            Cells to start from, standardised, `(n_cells, n_latent + 1)`; by default pure noise.
        level
            Share of the process, above 0 and up to 1, that the origin is noised to and denoised from.

        Returns
        -------
        `(n_cells, n_latent + 1)`.
        """
        guide = Guide() if guide is None else guide
        schedule, start = self.process.schedule, None
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
        return {"counts": tensors["X"]}

    @auto_move_data
    def inference(self, counts: Tensor) -> dict[str, Tensor]:
        """Posterior of the latents of counts, `(n_cells, n_genes)`, before standardisation."""
        mean, log_variance = self.autoencoder.encode(counts)
        return {"mean": mean, "log_variance": log_variance, "library_size": counts.sum(1)}

    def _get_generative_input(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], **kwargs: Any
    ) -> dict[str, Tensor]:
        return {
            "latents": inference_outputs["mean"],
            "library_size": inference_outputs["library_size"],
            "batch": tensors.get("batch"),
        }

    @auto_move_data
    def generative(self, latents: Tensor, library_size: Tensor, batch: Tensor | None = None) -> dict[str, Any]:
        """Distribution of the counts given latents before standardisation."""
        return {"px": self.autoencoder.parameters_of(latents, library_size, batch)}

    def loss(
        self, tensors: dict[str, Tensor], inference_outputs: dict[str, Tensor], generative_outputs: dict[str, Any]
    ) -> LossOutput:
        """Evidence lower bound of the autoencoder with the latents at their means."""
        counts = tensors["X"]
        rows, columns = counts.nonzero(as_tuple=True)
        reconstruction = -self.autoencoder.likelihood.log_prob(
            rows, columns, counts[rows, columns], generative_outputs["px"]
        )
        mean, log_variance = inference_outputs["mean"], inference_outputs["log_variance"]
        divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1)
        return LossOutput(
            loss=(reconstruction + divergence).mean(), reconstruction_loss=reconstruction, kl_local=divergence
        )
