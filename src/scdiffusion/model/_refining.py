"""How `SCDiffusion` generates from real cells: noised to a level of the process, and denoised from there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from torch import Tensor

from scdiffusion.diffusion import Sampler
from scdiffusion.model._composition import Plan
from scdiffusion.model._conditions import OBSERVED, read_conditions
from scdiffusion.model._constants import Key
from scdiffusion.model._drawing import Drawing
from scdiffusion.model._generation import seed_sequence
from scdiffusion.model._guidance import Methods, Scale
from scdiffusion.model._latents import LibrarySize
from scdiffusion.model._lazy import as_anndata
from scdiffusion.model._messages import name_some
from scdiffusion.training import expression_source


class RefiningMixin:
    """Generating from real cells."""

    def refine(
        self,
        adata: AnnData | MuData | None = None,
        level: float = 0.3,
        *,
        obs_conditions: Any = OBSERVED,
        guidance: Methods | None = None,
        guidance_scale: Scale | None = None,
        sampler: str | Sampler | None = None,
        n_steps: int | None = None,
        library_size: LibrarySize = None,
        batch_size: int = 4096,
        rng: int | np.random.Generator | None = None,
        progress: bool = False,
    ) -> AnnData | MuData:
        """Noise cells to a level of the process and denoise them: what they look like to the model.

        What distinguishes a cell from others by less than the noise is drawn anew, given the rest and its conditions.
        Low levels bring cells of poor quality nearer to good ones; high levels leave little of them but the conditions.
        A refined cell is one draw of what it may be: for a best guess, average the latents of several.

        Parameters
        ----------
        adata
            Cells with the genes of the training data, and expression in the same layer; by default the training cells.
        level
            Share of the process to noise the cells by, above 0 (their reconstruction) and up to 1 (nothing is left of
            them, as in :meth:`generate`). How noisy a level is depends on the schedule: under the default one, the
            signal has as much variance as the noise at 0.5.
        obs_conditions
            What the cells are to be. `"observed"`: what `adata.obs` says; a missing value or column is left to the
            model. Else as for :meth:`generate`, one row per cell or profiles. Where the denoiser sees no conditions, as
            with `preset="scdiffusion"`, they take effect through guidance by classifiers, and None does without.
        guidance, guidance_scale, sampler, n_steps
            As for :meth:`generate`.
        library_size
            As for :meth:`generate`. By default that of the cell, denoised with it, so that
            shallow cells stay shallow.
        batch_size, rng, progress
            As for :meth:`generate`.

        Returns
        -------
        Cells under their names, and otherwise as :meth:`generate` returns them.

        Raises
        ------
        ValueError
            If the model is not trained, genes or counts are missing, nothing brings a condition in, or an argument does
            not fit.

        References
        ----------
        Luo et al. 2024 (scDiffusion), discussion. Meng et al., *SDEdit: Guided Image Synthesis and Editing with
        Stochastic Differential Equations*, ICLR 2022.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> refined = model.refine(adata[:5], level=0.2, library_size=2000, rng=0)
        >>> bool((refined.obs_names == adata.obs_names[:5]).all())
        True
        """
        self._require_trained("refine")
        sampler = self._read_sampler(sampler)
        self.module.process.schedule.level_to_timestep(level)
        adata = self._cells_to_start_from(adata)
        library = self._read_library_size(library_size, adata.n_obs)
        seed = seed_sequence(rng)
        planning = np.random.default_rng(seed.spawn(1)[0])
        if isinstance(obs_conditions, str) and obs_conditions == OBSERVED:
            obs_conditions = adata.obs[[key for key in self.composition.keys if key in adata.obs]]
        request = self._plan(obs_conditions, adata.n_obs, planning)
        plan = request.plan
        guide, guidance_provenance = self._read_guide(request, guidance, guidance_scale)

        drawing = Drawing(
            request.conditions,
            sampler,
            n_steps,
            guide,
            covariates=self._covariates(plan),
            library=library,
            origin=adata.X,
            origin_covariates=self._observed_covariates(adata.obs, plan),
            level=level,
            batch_size=batch_size,
        )
        chunks = list(self._draw_cells(drawing, seed, "Refining", progress=progress))

        return self._annotate(
            sp.vstack([chunk.expression for chunk in chunks], format="csr"),
            self._obs(plan).set_axis(adata.obs_names),
            {Key.LATENT: np.concatenate([chunk.latents for chunk in chunks])},
            {
                **guidance_provenance,
                **self._sampling_provenance(sampler, n_steps, rng),
                "level": float(level),
                "library_size": self._library_provenance(library),
                "batch_size": batch_size,
            },
        )

    def _cells_to_start_from(self, adata: AnnData | MuData | None) -> AnnData:
        """A new AnnData of the features of training, in their order, with their expression in `X`, checked."""
        if adata is None:
            self._require_data()
        adata = self.adata if adata is None else as_anndata(adata)
        if not adata.n_obs:
            raise ValueError("adata holds no cells.")
        blocks = []
        for name, (part, expression) in self._checked_parts_of(adata).items():
            genes, of = self.modalities[name].features, f" of {name!r}" if self._is_multimodal else ""
            missing = genes[~genes.isin(part.var_names)]
            if len(missing):
                raise ValueError(
                    f"adata lacks {len(missing)} of the {len(genes)} genes{of} that the model was trained on: "
                    f"{name_some(missing, 5)}. Its var_names begin with {name_some(part.var_names[:3])}."
                )
            blocks.append(expression.take(np.arange(part.n_obs))[:, part.var_names.get_indexer(genes)])
        return AnnData(sp.hstack(blocks, format="csr"), obs=self._obs_of(adata).copy())

    def _observed_covariates(self, obs: pd.DataFrame, plan: Plan) -> Tensor | None:
        """What the encoder is told of cells: what `obs` says, and where it does not, what they are to become."""
        if not self.module.autoencoder.encodes_covariates:
            return None
        known = obs[[key for key in self.covariate_keys if key in obs]]
        codes, values = read_conditions(known, len(obs), self.composition, np.random.default_rng(0))
        return self._covariates(
            Plan(np.where(codes < 0, plan.codes, codes), np.where(np.isnan(values), plan.values, values))
        )

    def _features(self, expression: sp.csr_matrix, covariates: Tensor | None, generator: torch.Generator) -> Tensor:
        """What the diffusion sees of cells: a sample of each posterior and library sizes, standardised."""
        posteriors = self._posteriors(expression_source(expression), covariates)
        mean, log_variance, log_library = (part.to(self.device) for part in posteriors)
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        return self.module.standardise(mean + (0.5 * log_variance).exp() * noise, log_library)

    def _draw_expression(
        self,
        features: Tensor,
        covariates: Tensor | None,
        generator: torch.Generator,
        library: np.ndarray | None = None,
        log_factors: Tensor | None = None,
    ) -> sp.csr_matrix:
        """Expression drawn from features of cells, `(n_cells, n_genes)`; `log_factors` as for :meth:`_draw`."""
        latents, log_library = self.module.split(features)
        log_library = self._log_library(log_library, library)
        return sp.vstack(self._draw(latents, log_library, covariates, generator, log_factors), format="csr")

    def _generator(self, rng: np.random.Generator) -> torch.Generator:
        """Source of randomness on the model's device, seeded by the next number of `rng`."""
        return torch.Generator(self.device).manual_seed(int(rng.integers(2**63)))
