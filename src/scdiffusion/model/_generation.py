"""How `SCDiffusion` generates: conditions to a plan, the plan to latents, latents to counts, counts to AnnData."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData
from mudata import MuData
from scipy.special import expit

from scdiffusion.diffusion import Composition, Sampler, Selection, compositions, samplers
from scdiffusion.model._composition import Plan
from scdiffusion.model._constants import Key
from scdiffusion.model._drawing import Drawing, Drawn
from scdiffusion.model._guidance import Methods, Scale
from scdiffusion.model._latents import LibrarySize
from scdiffusion.model._selection import joined_provenance, read_keep_top, selection_provenance
from scdiffusion.model._streaming import Stream


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
        compose: str | Composition | None = None,
        sampler: str | Sampler | None = None,
        n_steps: int | None = None,
        library_size: LibrarySize = None,
        keep_top: float | str | None = None,
        selection: str | Selection = "rank",
        select_per_condition: bool = True,
        batch_size: int = 4096,
        rng: int | np.random.Generator | None = None,
        output: str | Path | None = None,
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
              keys, any numbers in place of categories (`{"time": 3.5}`). Of a category that need not have been trained
              on, an `AnnData` of a few of its cells; with `condition_encoder="mean_expression"` also their mean
              log-normalised expression as a Series by gene.
            - a data frame with one row per cell.

            A key left out, None or NaN is left to the model.
        guidance
            What pulls cells towards their conditions. By default the model's setting of that name: a little
            classifier-free guidance (a scale of 0.15, which makes up for what decoding blurs), for
            `preset="scdiffusion"` classifiers, for `preset="scld"` nothing.

            - `"none"`: nothing beyond the conditions that the denoiser sees.
            - `"classifier_free"`: the denoiser's own estimate without them, which cells are pushed away from.
            - `"classifier"`: the gradients of classifiers (see :meth:`train_classifier`). The denoiser runs with the
              conditions that are guided by left to the model, and the classifiers alone bring them in.
            - a :class:`~scdiffusion.diffusion.Guidance`.
            - a dict of any of these to their scales, to combine them: `{"classifier_free": 0, "classifier": 1}` is a
              conditional denoiser and classifiers on top. The denoiser then sees what classifier-free guidance covers.
        guidance_scale
            Strength of the guidance. Of `"classifier_free"`: -1 is unconditional, 0 conditional, above 0 sharper;
            1 where `guidance` names it without a scale. Of `"classifier"`: 0 is unconditional, 1 what a perfect
            classifier calls for, above sharper; default 2. One number, or one per condition key; with a dict, other keys are conditions without guidance.
        guidance_interval
            Guide only between these shares of the process, 0 (clean) to 1 (pure noise); `(0, 0.5)`, for instance, is
            the second half of the way. By default always, but `(0, 0.5)` for `preset="scdiffusion"`.
        guidance_rescale
            How far each cell's standard deviation across latents is brought back to what it is without guidance, 0
            (not at all) to 1.
        compose
            How several conditions are brought together; by default the preset's, `"shift"`, or `"joint"` for the papers'.

            - `"joint"`: the denoiser sees all of them, and knows how one acts in the presence of another.
            - `"shift"`: the same, but for combinations that no training cell has. Their cells are drawn as of
              combinations that training cells have and that differ in one condition, and shifted by what this condition
              changes in others. Where cells of a category are given, those of the trained category nearest to them are
              shifted to them, and genes scaled (see the guide, :doc:`/user_guide/unseen`).
            - `"sum"`: the denoiser sees one at a time, and what each changes is summed, a product of experts.
        sampler
            `"dpmpp_2m"`, `"ddim"`, `"ddpm"` or `"euler"`, or a :class:`~scdiffusion.diffusion.Sampler`. By default the
            preset's: `"dpmpp_2m"`, or the papers' own, `"ddpm"`.
        n_steps
            Number of denoising steps; by default the sampler's own, 20 for `"dpmpp_2m"` and 1000 for `"ddpm"`.
        library_size
            Expected total counts, for all cells or per cell; of several modalities a dict by name, of those that are
            not to be drawn. By default drawn with the cell. Log-normalised expression and proteins have none.
        keep_top
            Share of the cells drawn to keep, above 0 and up to 1: more are drawn than asked for, and those are kept that
            look most real to the scorer (see :meth:`train_scorer`). 1 scores cells without dropping any, `"none"` does
            neither. By default the model's setting of that name, `"none"`, or 0.8 for `preset="scld"`. Of few cells the
            share is rounded down: for one cell, two are drawn.
        selection
            `"rank"`: the cells of the highest scores. `"rejection"`: each with a probability that follows the density
            ratio of real to generated cells. Or a :class:`~scdiffusion.diffusion.Selection`.
        select_per_condition
            Whether cells compete only with those of the same conditions and library size, where these are given, which
            keeps the numbers that are asked for; or all with each other, which lets conditions that the model knows
            well crowd out others. Cells of the same `batch_size` compete.
        batch_size
            Cells denoised together. Cells depend on it through the random numbers they get, not on each other.
        rng
            Seed. The same seed gives the same cells.
        output
            Path to write to, `.zarr` or `.h5ad`, for more cells than fit into memory. Finished chunks of `batch_size`
            cells are kept in a folder beside it, whose name ends in `.partial`, until all are there. After an
            interruption the same call goes on from them, and the cells are those of a call without one. The processes
            of `torchrun`, or of torch's process group, share the chunks out among themselves; the cells are the same
            for any number of them.
        progress
            Whether to show a progress bar.

        Returns
        -------
        :class:`~anndata.AnnData` with

        - `X`: counts, int32 CSR, or non-negative log-normalised expression, float32 CSR, `(n_cells, n_genes)`.
        - `obs`: the conditions, with the categories of the training data; missing where left to the model or given as
          a profile. What the decoder must know, the batch and the covariates of a model that :meth:`from_scvi_model`
          made, is drawn from the training cells with the same conditions where it was left to the model. Guidance
          leaves the batch alone. Names are `generated_0`, `generated_1` and so on: join the cells of several calls with
          `anndata.concat(..., index_unique="-")`.
        - `var`: as in training.
        - `obsm["X_scdiffusion"]`: latents, `(n_cells, n_latent)`.
        - `uns["scdiffusion"]`: how the cells were generated; `"values"` says what `X` holds.
        - with `keep_top`, `obs["realness"]`: the scorer's probability that the cell is real, and in `uns` the
          `"kept_fraction"`; where cells of all conditions compete, also `"shares"`, a data frame for each condition key
          with the share of each category `asked` for and `kept`.

        With `output`, `X` and `obsm` stay in that file, and are read where they are sliced: `cells[:100].to_memory()`.

        A model that was set up with `protein_obsm_key` adds proteins in `obsm` under that key, as a data frame where they
        were given as one. A model of a MuData returns a :class:`~mudata.MuData` of the same modalities, with `obs` in each
        of them too, `X` and `var` in them, and `obsm` and `uns` of the whole.

        Raises
        ------
        ValueError
            If the model is not trained, an argument does not fit the model, or a condition has nothing to bring it in: no
            classifier, and a denoiser that does not see conditions; with `keep_top`, if there is no scorer, or it was
            trained on cells of other weights; with `output`, if it was begun by another call. The message says what to
            do.
        FileExistsError
            If `output` exists.
        OSError
            If `output` cannot be written, or another call is writing it. Finished chunks are kept.

        Warns
        -----
        UserWarning
            If no training cell has a combination of conditions that is asked for, a number lies outside the range of
            training, guidance has nothing to guide by, or `output` was begun and is gone on with.

        References
        ----------
        Luo et al. 2024 (scDiffusion), Eq. 5; Wang et al. 2023 (SCLD), Algorithm 2, Eq. 13 and post-guidance. Rescaling: Lin et al.,
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
        if output is not None and self._is_multimodal:
            raise ValueError(
                f"Only models of RNA alone write to a file as they generate, and this one has {', '.join(self.modalities)}. "
                "Leave output out, and generate and write part after part, each with a seed of its own."
            )
        stream = None if output is None else Stream(output)
        sampler = self._read_sampler(sampler)
        seed = seed_sequence(rng if stream is None else stream.entropy(rng))
        compose = self._settings["guidance"]["compose"] if compose is None else compose
        request = self._plan(
            obs_conditions,
            n_cells,
            np.random.default_rng(seed.spawn(1)[0]),
            shifts_unseen=compositions.resolve(compose).shifts_unseen,
        )
        plan, conditions = request.plan, request.conditions
        guide, guidance_provenance = self._read_guide(
            request, guidance, guidance_scale, guidance_interval, guidance_rescale, compose
        )
        library = self._read_library_size(library_size, len(conditions))
        keep_top = self._settings["selection"]["keep_top"] if keep_top is None else keep_top
        cut = read_keep_top(keep_top, selection, select_per_condition)
        # Candidates are denoised together: the chunk that is left of them is smaller.
        n_kept = batch_size if cut is None else math.ceil(batch_size * cut.keep_top)
        if cut is not None:
            self._require_scorer()

        drawing = Drawing(
            conditions,
            sampler,
            n_steps,
            guide,
            self._covariates(plan),
            library,
            shift=request.shift,
            log_factors=request.log_factors,
            cut=cut,
            batch_size=n_kept,
        )
        provenance = {
            **guidance_provenance,
            **self._sampling_provenance(sampler, n_steps, rng),
            "library_size": self._library_provenance(library),
            "batch_size": batch_size,
            **({"profiles": request.profiles} if request.profiles else {}),
        }

        def assemble(chunks: Sequence[Drawn]) -> AnnData | MuData:
            start, stop = chunks[0].rows.start, chunks[-1].rows.stop
            drawn = plan.take(np.concatenate([chunk.asked for chunk in chunks]))
            n_candidates = sum(chunk.n_candidates for chunk in chunks)
            selected = selection_provenance(
                cut, plan.take(np.arange(start, stop)), drawn, n_candidates, self.composition.categories
            )
            obs = self._obs(drawn, start)
            if cut is not None:
                obs[Key.SCORE] = expit(np.concatenate([chunk.log_ratio for chunk in chunks]))
            return self._annotate(
                sp.vstack([chunk.expression for chunk in chunks], format="csr"),
                obs,
                {Key.LATENT: np.concatenate([chunk.latents for chunk in chunks])},
                {**provenance, **selected},
            )

        if stream is None:
            return assemble(list(self._draw_cells(drawing, seed, "Generating", progress=progress)))

        def draw(numbers: Sequence[int]) -> Iterator[AnnData]:
            progress_here = progress and stream.rank == 0
            for chunk in self._draw_cells(drawing, seed, "Generating", progress=progress_here, only=numbers):
                yield assemble([chunk])

        call = {
            "model": self._fingerprint(),
            "conditions": [*plan, {key: profile.numpy() for key, profile in conditions.profiles.items()}],
            "shift": [None if part is None else part.numpy() for part in (request.shift, request.log_factors)],
            "library size": library,
            "setting": [sampler, guide, cut, provenance],
        }
        return stream.write(call, seed.entropy, len(drawing.chunks), draw, joined_provenance)

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

    def _fingerprint(self) -> list[Any]:
        """All of the model that generated cells depend on."""
        weights = {name: tensor.cpu().numpy() for name, tensor in self.module.state_dict().items()}
        return [weights, self.var_.index.tolist(), self.composition_, self.library_range_, self.device.type]

    def _obs(self, plan: Plan, start: int = 0) -> pd.DataFrame:
        composition = self.composition
        columns = {
            key: pd.Categorical.from_codes(column, dtype=self._category_dtype(key))
            for key, column in zip(composition.categories, plan.codes.T, strict=True)
        }
        columns |= dict(zip(composition.continuous, plan.values.T, strict=True))
        return pd.DataFrame(columns, index=[f"generated_{start + i}" for i in range(len(plan.codes))])


def seed_sequence(rng: int | np.random.Generator | None) -> np.random.SeedSequence:
    """Where the seeds of a call come from."""
    if isinstance(rng, np.random.Generator):
        return np.random.SeedSequence(int(rng.integers(2**63)))
    if rng is not None and (isinstance(rng, bool) or int(rng) != rng or rng < 0):
        raise ValueError(f"rng must be a whole number, 0 or more, or a numpy Generator; got {rng!r}.")
    return np.random.SeedSequence(None if rng is None else int(rng))
