"""How `SCDiffusion` generates: conditions to a plan, the plan to latents, latents to counts, counts to AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor
from tqdm.auto import tqdm

from scdiffusion.diffusion import Composition, Guidance, Sampler, samplers
from scdiffusion.model._checks import name_some
from scdiffusion.model._composition import Plan, TrainingComposition
from scdiffusion.model._conditions import beyond_training, fill_from_training, read_conditions, unseen_combinations
from scdiffusion.model._constants import Key
from scdiffusion.model._guidance import Scale, read_guidance
from scdiffusion.model._module import DECODING_BLOCK


class GenerationMixin:
    """Generating cells, and decoding latents."""

    def generate(
        self,
        n_cells: int | None = None,
        obs_conditions: Any = None,
        *,
        guidance: str | Guidance | Mapping[str | Guidance, Scale | None] | None = None,
        guidance_scale: Scale | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        compose: str | Composition = "joint",
        sampler: str | Sampler = "dpmpp_2m",
        n_steps: int | None = None,
        library_size: float | Sequence[float] | None = None,
        batch_size: int = 4096,
        rng: int | np.random.Generator | None = None,
        progress: bool = False,
    ) -> AnnData:
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
              keys, any numbers in place of categories (`{"time": 3.5}`).
            - a data frame with one row per cell.

            A key left out, None or NaN is left to the model.
        guidance
            What pulls cells towards their conditions:

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
            the second half of the way. By default always.
        guidance_rescale
            How far each cell's standard deviation across latents is brought back to what it is without guidance, 0
            (not at all) to 1.
        compose
            `"joint"`: the denoiser sees all conditions together, and knows how one acts in the presence of another.
            `"sum"`: it sees one at a time, and what each changes is summed, a product of experts.
        sampler
            `"dpmpp_2m"`, `"ddim"`, `"ddpm"` or `"euler"`, or a :class:`~scdiffusion.diffusion.Sampler`.
        n_steps
            Number of denoising steps; by default the sampler's own, 20 for `"dpmpp_2m"` and 1000 for `"ddpm"`.
        library_size
            Expected total counts, for all cells or per cell. By default drawn with the cell.
        batch_size
            Cells denoised together. Cells depend on it through the random numbers they get, not on each other.
        rng
            Seed. The same seed gives the same cells.
        progress
            Whether to show a progress bar.

        Returns
        -------
        :class:`~anndata.AnnData` with

        - `X`: counts, int32 CSR, `(n_cells, n_genes)`.
        - `obs`: the conditions, with the categories of the training data; missing where left to the model. A batch
          that was left to the model is drawn from the training cells with the same conditions. Guidance leaves the
          batch alone.
        - `var`: as in training.
        - `obsm["X_scdiffusion"]`: latents, `(n_cells, n_latent)`.
        - `uns["scdiffusion"]`: how the cells were generated.

        Raises
        ------
        ValueError
            If the model is not trained, or an argument does not fit the model; the message lists what does.

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
        sampler = samplers.resolve(sampler)
        seed = np.random.SeedSequence(_entropy(rng))
        plan_rng = np.random.default_rng(seed.spawn(1)[0])
        composition = self.composition
        asked = read_conditions(obs_conditions, n_cells, composition, plan_rng)
        _warn_of_extrapolation(asked, composition)
        plan = fill_from_training(asked, composition, [self.batch_key] if self.batch_key else [], plan_rng)
        conditions = self.module.conditions(torch.from_numpy(plan.codes), torch.from_numpy(plan.values))
        keys = {key: position for position, key in enumerate(composition.keys) if key != self.batch_key}
        guide, guidance_provenance = read_guidance(
            guidance,
            guidance_scale,
            guidance_interval,
            guidance_rescale,
            compose,
            keys=keys,
            asked=[key for key, position in keys.items() if conditions.asked[:, position].any()],
            classifiers=self.classifiers_,
        )
        library = _read_library_size(library_size, len(conditions))

        latents = np.empty((len(conditions), self.module.autoencoder.n_latent), dtype=np.float32)
        blocks = []
        starts = range(0, len(conditions), batch_size)
        with tqdm(total=len(conditions), desc="Generating", unit="cell", disable=not progress) as bar:
            for start, chunk_seed in zip(starts, seed.spawn(len(starts)), strict=True):
                rows = slice(start, start + batch_size)
                generator = torch.Generator(self.device).manual_seed(
                    int(chunk_seed.generate_state(1, np.uint64)[0] >> 1)
                )
                chunk = conditions[rows].to(self.device)
                features = self.module.sample(chunk, sampler, n_steps, generator, guide)
                log_library = self._log_library(features[:, -1], None if library is None else library[rows])
                latents[rows] = features[:, :-1].cpu().numpy()
                batch = chunk.codes[:, -1] if self.batch_key else None
                blocks += self._draw(features[:, :-1], log_library, batch, generator)
                bar.update(len(chunk))

        return AnnData(
            sp.vstack(blocks, format="csr"),
            obs=self._obs(plan),
            var=self.var_.copy(),
            obsm={Key.LATENT: latents},
            uns={
                Key.PROVENANCE: {
                    "version": version("scdiffusion"),
                    **guidance_provenance,
                    "sampler": type(sampler).__name__,
                    "n_steps": sampler.default_n_steps if n_steps is None else n_steps,
                    "library_size": "drawn" if library_size is None else "given",
                    # h5ad files hold no None
                    "rng": int(rng) if isinstance(rng, int | np.integer) else "none",
                    "batch_size": batch_size,
                    "values": "counts",
                }
            },
        )

    @torch.inference_mode()
    def decode(
        self, latents: np.ndarray, *, library_size: float | Sequence[float] | None = None, batch: str | None = None
    ) -> np.ndarray:
        """Expected counts of given latents.

        How a cell is decoded never depends on the cells beside it: `decode(a)` equals the first rows of `decode(a and
        b)` bit for bit.

        Parameters
        ----------
        latents
            Latents as :meth:`get_latent_representation` and :meth:`generate` give them, `(n_cells, n_latent)`.
        library_size
            Expected total counts, for all cells or per cell; by default the training cells' geometric mean.
        batch
            Category of the batch key; by default the largest batch.

        Returns
        -------
        `(n_cells, n_genes)`.
        """
        self._require_trained("decode")
        z = torch.as_tensor(np.asarray(latents), dtype=torch.float32, device=self.device)
        if z.ndim != 2 or z.shape[1] != self.module.autoencoder.n_latent:
            raise ValueError(
                f"latents must be (n_cells, {self.module.autoencoder.n_latent}), as get_latent_representation gives them; "
                f"got {tuple(z.shape)}."
            )
        log_library = self._log_library(torch.zeros(len(z), device=z.device), _read_library_size(library_size, len(z)))
        codes = None
        if self.batch_key:
            column = self.composition.keys.index(self.batch_key)
            totals = np.bincount(self.composition.combinations[:, column], weights=self.composition.n_cells)
            code = self.composition.code(self.batch_key, batch) if batch is not None else int(totals.argmax())
            codes = torch.full((len(z),), code, device=z.device)
        parts = [
            self.module.decode(z[rows], log_library[rows], None if codes is None else codes[rows]).mean.cpu()
            for rows in _blocks(len(z))
        ]
        return torch.cat(parts).numpy() if parts else np.empty((0, self.module.autoencoder.n_genes), np.float32)

    def _require_trained(self, what: str) -> None:
        if not self.is_trained_:
            raise ValueError(f"The model is not trained yet: call model.train() before model.{what}().")

    def _log_library(self, standardised: Tensor, given: np.ndarray | None) -> Tensor:
        """Log library size of cells, from the diffusion or as given; drawn ones stay within the range of training."""
        if given is not None:
            return torch.as_tensor(np.log(given), dtype=torch.float32, device=standardised.device)
        log_library = standardised * self.module.feature_scale[-1] + self.module.feature_mean[-1]
        return log_library.clamp(*np.log(self.library_range_))

    @torch.inference_mode()
    def _draw(
        self, latents: Tensor, log_library: Tensor, batch: Tensor | None, generator: torch.Generator
    ) -> list[sp.csr_matrix]:
        """Draw counts block by block, so that only one block of cells by genes is ever dense."""
        drawn = []
        for rows in _blocks(len(latents)):
            parameters = self.module.decode(latents[rows], log_library[rows], None if batch is None else batch[rows])
            cells, genes, counts = self.module.autoencoder.likelihood.draw(parameters, generator)
            per_cell = torch.bincount(cells, minlength=len(latents[rows]))
            indptr = np.concatenate([[0], per_cell.cumsum(0).cpu().numpy()])
            shape = (len(latents[rows]), self.module.autoencoder.n_genes)
            drawn.append(
                sp.csr_matrix(
                    (counts.to(torch.int32).cpu().numpy(), genes.to(torch.int32).cpu().numpy(), indptr), shape
                )
            )
        return drawn

    def _obs(self, plan: Plan) -> pd.DataFrame:
        composition = self.composition
        columns = {
            key: pd.Categorical.from_codes(column, dtype=self._category_dtype(key))
            for key, column in zip(composition.categories, plan.codes.T, strict=True)
        }
        columns |= dict(zip(composition.continuous, plan.values.T, strict=True))
        return pd.DataFrame(columns, index=pd.Index([f"generated_{i}" for i in range(len(plan.codes))]))


def _blocks(n_cells: int) -> list[slice]:
    return [slice(start, min(start + DECODING_BLOCK, n_cells)) for start in range(0, n_cells, DECODING_BLOCK)]


def _entropy(rng: int | np.random.Generator | None) -> int | None:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if rng is not None and (isinstance(rng, bool) or int(rng) != rng or rng < 0):
        raise ValueError(f"rng must be a whole number, 0 or more, or a numpy Generator; got {rng!r}.")
    return None if rng is None else int(rng)


def _warn_of_extrapolation(plan: Plan, composition: TrainingComposition) -> None:
    messages = [f"{message}: the model extrapolates." for message in beyond_training(plan.values, composition)]
    unseen = unseen_combinations(plan.codes, composition)
    if unseen:
        names = name_some([", ".join(f"{key}={category}" for key, category in row.items()) for row in unseen], 5)
        messages.append(
            f"No training cell has the combination {names}: the model extrapolates from the conditions apart."
        )
    for message in messages:
        warnings.warn(message, UserWarning, stacklevel=3)


def _read_library_size(library_size: float | Sequence[float] | None, n_cells: int) -> np.ndarray | None:
    if library_size is None:
        return None
    sizes = np.asarray(library_size, dtype=np.float64)
    if sizes.ndim > 1 or (sizes.ndim == 1 and len(sizes) != n_cells):
        raise ValueError(f"library_size must be one number or one per cell ({n_cells}); got shape {sizes.shape}.")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError("library_size must hold positive, finite numbers of counts.")
    return np.broadcast_to(sizes, (n_cells,))
