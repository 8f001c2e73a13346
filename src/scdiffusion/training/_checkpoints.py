"""Checkpoints that are whole or not there, and hold no code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its name and moves it there; reads tensors and plain settings only.

    Lightning itself writes to the system's temporary folder, from where a file may have to be copied to its name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        torch.save(checkpoint, temporary)
        os.replace(temporary, path)

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
