"""Several processes that train one model."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn


def is_distributed() -> bool:
    """Whether this is one of several processes."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def synchronise(module: nn.Module) -> None:
    """Give all processes the weights and buffers of the first; what each has computed may differ in the last digits."""
    if is_distributed():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, src=0)
