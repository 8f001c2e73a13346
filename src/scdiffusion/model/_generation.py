"""How `SCDiffusion` generates: conditions to codes, codes to latents, latents to counts, counts to AnnData."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from torch import Tensor
from tqdm.auto import tqdm

from scdiffusion.diffusion import Sampler, classifier_free, samplers
from scdiffusion.model._checks import did_you_mean, name_some
from scdiffusion.model._conditions import (
    LEFT_TO_MODEL,
    TrainingComposition,
    fill_from_training,
    read_conditions,
    unseen_combinations,
)
from scdiffusion.model._constants import Key
from scdiffusion.model._module import DECODING_BLOCK
from scdiffusion.model._profiles import take_profiles
from scdiffusion.networks import AS_GIVEN, MeanExpressionConditions

GUIDANCES = ("classifier_free",)


class GenerationMixin:
    """Generating cells, and decoding latents."""

    def generate(
        self,
        n_cells: int | None = None,
        obs_conditions: Any = None,
        *,
        guidance: str | None = None,
        guidance_scale: float | Mapping[str, float] | None = None,
        sampler: str | Sampler | None = None,
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
              cells by category (`{"cell_type": {"B cell": 500, "NK": 200}}`), or one category per cell. With
              `condition_encoder="mean_expression"` also a profile for all cells, of a category that need not have been
              trained on: an `AnnData` of cells of it, or their mean log-normalised expression as a Series by gene.
            - a data frame with one row per cell.

            A key left out, None or NaN is left to the model.
        guidance
            `"classifier_free"` pushes cells towards their conditions, away from the unconditional model.
        guidance_scale
            Strength w of the guidance: -1 is unconditional, 0 conditional, above 0 sharper. One number, or one per
            condition key. Default 1 where there is guidance.
        sampler
            `"dpmpp_2m"`, `"ddim"`, `"ddpm"` or `"euler"`, or a :class:`~scdiffusion.diffusion.Sampler`. By default the
            preset's: `"dpmpp_2m"`, or the papers' own, `"ddpm"`.
        n_steps
            Number of denoising steps; by default the sampler's own, 20 for `"dpmpp_2m"` and 1000 for `"ddpm"`.
        library_size
            Expected total counts, for all cells or per cell. By default drawn with the cell. Models of log-normalised
            expression have none.
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
        - `var`: as in training.
        - `obsm["X_scdiffusion"]`: latents, `(n_cells, n_latent)`.
        - `uns["scdiffusion"]`: how the cells were generated; `"values"` says what `X` holds.

        Raises
        ------
        ValueError
            If the model is not trained, or an argument does not fit the model; the message lists what does.

        Warns
        -----
        UserWarning
            If no training cell has a combination of conditions that is asked for.

        References
        ----------
        Luo et al. 2024 (scDiffusion); Wang et al. 2023 (SCLD), Algorithm 2 and Eq. 13.

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
        sampler = self._preset_sampler() if sampler is None else samplers.resolve(sampler)
        scales = self._read_guidance(guidance, guidance_scale)
        seed = np.random.SeedSequence(_entropy(rng))
        plan_rng = np.random.default_rng(seed.spawn(1)[0])
        composition = self.composition
        obs_conditions, profiles = take_profiles(obs_conditions, self.var_.index, self.registry_["setup_args"])
        asked = read_conditions(obs_conditions, n_cells, composition, plan_rng)
        _warn_of_unseen(asked, composition)
        filled = fill_from_training(asked, composition, [self.batch_key] if self.batch_key else [], plan_rng)
        codes = filled.copy()
        codes[:, list(profiles)] = AS_GIVEN
        library = self._read_library_size(library_size, len(codes))

        latents = np.empty((len(codes), self.module.autoencoder.n_latent), dtype=np.float32)
        blocks = []
        starts = range(0, len(codes), batch_size)
        bar = tqdm(total=len(codes), desc="Generating", unit="cell", disable=not progress)
        with bar, self._given(profiles):
            for start, chunk_seed in zip(starts, seed.spawn(len(starts)), strict=True):
                rows = slice(start, start + batch_size)
                generator = torch.Generator(self.device).manual_seed(
                    int(chunk_seed.generate_state(1, np.uint64)[0] >> 1)
                )
                chunk_codes = torch.from_numpy(codes[rows]).to(self.device)
                features = self._sample(chunk_codes, sampler, n_steps, scales, generator)
                z, log_library = self.module.split(features)
                log_library = self._log_library(log_library, None if library is None else library[rows])
                latents[rows] = z.cpu().numpy()
                blocks += self._draw(z, log_library, self._batch_of(chunk_codes), generator)
                bar.update(len(chunk_codes))

        return AnnData(
            sp.vstack(blocks, format="csr"),
            obs=self._obs(filled),
            var=self.var_.copy(),
            obsm={Key.LATENT: latents},
            uns={
                Key.PROVENANCE: {
                    **_provenance(guidance, guidance_scale, sampler, n_steps, rng, batch_size),
                    "library_size": ("drawn" if library is None else "given") if self.module.n_library else "none",
                    "values": self.module.autoencoder.likelihood.values,
                    **({"profiles": [self.condition_keys[i] for i in profiles]} if profiles else {}),
                }
            },
        )

    @torch.inference_mode()
    def decode(
        self, latents: np.ndarray, *, library_size: float | Sequence[float] | None = None, batch: str | None = None
    ) -> np.ndarray:
        """Expected counts, or log-normalised expression, of given latents.

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
        _, typical = self.module.split(torch.zeros((len(z), self.module.n_features), device=z.device))
        log_library = self._log_library(typical, self._read_library_size(library_size, len(z)))
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

    def _read_guidance(
        self, guidance: str | None, scale: float | Mapping[str, float] | None
    ) -> float | dict[int, float] | None:
        """The scale as a number, or by the position of the condition key; None without guidance."""
        if guidance is None:
            if scale is not None:
                raise ValueError("guidance_scale needs guidance: pass guidance='classifier_free'.")
            return None
        if guidance not in GUIDANCES:
            raise ValueError(f"Unknown guidance {guidance!r}.{did_you_mean(guidance, GUIDANCES)}")
        if not self.composition.keys:
            raise ValueError(
                "Guidance needs conditions, and the model was trained without. Train one with "
                "SCDiffusion.setup_anndata(adata, condition_keys=...)."
            )
        scales = {None: 1.0} if scale is None else dict(scale) if isinstance(scale, Mapping) else {None: scale}
        for key, value in scales.items():
            if key is not None and key not in self.composition.keys:
                raise ValueError(f"guidance_scale names {key!r}.{did_you_mean(key, self.composition.keys)}")
            if not value >= -1:
                raise ValueError(f"guidance_scale must be -1 (unconditional) or more; got {value!r}.")
        return float(scales[None]) if None in scales else {self.composition.keys.index(k): v for k, v in scales.items()}

    @torch.inference_mode()
    def _sample(
        self,
        codes: Tensor,
        sampler: Sampler,
        n_steps: int | None,
        scales: float | dict[int, float] | None,
        generator: torch.Generator,
    ) -> Tensor:
        def guide(denoise: Callable[..., Tensor], x_t: Tensor, t: Tensor) -> Tensor:
            conditional = denoise(x_t, t, codes)
            if not isinstance(scales, dict):
                return classifier_free(conditional, denoise(x_t, t, torch.full_like(codes, LEFT_TO_MODEL)), scales)
            guided = conditional
            for column, scale in scales.items():
                without = codes.clone()
                without[:, column] = LEFT_TO_MODEL
                guided = guided + scale * (conditional - denoise(x_t, t, without))
            return guided

        return self.module.sample(codes, sampler, n_steps, generator, guide=None if scales is None else guide)

    def _preset_sampler(self) -> Sampler:
        settings = dict(self._settings["sampling"])
        return samplers.resolve(settings.pop("sampler"), **settings)

    def _given(self, profiles: Mapping[int, Tensor]) -> AbstractContextManager[None]:
        """Within it, the condition encoder knows the profiles that were asked for."""
        if not profiles:
            return nullcontext()
        encoder = self.module.denoiser.condition_encoder
        if not isinstance(encoder, MeanExpressionConditions):
            raise ValueError(
                "The model knows its categories by name only and cannot read a profile. Train one that knows them by "
                "their mean expression: SCDiffusion(adata, condition_encoder='mean_expression')."
            )
        return encoder.given({position: profile.to(self.device) for position, profile in profiles.items()})

    def _read_library_size(self, library_size: float | Sequence[float] | None, n_cells: int) -> np.ndarray | None:
        if library_size is None:
            return None
        if not self.module.n_library:
            raise ValueError("This model's log-normalised expression has no library size: leave library_size out.")
        sizes = np.asarray(library_size, dtype=np.float64)
        if sizes.ndim > 1 or (sizes.ndim == 1 and len(sizes) != n_cells):
            raise ValueError(f"library_size must be one number or one per cell ({n_cells}); got shape {sizes.shape}.")
        if not (np.isfinite(sizes) & (sizes > 0)).all():
            raise ValueError("library_size must hold positive, finite numbers of counts.")
        return np.broadcast_to(sizes, (n_cells,))

    def _log_library(self, drawn: Tensor, given: np.ndarray | None) -> Tensor:
        """Log library sizes of cells, `(n_cells, n_library)`, as given or drawn, these within the range of training."""
        if given is not None:
            return torch.as_tensor(np.log(given), dtype=torch.float32, device=drawn.device)[:, None]
        return drawn.clamp(*np.log(self.library_range_))

    def _batch_of(self, codes: Tensor) -> Tensor | None:
        return codes[:, self.composition.keys.index(self.batch_key)] if self.batch_key else None

    @torch.inference_mode()
    def _draw(
        self, latents: Tensor, log_library: Tensor, batch: Tensor | None, generator: torch.Generator
    ) -> list[sp.csr_matrix]:
        """Draw expression block by block, so that only one block of cells by genes is ever dense."""
        drawn, likelihood = [], self.module.autoencoder.likelihood
        for rows in _blocks(len(latents)):
            parameters = self.module.decode(latents[rows], log_library[rows], None if batch is None else batch[rows])
            cells, genes, values = likelihood.draw(parameters, generator)
            per_cell = torch.bincount(cells, minlength=len(latents[rows]))
            indptr = np.concatenate([[0], per_cell.cumsum(0).cpu().numpy()])
            shape = (len(latents[rows]), self.module.autoencoder.n_genes)
            entries = values.to(likelihood.dtype).cpu().numpy(), genes.to(torch.int32).cpu().numpy()
            drawn.append(sp.csr_matrix((*entries, indptr), shape))
        return drawn

    def _obs(self, codes: np.ndarray) -> pd.DataFrame:
        columns = {
            key: pd.Categorical.from_codes(column, dtype=self._category_dtype(key))
            for key, column in zip(self.composition.keys, codes.T, strict=True)
        }
        return pd.DataFrame(columns, index=pd.Index([f"generated_{i}" for i in range(len(codes))]))


def _blocks(n_cells: int) -> list[slice]:
    return [slice(start, min(start + DECODING_BLOCK, n_cells)) for start in range(0, n_cells, DECODING_BLOCK)]


def _entropy(rng: int | np.random.Generator | None) -> int | None:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**63))
    if rng is not None and (isinstance(rng, bool) or int(rng) != rng or rng < 0):
        raise ValueError(f"rng must be a whole number, 0 or more, or a numpy Generator; got {rng!r}.")
    return None if rng is None else int(rng)


def _warn_of_unseen(codes: np.ndarray, composition: TrainingComposition) -> None:
    unseen = unseen_combinations(codes, composition)
    if unseen:
        names = name_some([", ".join(f"{key}={category}" for key, category in row.items()) for row in unseen], 5)
        warnings.warn(
            f"No training cell has the combination {names}: the model extrapolates from the conditions apart.",
            UserWarning,
            stacklevel=3,
        )


def _provenance(
    guidance: str | None,
    guidance_scale: float | Mapping[str, float] | None,
    sampler: Sampler,
    n_steps: int | None,
    rng: Any,
    batch_size: int,
) -> dict[str, Any]:
    """What the cells were generated with; h5ad files hold no None, which becomes "none" here."""
    default_scale = {} if guidance is None else {"guidance_scale": 1.0}
    return {
        "version": version("scdiffusion"),
        "guidance": guidance or "none",
        **(default_scale if guidance_scale is None else {"guidance_scale": guidance_scale}),
        "sampler": type(sampler).__name__,
        "n_steps": sampler.default_n_steps if n_steps is None else n_steps,
        "rng": int(rng) if isinstance(rng, int | np.integer) else "none",
        "batch_size": batch_size,
    }
