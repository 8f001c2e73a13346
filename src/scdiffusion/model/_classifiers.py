"""Training of the classifiers that guide generation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.model._training import check_max_epochs, default_n_steps, run_settings
from scdiffusion.training import ClassifierStage


class ClassifierMixin:
    """Training of classifiers on the latents of a trained model."""

    def train_classifier(
        self,
        keys: str | Sequence[str] | None = None,
        *,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        precision: str | None = None,
        early_stopping: bool = True,
        classifier_kwargs: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        logger: Any = None,
        progress: bool = True,
        rng: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train a classifier of each condition on noised latents, for `generate(guidance="classifier")`.

        Call it after :meth:`train`, which has done it for `preset="scdiffusion"`; cells are split as there. The
        classifier of a categorical condition gives probabilities, that of a continuous one a normal distribution. A key
        that has a classifier gets a new one.

        Parameters
        ----------
        keys
            One condition key or several; by default all but the batch key.
        max_epochs
            Most epochs of each classifier, 1 or more; by default as many as the number of cells calls for, or as the
            preset's `n_steps` come to.
        accelerator, devices, precision, checkpoint_dir, logger, progress, trainer_kwargs
            As for :meth:`train`.
        early_stopping
            Whether to stop when the loss of held-out cells no longer falls. The weights that were best on them are kept
            in any case.
        classifier_kwargs
            What differs from the preset's: `n_hidden` (256), `dropout` (0.1), `batch_size` (512), `lr` (1e-3),
            `lr_decay` (`"cosine"` or `"linear"`), `weight_decay` (1e-2), `ema_decay` (0.998), `patience` (15 epochs)
            and `n_steps`.
        rng
            Seed.

        Returns
        -------
        None. Updates `history` for each key by

        - `classifier_{key}_train_loss` and `classifier_{key}_validation_loss`: negative log-likelihoods;
        - `classifier_{key}_loss`: held-out loss by level of noise, one column per tenth of the process;
        - `classifier_{key}_accuracy`: the same for the share of cells that are told right, or of a continuous
          condition `classifier_{key}_r2`, the share of its variance that is explained.

        Raises
        ------
        ValueError
            If the model is not trained or has no data, a key is unknown, or `max_epochs` is out of range.
        TypeError
            If a setting does not exist.

        References
        ----------
        Luo et al. 2024 (scDiffusion), section 2.3, with classifiers for half of the timesteps; these are for all.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> model.train_classifier(max_epochs=1, progress=False)
        >>> model.history["classifier_bulk_labels_accuracy"].columns[0]
        '0.0-0.1'
        """
        self._require_trained("train_classifier")
        self._require_data()
        available = self._classifiable_keys()
        keys = available if keys is None else [keys] if isinstance(keys, str) else list(keys)
        if not keys:
            raise ValueError(
                "There is nothing to classify: the model was trained without conditions. Train one with "
                "SCDiffusion.setup_anndata(adata, condition_keys=...)."
            )
        for key in keys:
            if key not in self.composition.keys:
                raise ValueError(f"The model has no condition {key!r}.{did_you_mean(key, available)}")
        check_max_epochs(max_epochs)
        settings = self._training_settings("classifier", classifier_kwargs)
        batch_size, patience, n_steps = (settings.pop(name) for name in ("batch_size", "patience", "n_steps"))
        network = {name: settings.pop(name) for name in ("n_hidden", "dropout")}
        with self._training_session(accelerator, devices, rng):
            loader, validation = self._latent_loaders(self._registered_posteriors(self.adata_manager), batch_size, rng)
            for key in keys:
                position = self.composition.keys.index(key)
                name = f"classifier_{key}"
                stage = ClassifierStage(
                    name,
                    self.module.add_classifier(position, **network).train(),
                    self.module.process,
                    key=position,
                    **settings,
                )
                self.classifiers_ = {**self.classifiers_, key: network}
                for metric in ("train_loss", "validation_loss", "loss", stage.network.score_name):
                    self.history_.pop(f"{name}_{metric}", None)  # of the classifier that this one replaces
                self._run(
                    stage,
                    loader,
                    validation,
                    max_epochs,
                    n_steps or default_n_steps(len(loader.mean)),
                    patience if early_stopping else None,
                    run_settings(accelerator, devices, precision, checkpoint_dir, logger, progress, trainer_kwargs),
                )
                for metric in ("loss", stage.network.score_name):
                    self._join_levels(f"{name}_{metric}", stage.n_levels)

    def _join_levels(self, name: str, n_levels: int) -> None:
        """Put the history of a metric at each level of noise into one data frame."""
        levels = [self.history_.pop(f"{name}_level_{i}", None) for i in range(n_levels)]
        if levels[0] is not None:
            columns = [f"{i / n_levels:.1f}-{(i + 1) / n_levels:.1f}" for i in range(n_levels)]
            self.history_[name] = pd.concat(levels, axis=1).set_axis(columns, axis=1)

    def _classifiable_keys(self) -> list[str]:
        return [key for key in self.composition.keys if key != self.batch_key]

    def _drop_classifiers(self, *, warn: bool) -> None:
        if self.classifiers_ and warn:
            warnings.warn(
                f"The autoencoder is trained further, which changes the latents: the classifiers of "
                f"{name_some(self.classifiers_)} are dropped. Call model.train_classifier() again.",
                UserWarning,
                stacklevel=3,
            )
        self.module.classifiers.clear()
        self.classifiers_ = {}
