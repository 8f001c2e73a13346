"""The stages of training as Lightning modules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from scdiffusion.diffusion import DiffusionProcess
from scdiffusion.networks import Conditions

_KL_WARMUP_STEPS = 50
_LR_WARMUP_SHARE = 0.05
# Parameters of a likelihood, one for each gene.
_OF_GENES = ("log_dispersion", "log_background")


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
        self.logged: dict[str, dict[int, float]] = {}  # by metric and epoch
        self._sums: dict[str, Tensor] = {}

    def on_train_start(self) -> None:
        """Give each of several processes its own noise; the order of cells they share."""
        if self.global_rank:
            torch.manual_seed(torch.initial_seed() + self.global_rank)

    def log_training(self, key: str, value: Tensor) -> None:
        """Log the mean of a value over the steps of the epoch, once, which takes a good part of a small step's time."""
        self._sums[key] = self._sums.get(key, 0.0) + value.detach()
        if self.trainer.is_last_batch:
            self.log_epoch(key, self._sums.pop(key) / self.trainer.num_training_batches, 1)

    def log_epoch(self, key: str, value: Tensor, batch_size: int) -> None:
        """Log the mean of a value over the cells of the epoch."""
        self.log(key, value, on_step=False, on_epoch=True, batch_size=batch_size, sync_dist=True)

    def get_extra_state(self) -> dict[str, dict[int, float]]:
        """What is kept beside the weights, in checkpoints and by processes that were started for the training."""
        return self.logged

    def set_extra_state(self, state: dict[str, dict[int, float]]) -> None:
        """Take up the history of a checkpoint."""
        self.logged = state

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
        Learning rates of the weights and of the dispersions, and of what else a likelihood has for each gene.
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

    def _losses(
        self, batch: tuple[Tensor, Tensor | None], generator: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor | None]:
        expression, codes = batch
        mean, log_variance = (values.float() for values in self.network.encode(expression))
        noise = torch.randn(mean.shape, generator=generator, device=mean.device)
        latents = mean + noise * (0.5 * log_variance).exp()
        divergence = None
        if self.network.variational:
            divergence = 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean()
        return self.network.loss(expression, latents, codes).mean(), divergence

    def training_step(self, batch: tuple[Tensor, Tensor | None], _: int) -> Tensor:
        """Loss of a minibatch."""
        reconstruction, divergence = self._losses(batch)
        self.log_training(self.train_loss, reconstruction)
        if divergence is None:
            return reconstruction
        warmup = min(1.0, (self.global_step + 1) / _KL_WARMUP_STEPS)
        self.log_training("autoencoder_kl", divergence)
        return reconstruction + warmup * self.kl_weight * divergence

    def validation_step(self, batch: tuple[Tensor, Tensor | None], index: int) -> None:
        """Held-out reconstruction loss, always with the same draws of the latents."""
        reconstruction, _ = self._losses(batch, torch.Generator(self.device).manual_seed(index))
        self.log_epoch(self.validation_loss, reconstruction, len(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW of what is not frozen, dispersions apart."""
        trained = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        dispersions = [p for name, p in trained if name in _OF_GENES]
        weights = [p for name, p in trained if name not in _OF_GENES]
        groups: list[dict[str, Any]] = [{"params": weights, "lr": self.lr, "weight_decay": self.weight_decay}]
        if dispersions:
            groups.append({"params": dispersions, "lr": self.dispersion_lr, "weight_decay": 0.0})
        return torch.optim.AdamW(groups, betas=(0.9, 0.99), fused=True)


class LatentStage(Stage):
    """Trains a network on noised latents, keeping an exponential moving average of its weights.

    Parameters
    ----------
    name, network
        As for :class:`Stage`.
    process
        The :class:`~scdiffusion.diffusion.DiffusionProcess`.
    lr, weight_decay
        Of AdamW.
    lr_decay
        `"cosine"`, after a short warm-up, or `"linear"`; stretched over the steps that are to be trained.
    ema_decay
        Decay of the moving average; it starts lower, so that the first steps are forgotten.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        process: DiffusionProcess,
        *,
        lr: float,
        lr_decay: str,
        weight_decay: float,
        ema_decay: float,
    ) -> None:
        super().__init__(name, network)
        self.lr_decay = LR_DECAYS[lr_decay]
        self.process = process
        self.average = copy.deepcopy(network).requires_grad_(False).eval()
        self.lr, self.weight_decay, self.ema_decay = lr, weight_decay, ema_decay

    def on_train_start(self) -> None:
        """Keep the latents where the network is."""
        super().on_train_start()
        self.trainer.train_dataloader.to(self.device)
        self._averaged = list(self.average.parameters()), list(self.network.parameters())

    def draw_noise(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Noise, `(n_cells, n_features)`, and stratified random timesteps, `(n_cells,)`, of a minibatch."""
        n, n_timesteps = len(x0), self.process.n_timesteps
        # One timestep from each of n equal stretches of the process: less noisy than independent draws.
        t = ((torch.arange(n, device=x0.device) + torch.rand(n, device=x0.device)) * (n_timesteps / n)).long()
        return torch.randn_like(x0), t.clamp(max=n_timesteps - 1)

    def on_train_batch_end(self, *_: Any) -> None:
        """Move the average towards the weights."""
        decay = min(self.ema_decay, (1 + self.global_step) / (10 + self.global_step))
        with torch.no_grad():
            torch._foreach_lerp_(*self._averaged, 1 - decay)

    def trained_weights(self) -> dict[str, Tensor]:
        """The averaged weights."""
        return self.average.state_dict()

    def adopt_weights(self, weights: dict[str, Tensor]) -> None:
        """Put kept weights into the network, and its average."""
        super().adopt_weights(weights)
        self.average.load_state_dict(weights)

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW under the learning rate's decay."""
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=self.lr, weight_decay=self.weight_decay, betas=(0.9, 0.99), fused=True
        )
        n_steps = self.trainer.estimated_stepping_batches
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: self.lr_decay(step, n_steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class DiffusionStage(LatentStage):
    """Trains a denoiser.

    Parameters
    ----------
    denoiser
        Called as `denoiser(x_t, t, conditions)`.
    process
        The :class:`~scdiffusion.diffusion.DiffusionProcess`.
    condition_dropout
        Probability that a condition is hidden from the network, each key on its own.
    **optimisation
        `lr`, `lr_decay`, `weight_decay` and `ema_decay`, as for :class:`LatentStage`.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        process: DiffusionProcess,
        *,
        condition_dropout: float,
        **optimisation: Any,
    ) -> None:
        super().__init__("diffusion", denoiser, process, **optimisation)
        self.condition_dropout = condition_dropout

    def training_step(self, batch: tuple[Tensor, Conditions], _: int) -> Tensor:
        """Loss of a minibatch."""
        x0, conditions = batch
        noise, t = self.draw_noise(x0)
        output = self.network(self.process.add_noise(x0, noise, t), t, conditions.dropped(self.condition_dropout))
        loss = self.process.loss(output.float(), x0, noise, t).mean()
        self.log_training(self.train_loss, loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Conditions, Tensor, Tensor], _: int) -> None:
        """Held-out loss of the averaged weights."""
        x0, conditions, noise, t = batch
        output = self.average(self.process.add_noise(x0, noise, t), t, conditions)
        self.log_epoch(self.validation_loss, self.process.loss(output.float(), x0, noise, t).mean(), len(x0))


class ClassifierStage(LatentStage):
    """Trains a noise-aware classifier of one condition, on all levels of noise.

    Parameters
    ----------
    name
        What the history calls the stage.
    classifier
        A :class:`~scdiffusion.networks.NoiseAwareClassifier`.
    process
        The :class:`~scdiffusion.diffusion.DiffusionProcess`.
    key
        Position of the condition key.
    **optimisation
        `lr`, `lr_decay`, `weight_decay` and `ema_decay`, as for :class:`LatentStage`.
    """

    n_levels = 10

    def __init__(
        self,
        name: str,
        classifier: nn.Module,
        process: DiffusionProcess,
        *,
        key: int,
        **optimisation: Any,
    ) -> None:
        super().__init__(name, classifier, process, **optimisation)
        self.key = key

    def _output(self, network: nn.Module, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return network(self.process.linear_estimate(self.process.add_noise(x0, noise, t), t), t).float()

    def training_step(self, batch: tuple[Tensor, Conditions], _: int) -> Tensor:
        """Negative log-likelihood of the conditions of a minibatch."""
        x0, conditions = batch
        output = self._output(self.network, x0, *self.draw_noise(x0))
        loss = -self.network.log_prob(output, conditions.column(self.key)).mean()
        self.log_training(self.train_loss, loss)
        return loss

    def validation_step(self, batch: tuple[Tensor, Conditions, Tensor, Tensor], _: int) -> None:
        """Held-out loss of the averaged weights, and how well they tell the condition at each level of noise."""
        x0, conditions, noise, t = batch
        output, target = self._output(self.average, x0, noise, t), conditions.column(self.key)
        loss, score = -self.average.log_prob(output, target), self.average.score(output, target)
        self.log_epoch(self.validation_loss, loss.mean(), len(x0))
        level = t * self.n_levels // self.process.n_timesteps
        for i in range(self.n_levels):
            here = level == i
            self.log_epoch(f"{self.name}_loss_level_{i}", loss[here].mean(), int(here.sum()))
            self.log_epoch(f"{self.name}_{self.average.score_name}_level_{i}", score[here].mean(), int(here.sum()))
