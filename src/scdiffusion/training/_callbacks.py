"""What happens around a stage: the best weights kept, and a progress bar."""

from __future__ import annotations

import copy
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from tqdm.auto import tqdm


class KeepBest(Callback):
    """Stops when the held-out loss no longer falls, and puts the best weights back, also after an interruption.

    Parameters
    ----------
    monitor
        Name of the logged held-out loss.
    patience
        Number of validations without improvement before training stops; None never stops early.
    least_gain
        Share of the best loss by which a loss must be lower to count as an improvement.
    """

    def __init__(self, monitor: str, patience: int | None, least_gain: float = 0.0) -> None:
        self.monitor, self.patience, self.least_gain = monitor, patience, least_gain
        self.best_loss, self.best_weights, self.n_worse = float("inf"), None, 0

    def on_validation_end(self, trainer: Trainer, stage: LightningModule) -> None:
        """Compare the held-out loss with the best so far."""
        if trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        loss = float(trainer.callback_metrics[self.monitor])
        if self.best_weights is None or loss < self.best_loss - self.least_gain * abs(self.best_loss):
            self.best_loss, self.n_worse = loss, 0
            self.best_weights = copy.deepcopy(stage.trained_weights())
        else:
            self.n_worse += 1
            if self.patience is not None and self.n_worse >= self.patience:
                trainer.should_stop = True

    def on_fit_end(self, trainer: Trainer, stage: LightningModule) -> None:
        """Put the best weights back before a process that was started for the training ends."""
        self.restore(stage)

    def restore(self, stage: LightningModule) -> None:
        """Put the best weights, or the last ones where nothing was validated, into the network."""
        stage.adopt_weights(self.best_weights if self.best_weights is not None else stage.trained_weights())

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"best_loss": self.best_loss, "best_weights": self.best_weights, "n_worse": self.n_worse}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.best_loss, self.best_weights, self.n_worse = (
            state["best_loss"], state["best_weights"], state["n_worse"]
        )  # fmt: skip


class History(Callback):
    """Keeps what is logged with the stage, by epoch, behind what it has logged before."""

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        """Count on from the last epoch, of an earlier training or of the checkpoint that is gone on with."""
        last = max((epoch for values in stage.logged.values() for epoch in values), default=-1)
        self.n_earlier = last + 1 - trainer.current_epoch

    def on_train_epoch_end(self, trainer: Trainer, stage: LightningModule) -> None:
        """Add a row."""
        for key, value in trainer.callback_metrics.items():
            if key.startswith(stage.name):
                stage.logged.setdefault(key, {})[self.n_earlier + trainer.current_epoch] = float(value)


class Progress(Callback):
    """One bar for a stage, counting epochs and showing the losses."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_train_start(self, trainer: Trainer, stage: LightningModule) -> None:
        """Open the bar."""
        self.bar = tqdm(
            total=trainer.max_epochs,
            initial=trainer.current_epoch,
            desc=f"Training the {self.name}",
            unit="epoch",
            disable=not trainer.is_global_zero,
        )

    def on_train_epoch_end(self, trainer: Trainer, stage: LightningModule) -> None:
        """Move the bar."""
        losses = {
            label: f"{float(trainer.callback_metrics[key]):.4g}"
            for label, key in (("loss", stage.train_loss), ("held-out", stage.validation_loss))
            if key in trainer.callback_metrics
        }
        self.bar.set_postfix(losses, refresh=False)
        self.bar.update()

    def on_train_end(self, trainer: Trainer, stage: LightningModule) -> None:
        """Close the bar."""
        self.bar.close()

    def on_exception(self, trainer: Trainer, stage: LightningModule, exception: BaseException) -> None:
        """Close the bar when training is interrupted."""
        if hasattr(self, "bar"):
            self.bar.close()
