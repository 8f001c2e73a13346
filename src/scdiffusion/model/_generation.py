"""How `SCDiffusion` generates: conditions to a plan, the plan to latents, latents to counts, counts to AnnData."""

from __future__ import annotations

import warnings
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData

from scdiffusion.diffusion import Composition, Sampler, samplers
from scdiffusion.model._composition import Plan, TrainingComposition
from scdiffusion.model._conditions import beyond_training, fill_from_training, read_conditions, unseen_combinations
from scdiffusion.model._constants import Key
from scdiffusion.model._drawing import Drawing
from scdiffusion.model._guidance import Methods, Scale, read_guidance
from scdiffusion.model._latents import LibrarySize
from scdiffusion.model._messages import name_some
from scdiffusion.model._profiles import take_profiles
from scdiffusion.networks import AS_GIVEN, Conditions


class GenerationMixin:
    """Generating cells."""

    def generate(
        self,
        n_cells: int | None = None,
        obs_conditions: Any = None,
        *,
        guidance: Methods | None = None,
        guidance_scale: Scale | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        compose: str | Composition = "joint",
        sampler: str | Sampler | None = None,
        n_steps: int | None = None,
        library_size: LibrarySize = None,
        batch_size: int = 4096,
        rng: int | np.random.Generator | None = None,
        progress: bool = False,
    ) -> AnnData | MuData:
        """Generate new cells.

        Parameters
        ----------
        n_cells
            Number of cells. By default as many as `obs_conditions` says, else as many as the model was trained on.
        obs_conditions
            What the cells should be:

            - `None`: whatever the training cells are like.
            - `"observed"`: the conditions of the training cells, in their proportions.
            - a dict by condition key. Its values are one category for all cells (`{"cell_type": "B cell"}`), numbers of
              cells by category (`{"cell_type": {"B cell": 500, "NK": 200}}`), or one category per cell. Of continuous
              keys, any numbers in place of categories (`{"time": 3.5}`). With `condition_encoder="mean_expression"` also
              a profile for all cells, of a category that need not have been trained on: an `AnnData` of cells of it, or
              their mean log-normalised expression as a Series by gene.
            - a data frame with one row per cell.

            A key left out, None or NaN is left to the model.
        guidance
            What pulls cells towards their conditions. By default the model's setting of that name: nothing, or for
            `preset="scdiffusion"` classifiers.

            - `"none"`: nothing beyond the conditions that the denoiser sees.
            - `"classifier_free"`: the denoiser's own estimate without them, which cells are pushed away from.
            - `"classifier"`: the gradients of classifiers (see :meth:`train_classifier`). The denoiser runs with the
              conditions that are guided by left to the model, and the classifiers alone bring them in.
            - a :class:`~scdiffusion.diffusion.Guidance`.
            - a dict of any of these to their scales, to combine them: `{"classifier_free": 0, "classifier": 1}` is a
              conditional denoiser and classifiers on top. The denoiser then sees what classifier-free guidance covers.
        guidance_scale
            Strength of the guidance. Of `"classifier_free"`: -1 is unconditional, 0 conditional, above 0 sharper;
            default 1. Of `"classifier"`: 0 is unconditional, 1 what a perfect classifier calls for, above sharper;
            default 2. One number, or one per condition key; with a dict, other keys are conditions without guidance.
        guidance_interval
            Guide only between these shares of the process, 0 (clean) to 1 (pure noise); `(0, 0.5)`, for instance, is
            the second half of the way. By default always, but `(0, 0.5)` for `preset="scdiffusion"`.
        guidance_rescale
            How far each cell's standard deviation across latents is brought back to what it is without guidance, 0
            (not at all) to 1.
        compose
            `"joint"`: the denoiser sees all conditions together, and knows how one acts in the presence of another.
            `"sum"`: it sees one at a time, and what each changes is summed, a product of experts.
        sampler
            `"dpmpp_2m"`, `"ddim"`, `"ddpm"` or `"euler"`, or a :class:`~scdiffusion.diffusion.Sampler`. By default the
            preset's: `"dpmpp_2m"`, or the papers' own, `"ddpm"`.
        n_steps
            Number of denoising steps; by default the sampler's own, 20 for `"dpmpp_2m"` and 1000 for `"ddpm"`.
        library_size
            Expected total counts, for all cells or per cell; of several modalities a dict by name, of those that are
            not to be drawn. By default drawn with the cell. Log-normalised expression and proteins have none.
        batch_size
            Cells denoised together. Cells depend on it through the random numbers they get, not on each other.
        rng
            Seed. The same seed gives the same cells.
        progress
            Whether to show a progress bar.

        Returns
        -------
        :class:`~anndata.AnnData` with

        - `X`: counts, int32 CSR, or non-negative log-normalised expression, float32 CSR, `(n_cells, n_genes)`.
        - `obs`: the conditions, with the categories of the training data; missing where left to the model or given as
          a profile. A batch that was left to the model is drawn from the training cells with the same conditions.
          Guidance leaves the batch alone.
        - `var`: as in training.
        - `obsm["X_scdiffusion"]`: latents, `(n_cells, n_latent)`.
        - `uns["scdiffusion"]`: how the cells were generated; `"values"` says what `X` holds.

        A model that was set up with `protein_obsm_key` adds proteins in `obsm` under that key, as a data frame where they
        were given as one. A model of a MuData returns a :class:`~mudata.MuData` of the same modalities, with `obs` in each
        of them too, `X` and `var` in them, and `obsm` and `uns` of the whole.

        Raises
        ------
        ValueError
            If the model is not trained, an argument does not fit the model, or a condition has nothing to bring it in: no
            classifier, and a denoiser that does not see conditions. The message says what to do.

        Warns
        -----
        UserWarning
            If no training cell has a combination of conditions that is asked for, a number lies outside the range of
            training, or guidance has nothing to guide by.

        References
        ----------
        Luo et al. 2024 (scDiffusion), Eq. 5; Wang et al. 2023 (SCLD), Algorithm 2 and Eq. 13. Rescaling: Lin et al.,
        *Common Diffusion Noise Schedules and Sample Steps are Flawed*, 2024, Eqs. 15 and 16.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> cells = model.generate(obs_conditions={"bulk_labels": {"CD34+": 3, "Dendritic": 2}}, rng=0)
        >>> cells.obs["bulk_labels"].value_counts()["CD34+"]
        np.int64(3)
        """
        self._require_trained("generate")
        sampler = self._read_sampler(sampler)
        seed = seed_sequence(rng)
        plan, conditions = self._plan(obs_conditions, n_cells, np.random.default_rng(seed.spawn(1)[0]))
        profiles = [self.composition.keys[position] for position in conditions.profiles]
        keys = {key: position for position, key in enumerate(self.composition.keys) if key != self.batch_key}
        guide, guidance_provenance = read_guidance(
            guidance,
            guidance_scale,
            guidance_interval,
            guidance_rescale,
            compose,
            defaults=self._settings["guidance"],
            keys=keys,
            asked=[key for key, position in keys.items() if conditions.asked[:, position].any()],
            profiles=profiles,
            classifiers=self.classifiers_,
            sees_conditions=self.module.denoiser.condition_encoder.sees_conditions,
        )
        library = self._read_library_size(library_size, len(conditions))

        drawing = Drawing(conditions, sampler, n_steps, guide, library, batch_size=batch_size)
        chunks = list(self._draw_cells(drawing, seed, "Generating", progress=progress))

        return self._annotate(
            sp.vstack([chunk.expression for chunk in chunks], format="csr"),
            self._obs(plan),
            {Key.LATENT: np.concatenate([chunk.latents for chunk in chunks])},
            {
                **guidance_provenance,
                **self._sampling_provenance(sampler, n_steps, rng),
                "library_size": self._library_provenance(library),
                "batch_size": batch_size,
                **({"profiles": profiles} if profiles else {}),
            },
        )

    def _read_sampler(self, sampler: str | Sampler | None) -> Sampler:
        """The sampler that is asked for, by default the preset's."""
        if sampler is not None:
            return samplers.resolve(sampler)
        settings = dict(self._settings["sampling"])
        return samplers.resolve(settings.pop("sampler"), **settings)

    def _sampling_provenance(self, sampler: Sampler, n_steps: int | None, rng: Any) -> dict[str, Any]:
        """What `uns` says of how cells were drawn; h5ad files hold no None, which becomes "none"."""
        return {
            "version": version("scdiffusion"),
            "sampler": type(sampler).__name__,
            "n_steps": sampler.default_n_steps if n_steps is None else n_steps,
            "rng": int(rng) if isinstance(rng, int | np.integer) else "none",
            "values": self.module.autoencoder.likelihood.values,
        }

    def _library_provenance(self, library: np.ndarray | None) -> str:
        if not self.module.n_library:
            return "none"
        return "drawn" if library is None else "given"

    def _plan(self, obs_conditions: Any, n_cells: int | None, rng: np.random.Generator) -> tuple[Plan, Conditions]:
        """What the cells are to be: as `obs` says it, and as the networks see it, in which there are profiles too."""
        composition = self.composition
        obs_conditions, profiles = take_profiles(
            obs_conditions, self.var_.index, composition, self.registry_["setup_args"]
        )
        if profiles and not self.module.denoiser.condition_encoder.reads_profiles:
            raise ValueError(
                "The model knows its categories by name only and cannot read a profile. Train one that knows them by "
                "their mean expression: SCDiffusion(adata, condition_encoder='mean_expression')."
            )
        asked = read_conditions(obs_conditions, n_cells, composition, rng)
        _warn_of_extrapolation(asked, composition)
        plan = fill_from_training(asked, composition, [self.batch_key] if self.batch_key else [], rng)
        codes = plan.codes.copy()
        codes[:, list(profiles)] = AS_GIVEN
        return plan, self.module.conditions(torch.from_numpy(codes), torch.from_numpy(plan.values), profiles)

    def _obs(self, plan: Plan) -> pd.DataFrame:
        composition = self.composition
        columns = {
            key: pd.Categorical.from_codes(column, dtype=self._category_dtype(key))
            for key, column in zip(composition.categories, plan.codes.T, strict=True)
        }
        columns |= dict(zip(composition.continuous, plan.values.T, strict=True))
        return pd.DataFrame(columns, index=pd.Index([f"generated_{i}" for i in range(len(plan.codes))]))


def seed_sequence(rng: int | np.random.Generator | None) -> np.random.SeedSequence:
    """Where the seeds of a call come from."""
    if isinstance(rng, np.random.Generator):
        return np.random.SeedSequence(int(rng.integers(2**63)))
    if rng is not None and (isinstance(rng, bool) or int(rng) != rng or rng < 0):
        raise ValueError(f"rng must be a whole number, 0 or more, or a numpy Generator; got {rng!r}.")
    return np.random.SeedSequence(None if rng is None else int(rng))


def _warn_of_extrapolation(plan: Plan, composition: TrainingComposition) -> None:
    messages = [f"{message}: the model extrapolates." for message in beyond_training(plan.values, composition)]
    unseen = unseen_combinations(plan.codes, composition)
    if unseen:
        names = name_some([", ".join(f"{key}={category}" for key, category in row.items()) for row in unseen], 5)
        messages.append(
            f"No training cell has the combination {names}: the model extrapolates from the conditions apart."
        )
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=4)
