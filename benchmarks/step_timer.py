"""What a training step takes, and how much of it is matrix products."""

from __future__ import annotations

import time

import numpy as np
import torch
from lightning.pytorch import Callback
from torch.utils._python_dispatch import TorchDispatchMode


class Products(TorchDispatchMode):
    """Notes the matrix products that are computed."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: list[tuple] = []

    def __torch_dispatch__(self, function, types, arguments=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm):
            a, b = arguments[-2:]
            self.shapes.append((a.shape, b.shape, a.dtype))
        return function(*arguments, **(kwargs or {}))


class StepTimer(Callback):
    """Seconds per training step of each stage, validation left out, and the products of one step."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = {}
        self.products: dict[str, Products] = {}

    def on_train_batch_start(self, trainer, stage, batch, index) -> None:
        if stage.name not in self.products:
            self.products[stage.name] = Products()
            self.products[stage.name].__enter__()

    def on_train_batch_end(self, trainer, stage, outputs, batch, index) -> None:
        times = self.seconds.setdefault(stage.name, [])
        if not times:
            self.products[stage.name].__exit__(None, None, None)
        times.append(time.perf_counter())

    def step_seconds(self, stage: str) -> float:
        """The median hides epochs' ends and validation, and the first steps."""
        return float(np.median(np.diff(self.seconds[stage])))

    def bare_seconds(self, stage: str, n_repeats: int = 30) -> float:
        operands = [(torch.randn(a).to(dtype), torch.randn(b).to(dtype)) for a, b, dtype in self.products[stage].shapes]
        seconds = []
        for _ in range(n_repeats):
            start = time.perf_counter()
            for a, b in operands:
                torch.matmul(a, b)
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds))
