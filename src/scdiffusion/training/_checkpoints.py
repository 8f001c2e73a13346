"""Checkpoints that are whole or not there, and hold no code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import LightningModule

from scdiffusion._writing import explaining_write_errors, whole_file


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its name and moves it there; reads tensors and plain settings only.

    Lightning itself writes to the system's temporary folder, from where a file may have to be copied to its name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises
        ------
        OSError
            If it cannot be written. The one before is kept.
        """
        path = Path(path)
        remedy = "Make room and call train again to go on from the epoch before, or leave checkpoint_dir out."
        with explaining_write_errors(path, remedy):
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as temporary:
                torch.save(checkpoint, temporary)

    def load_checkpoint(self, path: str | Path, map_location: Any = "cpu", **_: Any) -> dict[str, Any]:
        """Read a checkpoint.

        Raises
        ------
        ValueError
            If it is damaged, or holds anything but tensors and plain settings.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except Exception as error:
            raise ValueError(
                f"{path} cannot be gone on with: it is damaged, or was not written by model.train(checkpoint_dir=...). "
                f"Delete it to start the stage anew. ({error})"
            ) from error


def check_checkpoint(path: Path, stage: LightningModule, max_epochs: int) -> None:
    """Check that a checkpoint is one of a stage, and that there is something left to train.

    Raises
    ------
    ValueError
        If it is damaged, of a model of another shape, or of an epoch beyond the last.
    """
    checkpoint = WholeCheckpoints().load_checkpoint(path)
    n_epochs = checkpoint["epoch"] + 1
    if n_epochs > max_epochs:
        raise ValueError(
            f"{path} has been trained for {n_epochs} epochs, and max_epochs is {max_epochs}. Raise max_epochs of the "
            f"{stage.name} to {n_epochs} or more to go on from it, or delete it to start the stage anew."
        )
    own, kept = stage.state_dict(), checkpoint["state_dict"]
    for name in {**own, **kept}:
        here, there = (getattr(weights.get(name), "shape", None) for weights in (own, kept))
        if here != there:
            raise ValueError(
                f"{path} is of another model: its {name} is {_describe(there)}, and of this one it is {_describe(here)}. "
                "Give this model, its genes and its settings a checkpoint_dir of their own, or delete it to start the "
                "stage anew."
            )


def _describe(shape: torch.Size | None) -> str:
    return "missing" if shape is None else " x ".join(map(str, shape)) or "a number"
