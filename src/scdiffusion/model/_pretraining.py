"""Starting an autoencoder from pretrained weights, and saying what is wrong where that cannot be."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scdiffusion.autoencoders import PretrainedWeights, SCimilarityAutoencoder

logger = logging.getLogger(__name__)


def add_sizes(overrides: dict[str, Any], weights: PretrainedWeights) -> None:
    """Add the pretrained layer sizes to what the user overrides, who must not give them too."""
    given = [key for key in weights.settings if key in overrides]
    if given:
        raise ValueError(f"{given[0]} is read from the pretrained directory: leave it out.")
    overrides.update(weights.settings)


def check_settings(settings: dict[str, Any], *, is_pretrained: bool) -> None:
    """Check that an autoencoder's settings and the presence of pretrained weights go together."""
    if is_pretrained and settings["autoencoder"] != "scimilarity":
        raise ValueError(
            f"Pretrained weights have SCimilarity's layers, which the autoencoder {settings['autoencoder']!r} has not. "
            "Pass preset='scdiffusion'."
        )
    if settings.get("freeze_hidden") and not is_pretrained:
        raise ValueError("freeze_hidden keeps pretrained weights as they are: pass pretrained=, or leave it out.")


def adopt(
    autoencoder: SCimilarityAutoencoder, weights: PretrainedWeights, genes: Sequence[str], path: str | Path
) -> dict[str, Any]:
    """Take over weights, say how many genes they know, and return what the model remembers of it.

    Raises
    ------
    ValueError
        If no gene is shared.

    Warns
    -----
    UserWarning
        If fewer than half of the genes are.
    """
    n_matching = autoencoder.adopt(weights, genes)
    message = f"{n_matching} of {len(genes)} genes start with pretrained weights, the others with new ones ({path})."
    if 2 * n_matching < len(genes):
        warnings.warn(f"Only {message}", UserWarning, stacklevel=3)
    else:
        logger.info(message)
    return {"path": str(path), "n_genes": len(genes), "n_matching_genes": n_matching}
