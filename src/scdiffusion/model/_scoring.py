"""Training of the scorer, and how real it says that cells look."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from scdiffusion.autoencoders import COUNTS
from scdiffusion.model._conditions import OBSERVED, read_conditions
from scdiffusion.model._constants import Key
from scdiffusion.model._module import SCDiffusionModule
from scdiffusion.model._selection import KEEP_ALL
from scdiffusion.model._training import check_max_epochs, run_settings
from scdiffusion.training import FixedLabelled, LabelledLoader, ScorerStage, expression_source

_EPOCHS = 100


class ScoringMixin:
    """Training of a scorer on real cells and cells of a trained model."""

    def train_scorer(
        self,
        *,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        precision: str | None = None,
        early_stopping: bool = True,
        scorer_kwargs: Mapping[str, Any] | None = None,
        generate_kwargs: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        logger: Any = None,
        progress: bool = True,
        rng: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train a network that tells real cells from generated ones, for `generate(keep_top=...)`.

        Call it after :meth:`train`, which has done it for `preset="scld"`; cells are split as there, and others
        generated. It reads latents. Where cells are drawn as counts, real and generated ones both go through the encoder
        first, and library size and number of genes detected are read too. It knows no conditions.

        A scorer belongs to the weights that drew its generated cells. When these change, :meth:`generate` refuses to
        select by it.

        Parameters
        ----------
        max_epochs
            Most epochs, 1 or more; by default 100, or as many as `n_steps` come to.
        accelerator, devices, precision, checkpoint_dir, logger, progress, trainer_kwargs
            As for :meth:`train`.
        early_stopping
            Whether to stop when the loss of held-out cells no longer falls. The weights that were best on them are kept
            in any case.
        scorer_kwargs
            What differs from the preset's: `n_hidden` (128), `dropout` (0.2), `n_cells` (the most real cells
            to learn from, 20,000), `n_generated_per_real` (4, for `preset="scld"` 1; both kinds weigh as much),
            `batch_size` (256), `lr` (3e-3), `weight_decay` (1e-2), `patience` (20 epochs) and `n_steps`.
        generate_kwargs
            How the generated cells are drawn, as for :meth:`generate`: `sampler`, `n_steps`, `guidance` and what goes
            with it. Pass what cells that are to be selected will be drawn with. Their conditions are those of the
            training cells.
        rng
            Seed.

        Returns
        -------
        None. Updates `history` by `scorer_train_loss` and `scorer_validation_loss`, cross-entropies, and `scorer_auc`, how
        often a held-out real cell is scored above a held-out generated one. At 0.5 it cannot tell them apart, and
        selecting by it does nothing.

        Raises
        ------
        ValueError
            If the model is not trained or has no data, the latents of these were taken over without what they are
            encoded from, or `max_epochs` is out of range.
        TypeError
            If a setting does not exist.

        References
        ----------
        Wang et al. 2023 (SCLD), post-guidance.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> model.train_scorer(max_epochs=2, progress=False)
        >>> cells = model.generate(80, keep_top=0.8, rng=0)
        >>> cells.uns["scdiffusion"]["kept_fraction"]
        0.8
        """
        self._require_trained("train_scorer")
        self._require_data()
        if Key.POSTERIORS in self.adata.obsm:
            raise ValueError(
                "A scorer needs real and generated cells encoded alike, and of this model's cells only the latents that "
                "scvi-tools encoded are known: leave keep_top out, or make the model from a 'SCVI' or 'SCANVI' with counts."
            )
        check_max_epochs(max_epochs)
        settings = self._training_settings("scorer", scorer_kwargs)
        batch_size, patience, n_steps, most, n_per_real = (
            settings.pop(name) for name in ("batch_size", "patience", "n_steps", "n_cells", "n_generated_per_real")
        )
        network = {name: settings.pop(name) for name in ("n_hidden", "dropout")}

        seeds = np.random.default_rng(rng)
        train, held_out = (seeds.permutation(cells)[:most] for cells in (self.train_indices_, self.validation_indices_))
        generated = self.generate(
            n_per_real * (len(train) + len(held_out)), OBSERVED, keep_top=KEEP_ALL, rng=seeds, progress=progress,
            **(generate_kwargs or {}),
        )  # fmt: skip
        cells = np.concatenate([train, held_out])
        told = self._covariates(self._registered_conditions())
        real = self._scored_features(self._expression().take(cells), None if told is None else told[cells])
        told = self._covariates(
            read_conditions(generated.obs[self.covariate_keys], len(generated.obs), self.composition, seeds)
        )
        drawn = self._scored_features(self._generated_expression(generated), told, generated.obsm[Key.LATENT])
        n_real, n_drawn = len(train), n_per_real * len(train)
        loader = LabelledLoader(real[:n_real], drawn[:n_drawn], batch_size, rng)
        validation = FixedLabelled(real[n_real:], drawn[n_drawn:]) if len(held_out) else None
        with self._training_session(accelerator, devices, rng):
            scorer = self.module.add_scorer(**network)
            scorer.set_standardisation(real[:n_real])
            for metric in ("train_loss", "validation_loss", "auc"):
                self.history_.pop(f"scorer_{metric}", None)  # of the scorer that this one replaces
            self.scorer_ = {"network": network, "weights": fingerprint(self.module)}
            self._run(
                ScorerStage(scorer.train(), real_share=1 / (1 + n_per_real), **settings),
                loader,
                validation,
                max_epochs or (None if n_steps else _EPOCHS),
                n_steps,
                patience if early_stopping else None,
                run_settings(accelerator, devices, precision, checkpoint_dir, logger, progress, trainer_kwargs),
            )

    def _require_scorer(self) -> None:
        if self.scorer_ is None:
            raise ValueError("There is no scorer to select cells by: call model.train_scorer(), or leave keep_top out.")
        if self.scorer_["weights"] != fingerprint(self.module):
            raise ValueError(
                "The scorer was trained on cells of other weights than the model has now, and cannot tell what is wrong "
                "with these: call model.train_scorer() again."
            )

    def _scored_features(
        self, expression: sp.csr_matrix, covariates: Tensor | None, latents: np.ndarray | None = None
    ) -> Tensor:
        """What the scorer sees of cells, `(n_cells, n_features + n_library)`, on the CPU.

        Parameters
        ----------
        expression, covariates
            Of the cells.
        latents
            Those that generated cells were decoded from.
        """
        if latents is not None and self.module.autoencoder.likelihood.values != COUNTS and not self.module.n_library:
            return torch.from_numpy(latents)  # their expression is the decoder's mean, and says no more
        expression = sp.csr_matrix(expression, dtype=np.float32)
        mean, _, log_library = self._posteriors(expression_source(expression), covariates)
        device = self.module.feature_mean.device
        features = [self.module.standardise(mean.to(device), log_library.to(device)).cpu()]
        if self.module.n_library:
            parts = [expression[:, columns] for modality, columns in self._columns() if modality.has_library_size]
            n_detected = np.column_stack([np.diff(part.indptr) for part in parts])  # (n_cells, n_library)
            features.append(torch.from_numpy(np.log1p(n_detected)).float())
        return torch.cat(features, 1).nan_to_num()  # a cell without counts has no log library size

    @torch.inference_mode()
    def _log_ratio(self, expression: sp.csr_matrix, covariates: Tensor | None, latents: np.ndarray | None) -> Tensor:
        """Log-ratio of the densities of real and generated cells where these lie, `(n_cells,)`, on the CPU."""
        return self.module.scorer(self._scored_features(expression, covariates, latents).to(self.device)).cpu()


def fingerprint(module: SCDiffusionModule) -> str:
    """What identifies the weights that cells are drawn with."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in module.state_dict().items():
        if not name.startswith(("scorer.", "classifiers.")):
            digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
