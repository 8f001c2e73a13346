"""Reading a SCimilarity model directory."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

_ENCODER, _DECODER, _GENES = "encoder.ckpt", "decoder.ckpt", "gene_order.tsv"


@dataclass(frozen=True, eq=False)
class PretrainedWeights:
    """Weights of an encoder and a decoder, and the genes they were trained on.

    Attributes
    ----------
    genes
        Names of the genes, in the order of the encoder's columns and the decoder's rows.
    encoder, decoder
        State dicts.
    sizes
        Widths of all layers of the encoder, from the genes to the latents.
    """

    genes: list[str]
    encoder: dict[str, Tensor]
    decoder: dict[str, Tensor]
    sizes: list[int]

    @property
    def settings(self) -> dict[str, int | list[int]]:
        """The layer sizes as :class:`~scdiffusion.SCDiffusion` takes them."""
        return {"n_hidden": self.sizes[1:-1], "n_latent": self.sizes[-1]}


def read_pretrained(path: str | Path) -> PretrainedWeights:
    """Read a SCimilarity model directory; of its files, `encoder.ckpt`, `decoder.ckpt` and `gene_order.tsv` are needed.

    The checkpoints hold `{"state_dict": ...}` and are read with `weights_only=True`, so that nothing in them is run.
    Layer sizes are those of the weights.

    Parameters
    ----------
    path
        The directory.

    Returns
    -------
    The weights and their genes.

    Raises
    ------
    ValueError
        If a file is missing or is no such checkpoint, or the files do not belong together.
    """
    path = Path(path)
    missing = [name for name in (_ENCODER, _DECODER, _GENES) if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path} is not a SCimilarity model directory: {', '.join(missing)} missing. It must hold {_ENCODER}, "
            f"{_DECODER} and {_GENES}, as the unpacked download does."
        )
    genes = [line.strip() for line in (path / _GENES).read_text().splitlines() if line.strip()]
    encoder, decoder = _state_dict(path / _ENCODER), _state_dict(path / _DECODER)
    sizes, sizes_back = _layer_sizes(encoder, path / _ENCODER), _layer_sizes(decoder, path / _DECODER)
    if sizes_back != sizes[::-1]:
        raise ValueError(
            f"The decoder in {path} does not mirror the encoder: its layers have {sizes_back} units, the encoder's "
            f"{sizes}. Take both from the same model."
        )
    if len(genes) != sizes[0]:
        raise ValueError(
            f"{path / _GENES} names {len(genes)} genes, but the encoder reads {sizes[0]}. Take both from the same model."
        )
    return PretrainedWeights(genes, encoder, decoder, sizes)


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a checkpoint of tensors ({type(error).__name__}).") from error
    state = contents.get("state_dict") if isinstance(contents, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} holds no 'state_dict', as a SCimilarity checkpoint does.")
    return state


def _layer_sizes(state: dict[str, Tensor], path: Path) -> list[int]:
    """Widths from the first layer's input to the last layer's output."""
    weights = [tensor for name, tensor in state.items() if name.endswith(".weight") and tensor.ndim == 2]
    fit = all(after.shape[1] == before.shape[0] for before, after in pairwise(weights))
    if len(weights) < 2 or not fit or not all(name.startswith("network.") for name in state):
        raise ValueError(f"{path} does not have SCimilarity's layers, network.0, network.1 and so on.")
    return [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
