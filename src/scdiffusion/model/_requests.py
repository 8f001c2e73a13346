"""What `SCDiffusion` makes of a request for cells: what they are to be, and how the networks are to draw them."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor

from scdiffusion.autoencoders import COUNTS
from scdiffusion.diffusion import Composition, Guide
from scdiffusion.model._combinations import CombinationMeans, start_from_trained
from scdiffusion.model._composition import Plan, TrainingComposition
from scdiffusion.model._conditions import beyond_training, fill_from_training, read_conditions, unseen_combinations
from scdiffusion.model._guidance import Methods, Scale, read_guidance
from scdiffusion.model._messages import name_some
from scdiffusion.model._profiles import read_cells, read_profile, take_profiles
from scdiffusion.networks import AS_GIVEN, Conditions
from scdiffusion.training import expression_source


class Request(NamedTuple):
    """What cells are asked for."""

    plan: Plan
    """As `obs` says it."""
    conditions: Conditions
    """As the networks draw them."""
    asked: list[str]
    """Keys that anything is asked of."""
    profiles: list[str]
    """Keys that cells or a profile were given for."""
    shift: Tensor | None
    """What to add to the features that are drawn, `(n_cells, n_features)`."""
    log_factors: Tensor | None
    """Logarithms of what to multiply the genes' shares of the counts with, `(n_genes,)`."""


class Example(NamedTuple):
    """How to draw cells like some that were given."""

    code: int
    """Category to draw them as."""
    shift: np.ndarray
    """What to add to the features that are drawn then, `(n_features,)`."""
    log_factors: Tensor | None
    """Logarithms of what to multiply the genes' shares of the counts with, `(n_genes,)`; None without counts."""


class RequestMixin:
    """Planning cells."""

    def _plan(
        self, obs_conditions: Any, n_cells: int | None, rng: np.random.Generator, *, shifts_unseen: bool = False
    ) -> Request:
        """What is asked for; what was never trained on by way of what was, if it is shifted."""
        composition, setup = self.composition, self.registry_["setup_args"]
        obs_conditions, given = take_profiles(obs_conditions, self.var_.index, composition, self.covariate_keys, setup)
        means = CombinationMeans.from_dict(self.combination_means_) if shifts_unseen else None
        examples = {
            key: self._example(key, cells, means)
            for key, cells in given.items()
            if shifts_unseen and isinstance(cells, AnnData)
        }
        if given.keys() - examples.keys() and not self.module.denoiser.condition_encoder.reads_profiles:
            raise ValueError(
                "The model knows its categories by name only and cannot read a profile. Pass cells, an AnnData, to "
                "generate(compose='shift'), or train a model that knows categories by their mean expression: "
                "SCDiffusion(adata, condition_encoder='mean_expression')."
            )
        profiles = {
            key: read_profile(profile, composition.keys[key], self.var_.index, setup)
            for key, profile in given.items()
            if key not in examples
        }
        asked = read_conditions(obs_conditions, n_cells, composition, rng)
        is_asked = np.column_stack([asked.codes >= 0, ~np.isnan(asked.values)]).any(0)
        is_asked[list(given)] = True
        drawn_as, shift = asked._replace(codes=asked.codes.copy()), None
        for key, example in examples.items():
            drawn_as.codes[:, key] = example.code
        if shifts_unseen:
            drawn_as, shift = start_from_trained(drawn_as, means, rng)
        if examples:
            to_given = sum(example.shift for example in examples.values())
            shift = np.tile(to_given, (len(drawn_as.codes), 1)) if shift is None else shift + to_given
        _warn_of_extrapolation(asked, drawn_as, composition)
        filled = fill_from_training(drawn_as, composition, self.covariate_keys, rng)
        codes = filled.codes.copy()
        codes[:, list(profiles)] = AS_GIVEN
        factors = [example.log_factors for example in examples.values() if example.log_factors is not None]
        return Request(
            asked._replace(
                codes=np.where(asked.codes == drawn_as.codes, filled.codes, asked.codes), values=filled.values
            ),
            self.module.conditions(torch.from_numpy(codes), torch.from_numpy(filled.values), profiles),
            [key for key, is_it in zip(composition.keys, is_asked, strict=True) if is_it],
            [composition.keys[key] for key in given],
            None if shift is None else torch.from_numpy(shift),
            sum(factors) if factors else None,
        )

    def _read_guide(
        self,
        request: Request,
        guidance: Methods | None,
        scale: Scale | None,
        interval: tuple[float, float] | None = None,
        rescale: float = 0.0,
        compose: str | Composition = "joint",
    ) -> tuple[Guide, dict[str, Any]]:
        """What pulls cells towards what is asked for, and what `uns` says of it."""
        keys = {key: position for position, key in enumerate(self.composition.keys) if key != self.batch_key}
        return read_guidance(
            guidance,
            scale,
            interval,
            rescale,
            compose,
            defaults=self._settings["guidance"],
            keys=keys,
            asked=[key for key in keys if key in request.asked],
            profiles=request.profiles,
            classifiers=self.classifiers_,
            sees_conditions=self.module.denoiser.condition_encoder.sees_conditions,
        )

    @torch.inference_mode()
    def _example(self, key: int, cells: AnnData, means: CombinationMeans) -> Example:
        r"""Learn from cells of a category that need not have been trained on how to draw more of them.

        Cells of the nearest trained category are shifted in the latents. What no shift can bring, because the genes of
        the category vary together in no cells of training, is made up for gene by gene: :math:`(x_g + 1) / (\mu_g + 1)`
        is the posterior mean of a factor, given the cells' counts :math:`x_g` and those that decoding their latents
        leads to expect, :math:`\mu_g`, if it is gamma distributed with shape and rate 1.
        """
        name = self.composition.keys[key]
        if self._is_multimodal:
            raise ValueError(f"{name!r} was given as cells, which only a model of RNA alone can take.")
        expression = read_cells(cells, name, self.var_.index, self.registry_["setup_args"])
        told = self._covariates(self._typical_where_open(self._known_covariates(cells.obs), cells.n_obs))
        mean, _, log_library = self._posteriors(expression_source(expression), told)
        features = self.module.standardise(mean.to(self.device), log_library.to(self.device))
        code, shift = means.approach(key, features.double().cpu().numpy())
        if self.module.autoencoder.likelihood.values != COUNTS:
            return Example(code, shift, None)
        blocks = self._decode_blocks(
            features[:, : mean.shape[1]], log_library.to(self.device), None if told is None else told.to(self.device)
        )
        expected = sum(parameters.mean.sum(0) for _, parameters in blocks).cpu()
        observed = torch.from_numpy(np.asarray(expression.sum(0), dtype=np.float32).ravel())
        return Example(code, shift, torch.log((observed + 1) / (expected + 1)))

    def _known_covariates(self, obs: pd.DataFrame) -> dict[str, pd.Series]:
        """What cells from elsewhere say of what the decoder must know, as far as it was trained on."""
        composition = self.composition
        return {
            key: obs[key]
            for key in self.covariate_keys
            if key in obs
            and (
                key in composition.continuous
                or all(composition.is_category(key, category) for category in obs[key].unique())
            )
        }


def _warn_of_extrapolation(asked: Plan, drawn_as: Plan, composition: TrainingComposition) -> None:
    messages = [f"{message}: the model extrapolates." for message in beyond_training(asked.values, composition)]
    changed = asked.codes != drawn_as.codes
    ways = {
        f"from cells with another {key}, shifted by what that changes in other cells": asked.codes[column]
        for key, column in zip(composition.categories, changed.T, strict=True)
    }
    ways["from the conditions apart"] = asked.codes[~changed.any(1)]
    for how, codes in ways.items():
        if len(codes) and (unseen := unseen_combinations(codes, composition)):
            names = name_some([", ".join(f"{key}={category}" for key, category in row.items()) for row in unseen], 5)
            messages.append(f"No training cell has the combination {names}: the model extrapolates {how}.")
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=4)
