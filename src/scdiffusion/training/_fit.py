"""Running a stage with Lightning."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger

from ._callbacks import History, KeepBest, Progress
from ._checkpoints import WholeCheckpoints, check_checkpoint
from ._loaders import RandomLoader
from ._stages import Stage


def fit_stage(
    stage: Stage,
    train_batches: RandomLoader,
    validation_batches: Iterable | None,
    *,
    max_epochs: int | None,
    n_steps: float | None = None,
    patience: int | None,
    progress: bool = True,
    checkpoint_dir: str | Path | None = None,
    logger: Logger | None = None,
    callbacks: list[Any] | None = None,
    **trainer_kwargs: Any,
) -> None:
    """Train a stage, keep its best weights, and log its history behind what the stage has logged before.

    Parameters
    ----------
    stage
        What to train.
    train_batches, validation_batches
        Loaders; without validation the last weights are kept. Where several processes train together, each is given its
        part of the training cells and all of the held-out ones.
    max_epochs
        Most passes over `train_batches`; by default as many as `n_steps` come to.
    n_steps
        Most steps, rounded up to whole epochs.
    patience
        Validations without improvement before training stops.
    progress
        Whether to show a progress bar.
    checkpoint_dir
        Where to write a checkpoint after each epoch, and where to look for one to go on from.
    logger, callbacks, trainer_kwargs
        Passed on to :class:`~lightning.pytorch.Trainer`, beside our own. Of `enable_progress_bar`, False is heeded.

    Raises
    ------
    ValueError
        If there is a checkpoint that cannot be gone on with.
    OSError
        If a checkpoint cannot be written.
    """
    best = KeepBest(stage.validation_loss, patience, stage.least_gain)
    progress = trainer_kwargs.pop("enable_progress_bar", True) and progress
    own: list[Any] = [best, History(), *([Progress(stage.name)] if progress else [])]
    resume_from = None
    if checkpoint_dir is not None:
        folder = Path(checkpoint_dir) / stage.name
        # At the end of an epoch, and not of the validation before, for the history to have the whole epoch.
        own.append(ModelCheckpoint(folder, filename="last", enable_version_counter=False, save_on_train_epoch_end=True))
        trainer_kwargs["plugins"] = [WholeCheckpoints(), *(trainer_kwargs.get("plugins") or [])]
        if (folder / "last.ckpt").exists():
            resume_from = folder / "last.ckpt"
            message = f"Going on with the {stage.name} from {resume_from}. Delete it to start the stage anew."
            warnings.warn(message, UserWarning, stacklevel=5)
    with _quiet():
        trainer = Trainer(
            max_epochs=max_epochs,
            logger=logger or False,
            callbacks=own + list(callbacks or []),
            enable_checkpointing=checkpoint_dir is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **{"log_every_n_steps": 10**9, **trainer_kwargs},  # losses are logged by epoch, and looked at then only
        )
        train_batches.n_processes = trainer.world_size
        if max_epochs is None:
            trainer.fit_loop.max_epochs = math.ceil(n_steps / len(train_batches))
        if resume_from is not None:
            check_checkpoint(resume_from, stage, trainer.max_epochs)
        try:
            trainer.fit(stage, train_batches, validation_batches, ckpt_path=resume_from)
        except SystemExit as exit:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from exit
        finally:
            best.restore(stage)
            stage.cpu()


@contextmanager
def _quiet():
    """Keep Lightning's advice on its own defaults, which ours replace on purpose, from the user's screen."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"lightning\..*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def auto_precision(accelerator: str) -> str:
    """`"bf16-mixed"` on processors with bf16 matrix instructions, else `"32-true"`."""
    uses_gpu = accelerator not in ("cpu", "auto") or (accelerator == "auto" and torch.cuda.is_available())
    if uses_gpu:
        return "bf16-mixed" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "32-true"
    has_instructions = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return "bf16-mixed" if has_instructions() else "32-true"
