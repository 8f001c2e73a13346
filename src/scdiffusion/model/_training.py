"""How `SCDiffusion` is trained: cells split, stages run one after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scvi.model._utils import parse_device_args
from torch import Tensor

from scdiffusion.model._combinations import CombinationMeans
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.networks import Conditions
from scdiffusion.training import (
    LR_DECAYS,
    AutoencoderStage,
    DiffusionStage,
    Expression,
    ExpressionLoader,
    FixedExpression,
    FixedLatents,
    LatentLoader,
    auto_precision,
    fit_stage,
    is_distributed,
    synchronise,
)

STAGES = ("autoencoder", "diffusion", "classifier", "scorer")
_AUTOENCODER_EPOCHS = 100
_LEAST_VALIDATION_CELLS = 20
_ENCODING_BLOCK = 512


class TrainingMixin:
    """Training of all stages on the registered cells."""

    def train(
        self,
        max_epochs: int | Mapping[str, int] | None = None,
        *,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        precision: str | None = None,
        train_size: float = 0.9,
        early_stopping: bool = True,
        autoencoder_kwargs: Mapping[str, Any] | None = None,
        diffusion_kwargs: Mapping[str, Any] | None = None,
        classifier_kwargs: Mapping[str, Any] | None = None,
        scorer_kwargs: Mapping[str, Any] | None = None,
        checkpoint_dir: str | Path | None = None,
        logger: Any = None,
        progress: bool = True,
        rng: int = 0,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the autoencoder, then the diffusion of its latents, then what the model guides and selects by.

        All stages stop when the loss of held-out cells no longer falls, and keep the weights that were best on them,
        also when interrupted. Called again, training goes on from there. Classifiers belong to the latents that they
        were trained on, and are dropped when the autoencoder is trained further. They are a stage here for models
        whose setting `guidance` needs them, as `preset="scdiffusion"` does; for others there is
        :meth:`train_classifier`. The scorer is the last stage for models whose setting `keep_top` needs it, as
        `preset="scld"` does; for others there is :meth:`train_scorer`. An autoencoder that came trained, see
        :meth:`from_scvi_model`, is no stage.

        Parameters
        ----------
        max_epochs
            Most epochs of each stage, or of `{"autoencoder": ..., "diffusion": ...}` and, where they are
            stages, `"classifier"` and `"scorer"`; 0 leaves a stage as it is. By default as many as the number of cells calls for, or as the
            preset's `n_steps` come to. An epoch is one pass over the training cells; it is cut short for more than 400
            minibatches, and repeats cells where there are few.
        accelerator, devices
            Where to train, as for :class:`~lightning.pytorch.Trainer`. With `strategy="ddp"`, several processes share
            the training cells of each epoch, and all end with the same model; `batch_size` is that of each.
        precision
            As for :class:`~lightning.pytorch.Trainer`; by default `"bf16-mixed"` where the processor has
            instructions for it. Generation is always in single precision.
        train_size
            Share of cells to train on; the others are held out for early stopping.
        early_stopping
            Whether to stop before `max_epochs`.
        autoencoder_kwargs
            What differs from the preset's: `batch_size` (128), `lr` (2e-4), `weight_decay` (1e-4), `patience` (3 epochs)
            and `n_steps`; with the default preset also `kl_weight` (0.5) and `dispersion_lr` (1e-3).
        diffusion_kwargs
            What differs from the preset's: `batch_size` (512), `condition_dropout` (0.15), `lr` (3e-3), `lr_decay`
            (`"cosine"` or `"linear"`), `weight_decay` (1e-4), `ema_decay` (0.998), `patience` (15 epochs) and `n_steps`.
        classifier_kwargs, scorer_kwargs
            As for :meth:`train_classifier` and :meth:`train_scorer`.
        checkpoint_dir
            Directory for a checkpoint after each epoch. Given again after a crash, training resumes from it.
        logger
            A Lightning logger to use beside the history.
        progress
            Whether to show progress bars.
        rng
            Seed of the split, the order of cells and all noise.
        trainer_kwargs
            Passed on to :class:`~lightning.pytorch.Trainer`, e.g. `gradient_clip_val`.

        Returns
        -------
        None. Updates `history`: data frames by metric, `autoencoder_train_loss`, `autoencoder_validation_loss`,
        `autoencoder_kl`, `diffusion_train_loss` and `diffusion_validation_loss`; with classifiers and scorer those of
        :meth:`train_classifier` and :meth:`train_scorer`.

        Raises
        ------
        ValueError
            If the model has no data, or an argument is out of range.
        TypeError
            If a setting of a stage does not exist.

        Examples
        --------
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
        >>> model = scd.SCDiffusion(adata)
        >>> model.train(max_epochs=1, progress=False)
        >>> sorted(model.history)[0]
        'autoencoder_kl'
        """
        if not 0 < train_size <= 1:
            raise ValueError(f"train_size must be above 0 and at most 1; got {train_size!r}.")
        self._require_data()
        epochs = _read_epochs(max_epochs, self._stages())
        for stage, given, method in (
            ("classifier", classifier_kwargs, "guide by classifiers unless asked: call model.train_classifier(...)."),
            ("scorer", scorer_kwargs, "select by scores unless asked: call model.train_scorer(...)."),
        ):
            if given and stage not in epochs:
                raise ValueError(f"This model does not {method}")
        if autoencoder_kwargs and "autoencoder" not in epochs:
            raise ValueError(
                "The autoencoder of this model came trained and stays as it is: leave autoencoder_kwargs out."
            )
        autoencoder_settings = self._training_settings("autoencoder", autoencoder_kwargs)
        diffusion_settings = self._training_settings("diffusion", diffusion_kwargs)
        self._training_settings("classifier", classifier_kwargs)
        self._training_settings("scorer", scorer_kwargs)
        common = run_settings(accelerator, devices, precision, checkpoint_dir, logger, progress, trainer_kwargs)
        trains_classifiers = epochs.get("classifier", 0) != 0
        with self._training_session(accelerator, devices, rng):
            self._split_cells(train_size, np.random.default_rng(rng))
            if epochs.get("autoencoder", 0) != 0:
                self._drop_classifiers(warn=not trains_classifiers)
                self._train_autoencoder(
                    epochs["autoencoder"], early_stopping, autoencoder_settings, common, np.random.default_rng(rng)
                )
            if epochs["diffusion"] != 0:
                self._train_diffusion(epochs["diffusion"], early_stopping, diffusion_settings, common, rng)
        missing = [key for key in self._classifiable_keys() if key not in self.classifiers_]
        if trains_classifiers and missing and self.is_trained_:
            self.train_classifier(
                missing, max_epochs=epochs["classifier"], early_stopping=early_stopping,
                classifier_kwargs=classifier_kwargs, rng=rng, **common,
            )  # fmt: skip
        if epochs.get("scorer", 0) != 0 and self.is_trained_:
            self.train_scorer(
                max_epochs=epochs["scorer"], early_stopping=early_stopping, scorer_kwargs=scorer_kwargs, rng=rng,
                **common,
            )  # fmt: skip

    def _stages(self) -> list[str]:
        """What there is to train: an autoencoder that came trained is frozen."""
        is_trained = {
            "autoencoder": not any(weights.requires_grad for weights in self.module.autoencoder.parameters()),
            "classifier": not self._guides_by_classifiers,
            "scorer": not self._selects_by_scores,
        }
        return [stage for stage in STAGES if not is_trained.get(stage)]

    def _require_data(self) -> None:
        if self.adata is None:
            raise ValueError(
                "The model was loaded without data. Load it with load(dir, adata=adata) to train it further."
            )
        self._validate_anndata(self.adata)

    @contextmanager
    def _training_session(self, accelerator: str, devices: Any, rng: int) -> Iterator[None]:
        """Fix the seed for a while, leaving the global random state alone, and prepare data on the CPU."""
        self.to_device("cpu")  # Lightning moves networks and minibatches
        # Not every device there is, which would wake them all, nor any before Lightning forks.
        used = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
        with torch.random.fork_rng(devices=used):
            torch.manual_seed(rng)
            yield
        _, _, device = parse_device_args(accelerator, devices, return_device="torch")
        if is_distributed() and device.type == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())  # where Lightning has put this process
        self.to_device(device)  # Lightning leaves networks on the CPU; cells are generated where training was
        synchronise(self.module)

    def _training_settings(self, stage: str, given: Mapping[str, Any] | None) -> dict[str, Any]:
        """The preset's settings of a stage, with some of them overridden."""
        settings = self._settings[f"{stage}_training"]
        unknown = [name for name in given or {} if name not in settings]
        if unknown:
            raise TypeError(f"{stage}_kwargs has no {unknown[0]!r}.{did_you_mean(unknown[0], settings)}")
        settings = {**settings, **(given or {})}
        if settings.get("lr_decay", "cosine") not in LR_DECAYS:
            raise ValueError(f"Unknown lr_decay {settings['lr_decay']!r}. Available: {', '.join(LR_DECAYS)}.")
        return settings

    def _split_cells(self, train_size: float, rng: np.random.Generator) -> None:
        """Choose the held-out cells, once for the life of the model."""
        if self.train_indices_ is not None:
            return
        n_cells = self.adata.n_obs
        n_validation = 0 if train_size == 1 else max(_LEAST_VALIDATION_CELLS, round((1 - train_size) * n_cells))
        order = rng.permutation(n_cells)
        self.validation_indices_ = np.sort(order[:n_validation])
        self.train_indices_ = np.sort(order[n_validation:])
        self.test_indices_ = np.empty(0, dtype=np.int64)

    def _train_autoencoder(
        self,
        max_epochs: int | None,
        early_stopping: bool,
        settings: dict[str, Any],
        trainer_kwargs: dict[str, Any],
        rng: np.random.Generator,
    ) -> None:
        batch_size, patience, n_steps = (settings.pop(name) for name in ("batch_size", "patience", "n_steps"))
        expression, batch = self._expression(), self._covariates(self._registered_conditions())
        batch = None if batch is None else batch.numpy()

        seed = int(rng.integers(2**31))
        train = ExpressionLoader(expression, self.train_indices_, batch, batch_size, seed)
        validation = None
        if len(self.validation_indices_):
            validation = FixedExpression(expression, self.validation_indices_, batch, batch_size)
        if "autoencoder_train_loss" not in (self.history_ or {}):
            cells = self._sample(rng, self.train_indices_)
            self.module.autoencoder.initialise(expression.take(cells), self._labels()[cells], rng)
        stage = AutoencoderStage(self.module.autoencoder.train(), **settings)
        self._run(
            stage, train, validation, max_epochs or (None if n_steps else _AUTOENCODER_EPOCHS), n_steps,
            patience if early_stopping else None, trainer_kwargs,
        )  # fmt: skip
        cells = self._sample(rng)
        batch = None if batch is None else batch[cells]
        self.module.autoencoder.cpu().calibrate(expression.take(cells), batch, rng)

    def _train_diffusion(
        self,
        max_epochs: int | None,
        early_stopping: bool,
        settings: dict[str, Any],
        trainer_kwargs: dict[str, Any],
        rng: int,
    ) -> None:
        batch_size, patience, n_steps = (settings.pop(name) for name in ("batch_size", "patience", "n_steps"))
        posteriors = self._registered_posteriors(self.adata_manager)
        values = torch.from_numpy(self._registered_conditions().values)
        train = torch.from_numpy(self.train_indices_)
        self.module.set_standardisation(*(part[train] for part in (*posteriors, values)))
        features = self.module.standardise(posteriors[0], posteriors[2])
        self.combination_means_ = CombinationMeans.from_cells(self._labels(), features).to_dict()
        loader, validation = self._latent_loaders(posteriors, batch_size, rng)
        del posteriors, features  # of a million cells, a good part of the memory
        stage = DiffusionStage(self.module.denoiser.train(), self.module.process, **settings)
        self.is_trained_ = True  # also an interrupted diffusion keeps its best weights
        self._run(
            stage, loader, validation, max_epochs, n_steps or default_n_steps(len(loader.mean)),
            patience if early_stopping else None, trainer_kwargs,
        )  # fmt: skip

    def _latent_loaders(
        self, posteriors: tuple[Tensor, Tensor, Tensor], batch_size: int, rng: int
    ) -> tuple[LatentLoader, FixedLatents | None]:
        """Standardised latents of the training cells, and of the held-out ones if there are any."""
        conditions = self.module.conditions(*map(torch.from_numpy, self._registered_conditions()))

        def standardised(cells: np.ndarray) -> tuple[Tensor, Tensor, Conditions]:
            rows = torch.from_numpy(cells)
            mean, log_variance, log_library = (part[rows] for part in posteriors)
            # The library size of a cell is observed: only the latents have a posterior.
            scale = torch.cat([log_variance.mul_(0.5).exp_(), torch.zeros_like(log_library)], 1)
            return self.module.standardise(mean, log_library), scale.div_(self.module.feature_scale), conditions[rows]

        loader = LatentLoader(*standardised(self.train_indices_), batch_size, rng)
        if not len(self.validation_indices_):
            return loader, None
        return loader, FixedLatents(*standardised(self.validation_indices_), self.module.process.n_timesteps)

    def _run(
        self,
        stage: Any,
        train: Any,
        validation: Any,
        max_epochs: int | None,
        n_steps: int | None,
        patience: int | None,
        kwargs: dict[str, Any],
    ) -> None:
        history = self.history_ or {}
        # Not of classifiers, whose names have a second part: each is trained once.
        stage.logged = {key: frame[key].to_dict() for key, frame in history.items() if key.split("_")[0] == stage.name}
        try:
            fit_stage(stage, train, validation, max_epochs=max_epochs, n_steps=n_steps, patience=patience, **kwargs)
        finally:  # an interrupted stage keeps its best weights, and so its history
            self.module.eval()
            logged = {key: pd.Series(values, dtype=float).rename_axis("epoch") for key, values in stage.logged.items()}
            self.history_ = {**history, **{key: values.to_frame(key) for key, values in logged.items()}}

    @torch.inference_mode()
    def _posteriors(self, expression: Expression, covariates: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Means and log-variances of the latents of all cells, and their log library sizes, on the CPU."""
        n_cells, n_latent = expression.shape[0], self.module.autoencoder.n_latent
        with torch.inference_mode(False):
            widths = n_latent, n_latent, self.module.n_library
            mean, log_variance, log_library = (torch.empty(n_cells, n) for n in widths)
        start = 0
        for block in expression.blocks():
            for first in range(0, block.shape[0], _ENCODING_BLOCK):
                x = torch.from_numpy(block[first : first + _ENCODING_BLOCK].toarray()).to(self.device)
                cells = slice(start, start + len(x))
                posterior = self.module.inference(x, None if covariates is None else covariates[cells].to(self.device))
                mean[cells], log_variance[cells] = posterior["mean"], posterior["log_variance"]
                log_library[cells] = posterior["library_size"].log()
                start += len(x)
        return mean, log_variance, log_library


def run_settings(
    accelerator: str,
    devices: Any,
    precision: str | None,
    checkpoint_dir: str | Path | None,
    logger: Any,
    progress: bool,
    trainer_kwargs: Mapping[str, Any],
) -> dict[str, Any]:
    """What every stage is run with, as :func:`~scdiffusion.training.fit_stage` takes it."""
    return {
        "accelerator": accelerator,
        "devices": devices,
        "precision": precision or auto_precision(accelerator),
        "checkpoint_dir": checkpoint_dir,
        "logger": logger,
        "progress": progress,
        **trainer_kwargs,
    }


def check_max_epochs(max_epochs: int | None) -> None:
    """Refuse a number of epochs that trains nothing; for stages that are trained by a call of their own."""
    if max_epochs is not None and (max_epochs != int(max_epochs) or max_epochs < 1):
        raise ValueError(f"max_epochs must be a whole number, 1 or more; got {max_epochs!r}.")


def default_n_steps(n_cells: int) -> float:
    """Steps of a stage on the latents of so many cells."""
    return np.clip(25 * math.sqrt(n_cells), 600, 20_000)


def _read_epochs(max_epochs: int | Mapping[str, int] | None, stages: Sequence[str]) -> dict[str, int | None]:
    if isinstance(max_epochs, Mapping):
        unknown = [name for name in max_epochs if name not in stages]
        if unknown:
            raise ValueError(f"max_epochs has no stage {unknown[0]!r}. The stages are {name_some(stages)}.")
        epochs = {stage: max_epochs.get(stage) for stage in stages}
    else:
        epochs = dict.fromkeys(stages, max_epochs)
    for stage, number in epochs.items():
        if number is not None and (number != int(number) or number < 0):
            raise ValueError(f"max_epochs of the {stage} must be a whole number, 0 or more; got {number!r}.")
    return epochs
