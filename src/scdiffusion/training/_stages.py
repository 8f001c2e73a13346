"""The two stages of training as Lightning modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from scdiffusion.diffusion import DiffusionProcess
from scdiffusion.networks import drop_conditions

_KL_WARMUP_STEPS = 50
_LR_WARMUP_SHARE = 0.05


def _cosine(step: int, n_steps: int) -> float:
    n_warmup = max(1, int(_LR_WARMUP_SHARE * n_steps))
    progress = min(1.0, step / n_steps)
    return min(1.0, (step + 1) / n_warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def _linear(step: int, n_steps: int) -> float:
    return max(0.0, 1 - step / n_steps)


#: What the learning rate is multiplied with at a step, of so many.
LR_DECAYS: dict[str, Callable[[int, int], float]] = {"cosine": _cosine, "linear": _linear}


class Stage(LightningModule):
    """One network trained by one loss; what :class:`KeepBest` and :class:`Progress` need to know of it.

    Parameters
    ----------
    name
        What the history calls the stage.
    network
        What is trained.
    """

    least_gain = 0.0  # share of the held-out loss by which it must fall for training to be worth going on

    def __init__(self, name: str, network: nn.Module) -> None:
        super().__init__()
        self.name, self.network = name, network
        self.train_loss, self.validation_loss = f"{name}_train_loss", f"{name}_validation_loss"

    def log_epoch(self, key: str, value: Tensor, batch_size: int) -> None:
        """Log the mean of a value over the epoch."""
        self.log(key, value, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)

    def trained_weights(self) -> dict[str, Tensor]:
        """Weights to judge and to keep: the network's own, unless a stage averages them."""
        return self.network.state_dict()

    def adopt_weights(self, weights: dict[str, Tensor]) -> None:
        """Put kept weights into the network."""
        self.network.load_state_dict(weights)


class AutoencoderStage(Stage):
    r"""Trains an autoencoder by reconstruction loss and, if variational, weighted Kullback-Leibler divergence.

    Parameters
    ----------
    autoencoder
        An :class:`~scdiffusion.autoencoders.Autoencoder`.
    kl_weight
        Weight of the divergence of the posterior from a standard normal, reached after 50 steps.
    lr, dispersion_lr
        Learning rates of the weights and of the dispersions, which live on a scale of their own.
    weight_decay
        Of the weights.
    """

    # The last thousandth of the likelihood is gained by fitting single cells, and costs realism: generated cells are
    # easier to tell from real ones after training for it.
    least_gain = 1e-3

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        kl_weight: float = 0.5,
        lr: float = 2e-4,
        dispersion_lr: float = 1e-3,
        weight_decay: float = 1e-4,
    ) -> None:
        super().__init__("autoencoder", autoencoder)
        self.kl_weight, self.lr, self.dispersion_lr, self.weight_decay = kl_weight, lr, dispersion_lr, weight_decay

    def _losses(self, batch: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
        expression, codes = batch
        mean, log_variance = (values.float() for values in self.network.encode(expression))
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        divergence = None
        if self.network.variational:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return self.network.loss(expression, latents, codes).mean(), divergence

    def training_step(self, batch: tuple[Tensor, Tensor | None], _: int) -> Tensor:
        """Loss of a minibatch."""
        reconstruction, divergence = self._losses(batch)
        self.log_epoch(self.train_loss, reconstruction.detach(), len(batch[0]))
        if divergence is None:
            return reconstruction
        warmup = min(1.0, (self.global_step + 1) / _KL_WARMUP_STEPS)
        self.log_epoch("autoencoder_kl", divergence.detach(), len(batch[0]))
        return reconstruction + warmup * self.kl_weight * divergence

    def validation_step(self, batch: tuple[Tensor, Tensor | None], index: int) -> None:
        """Held-out reconstruction loss, always with the same draws of the latents."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(index)
            reconstruction, _ = self._losses(batch)
        self.log_epoch(self.validation_loss, reconstruction, len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW of what is not frozen, dispersions apart."""
        trained = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        dispersions = [p for name, p in trained if name == "log_dispersion"]
        weights = [p for name, p in trained if name != "log_dispersion"]
        groups: list[dict[str, Any]] = [{"params": weights, "lr": self.lr, "weight_decay": self.weight_decay}]
        if dispersions:
            groups.append({"params": dispersions, "lr": self.dispersion_lr, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)


class DiffusionStage(Stage):
    """Trains a denoiser, keeping an exponential moving average of its weights.

    Parameters
    ----------
    denoiser
        Called as `denoiser(x_t, t, conditions)`.
    process
        The :class:`~scdiffusion.diffusion.DiffusionProcess`.
    n_steps
        Number of steps that the learning rate's decay is stretched over.
    condition_dropout
        Probability that a condition is hidden from the network, each key on its own.
    lr, weight_decay
        Of AdamW.
    lr_decay
        `"cosine"`, after a short warm-up, or `"linear"`.
    ema_decay
        Decay of the moving average; it starts lower, so that the first steps are forgotten.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        process: DiffusionProcess,
        *,
        n_steps: int,
        condition_dropout: float,
        lr: float = 3e-3,
        lr_decay: str = "cosine",
        weight_decay: float = 1e-4,
        ema_decay: float = 0.998,
    ) -> None:
        super().__init__("diffusion", denoiser)
        self.lr_decay = LR_DECAYS[lr_decay]
        self.process = process
        self.average = copy.deepcopy(denoiser).requires_grad_(False).eval()
        self.n_steps, self.condition_dropout = n_steps, condition_dropout
        self.lr, self.weight_decay, self.ema_decay = lr, weight_decay, ema_decay

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Loss of a minibatch, at stratified random timesteps."""
        x0, codes = batch
        n, n_timesteps = len(x0), self.process.n_timesteps
        # One timestep from each of n equal stretches of the process: less noisy than independent draws.
        t = ((torch.arange(n, device=x0.device) + torch.rand(n, device=x0.device)) * (n_timesteps / n)).long()
        noise = torch.randn_like(x0)
        t = t.clamp(max=n_timesteps - 1)
        output = self.network(self.process.add_noise(x0, noise, t), t, drop_conditions(codes, self.condition_dropout))
        loss = self.process.loss(output.float(), x0, noise, t).mean()
        self.log_epoch(self.train_loss, loss.detach(), n)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average towards the weights."""
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            torch._foreach_lerp_(list(self.average.parameters()), list(self.network.parameters()), 1 - decay)

    def validation_step(self, batch: tuple[Tensor, Tensor, Tensor, Tensor], _: int) -> None:
        """Held-out loss of the averaged weights."""
        x0, codes, noise, t = batch
        output = self.average(self.process.add_noise(x0, noise, t), t, codes)
        self.log_epoch(self.validation_loss, self.process.loss(output.float(), x0, noise, t).mean(), len(x0))

    def trained_weights(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.average.state_dict()

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW under the learning rate's decay."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99), fused=True
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_decay(step, self.n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}
