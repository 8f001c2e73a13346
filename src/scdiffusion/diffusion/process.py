"""The forward process: noising, what the network predicts, and how each timestep's loss counts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from scdiffusion._registry import Registry

from .schedules import NoiseSchedule, schedules

predictions = Registry("prediction type")
loss_weightings = Registry("loss weighting")


class Prediction(ABC):
    """What the network puts out, and how a clean sample follows from it.

    ``alpha`` and ``sigma`` are columns, (n, 1); every other tensor is (n, d), save ``snr``, which is (n,).
    """

    @abstractmethod
    def target(self, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return what a perfect network would put out."""

    @abstractmethod
    def to_x0(self, output: Tensor, x_t: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean sample that ``output`` implies."""

    @abstractmethod
    def error_ratio(self, snr: Tensor) -> Tensor | float:
        """Return how many times larger a squared error is in this space than in the space of x_0."""


@predictions.register("x0")
class PredictX0(Prediction):
    """The clean sample itself."""

    def target(self, x0, noise, alpha, sigma):  # noqa: D102
        return x0

    def to_x0(self, output, x_t, alpha, sigma):  # noqa: D102
        return output

    def error_ratio(self, snr):  # noqa: D102
        return 1.0


@predictions.register("epsilon")
class PredictEpsilon(Prediction):
    """The noise (Ho et al., NeurIPS 2020, equation 14)."""

    def target(self, x0, noise, alpha, sigma):  # noqa: D102
        return noise

    def to_x0(self, output, x_t, alpha, sigma):  # noqa: D102
        return (x_t - sigma * output) / alpha

    def error_ratio(self, snr):  # noqa: D102
        return snr


@predictions.register("v")
class PredictV(Prediction):
    """The velocity ``alpha noise - sigma x_0`` (Salimans & Ho, ICLR 2022, appendix D)."""

    def target(self, x0, noise, alpha, sigma):  # noqa: D102
        return alpha * noise - sigma * x0

    def to_x0(self, output, x_t, alpha, sigma):  # noqa: D102
        return alpha * x_t - sigma * output

    def error_ratio(self, snr):  # noqa: D102
        return snr + 1


@loss_weightings.register("uniform")
class UniformWeighting:
    """Plain mean squared error in the prediction's own space."""

    def __init__(self, gamma: float | None = None) -> None:
        """Take ``gamma`` so that every weighting is made alike."""

    def weight(self, snr: Tensor, error_ratio: Tensor | float) -> Tensor | float:
        """Return the weight of each sample's squared error, (n,) or one number."""
        return 1.0


@loss_weightings.register("min_snr")
class MinSNRWeighting:
    """The signal-to-noise ratio, capped at ``gamma``, as the weight of the squared error of x_0."""

    def __init__(self, gamma: float = 5.0) -> None:
        if gamma <= 0:
            raise ValueError(f"min_snr_gamma must be above 0, e.g. 5.0; got {gamma!r}.")
        self.gamma = gamma

    def weight(self, snr: Tensor, error_ratio: Tensor | float) -> Tensor:
        """Return the weight of each sample's squared error, (n,)."""
        return snr.clamp(max=self.gamma) / error_ratio


class DiffusionProcess(nn.Module):
    """Noises clean samples and reads a network's output.

    Parameters
    ----------
    schedule
        Name of a noise schedule (``"cosine"``, ``"linear"``), or a :class:`NoiseSchedule`.
    prediction
        What the network predicts: ``"v"``, ``"epsilon"`` or ``"x0"``.
    loss_weighting
        ``"min_snr"``, or ``"uniform"`` for the plain mean squared error in the prediction's own space.
    min_snr_gamma
        Cap of the signal-to-noise ratio in ``"min_snr"``.
    n_timesteps
        Number of timesteps, when ``schedule`` is a name. A ready-made schedule brings its own.

    Notes
    -----
    A step of noising adds noise of variance ``beta_t`` and knows nothing of conditions. SCLD's equation 9 prints
    ``sqrt(beta_t)``, the standard deviation, as the variance, and adds the condition to the latent at every step; its
    algorithms 1 and 2 do neither, and are what holds here: conditions are an input of the network alone.

    References
    ----------
    Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, equations 2 and 4.
    SCLD, arXiv 2312.14220, algorithms 1 and 2.
    Hang et al., *Efficient Diffusion Training via Min-SNR Weighting Strategy*, ICCV 2023.

    Examples
    --------
    >>> import torch
    >>> process = DiffusionProcess(prediction="v")
    >>> x0, noise, t = torch.ones(4, 2), torch.randn(4, 2), torch.tensor([0, 10, 500, 999])
    >>> x_t = process.add_noise(x0, noise, t)
    >>> torch.allclose(process.to_x0(process.target(x0, noise, t), x_t, t), x0, atol=1e-5)
    True
    """

    def __init__(
        self,
        schedule: str | NoiseSchedule = "cosine",
        prediction: str | Prediction = "v",
        loss_weighting: str | UniformWeighting | MinSNRWeighting = "min_snr",
        min_snr_gamma: float = 5.0,
        n_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        self.schedule: NoiseSchedule = schedules.resolve(schedule, n_timesteps=n_timesteps)
        self.prediction: Prediction = predictions.resolve(prediction)
        self.loss_weighting = loss_weightings.resolve(loss_weighting, gamma=min_snr_gamma)

    @property
    def n_timesteps(self) -> int:
        """Number of timesteps of the schedule."""
        return self.schedule.n_timesteps

    def _weights(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.schedule.alpha[t, None], self.schedule.sigma[t, None]  # (n, 1) each

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return ``x_t``, (n, d): the samples ``x0`` (n, d) at timesteps ``t`` (n,) (Ho et al., eq. 4)."""
        alpha, sigma = self._weights(t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return what the network should put out, (n, d), for clean ``x0``, its ``noise`` and timesteps ``t``."""
        return self.prediction.target(x0, noise, *self._weights(t))

    def to_x0(self, output: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the estimate of x_0, (n, d), that the network's ``output`` at ``x_t`` and ``t`` implies."""
        return self.prediction.to_x0(output, x_t, *self._weights(t))

    def to_epsilon(self, x0: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
        """Return the noise, (n, d), that turns the estimate ``x0`` into ``x_t`` at timesteps ``t``."""
        alpha, sigma = self._weights(t)
        return (x_t - alpha * x0) / sigma

    def linear_estimate(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Return ``alpha_t x_t``, (n, d): the best linear estimate of x_0 where coordinates have unit variance."""
        return self._weights(t)[0] * x_t

    def loss(self, output: Tensor, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return each sample's weighted squared error, (n,), averaged over its d coordinates."""
        squared_error = (output - self.target(x0, noise, t)).square().mean(dim=1)  # (n,)
        snr = self.schedule.log_snr[t].exp()  # (n,)
        return self.loss_weighting.weight(snr, self.prediction.error_ratio(snr)) * squared_error
