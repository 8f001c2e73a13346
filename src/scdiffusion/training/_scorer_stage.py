"""Training of the scorer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.classification import binary_auroc

from scdiffusion.networks import Scorer

from ._stages import Stage


class ScorerStage(Stage):
    """Trains a scorer by cross-entropy, with real cells labelled 1 and generated ones 0.

    Parameters
    ----------
    scorer
        A :class:`~scdiffusion.networks.Scorer`.
    real_share
        Share of the cells that are real. Real and generated cells weigh as much, whatever it is.
    lr, weight_decay
        Of AdamW.
    """

    def __init__(self, scorer: Scorer, *, real_share: float, lr: float, weight_decay: float) -> None:
        super().__init__("scorer", scorer)
        self.real_share, self.lr, self.weight_decay = real_share, lr, weight_decay

    def _loss(self, logits: Tensor, is_real: Tensor) -> Tensor:
        weight = torch.where(is_real > 0, 0.5 / self.real_share, 0.5 / (1 - self.real_share))
        return F.binary_cross_entropy_with_logits(logits, is_real, weight)

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Cross-entropy of a minibatch."""
        features, is_real = batch
        loss = self._loss(self.network(features).float(), is_real)
        self.log_epoch(self.train_loss, loss.detach(), len(features))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Cross-entropy of held-out cells, and how often a real one of them is scored above a generated one."""
        features, is_real = batch
        logits = self.network(features).float()
        self.log_epoch(self.validation_loss, self._loss(logits, is_real), len(features))
        self.log_epoch("scorer_auc", binary_auroc(logits, is_real.long()), len(features))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW."""
        return torch.optim.AdamW(self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
