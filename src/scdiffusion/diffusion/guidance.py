"""Guidance: pulling samples towards a condition while they are drawn.

A new method is a registered :class:`Guidance`; a new way to make one distribution of several conditions is a
registered function from estimates to an estimate.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from scdiffusion._registry import Registry

guidances = Registry("guidance")
compositions = Registry("composition of conditions")

#: Positions of condition keys.
Keys = frozenset[int]
#: Estimates x_0, (n, d), with some of the conditions left to the model.
Estimate = Callable[[Keys], Tensor]


class Composition(ABC):
    """How the estimate under several conditions is made of what the denoiser can be asked.

    Attributes
    ----------
    shifts_unseen
        Whether cells of a combination that was never trained on are to be drawn as of one that was, and shifted.
    """

    shifts_unseen: bool = False

    @abstractmethod
    def __call__(self, network: Estimate, keys: Keys, hidden: Keys) -> Tensor:
        """Estimate x_0, (n, d).

        Parameters
        ----------
        network
            ``network(left)`` calls the denoiser with the conditions ``left`` left to the model; a repeated call is
            free.
        keys
            The conditions to compose. Others, such as the batch, are always seen.
        hidden
            Those of ``keys`` that are to be left to the model.
        """


@compositions.register("joint")
class JointComposition(Composition):
    """The denoiser is given all conditions at once, and knows how they act together."""

    def __call__(self, network, keys, hidden):
        """Estimate x_0 given the conditions that are not hidden."""
        return network(hidden)


@compositions.register("sum")
class SumComposition(Composition):
    r"""A product of experts: the denoiser is given one condition at a time, and what each changes is summed.

    .. math:: \hat x_0(\varnothing) + \sum_k \bigl[ \hat x_0(c_k) - \hat x_0(\varnothing) \bigr],

    which is the score of :math:`p(x) \prod_k p(c_k \mid x)` if the conditions are independent given the noised cell.
    Since each estimate has been trained on, combinations that were never seen can be asked for.

    References
    ----------
    Liu et al., *Compositional Visual Generation with Composable Diffusion Models*, ECCV 2022, section 4.1.
    """

    def __call__(self, network, keys, hidden):
        """Estimate x_0 given the conditions that are not hidden, as if independent."""
        x0 = network(keys)
        return x0 + sum(network(keys - {key}) - network(keys) for key in sorted(keys - hidden))


@compositions.register("shift")
class ShiftComposition(JointComposition):
    """Joint; but cells of combinations that were never trained on are drawn as of one that was, and shifted.

    The shift is what the condition in which the two differ changes in other combinations, an arithmetic of latents.

    References
    ----------
    Lotfollahi et al., *scGen predicts single-cell perturbation responses*, Nature Methods 2019.
    """

    shifts_unseen = True


@dataclass(frozen=True)
class Step:
    """One step of sampling, as a guidance method sees it.

    Parameters
    ----------
    model
        Has ``process``, and ``log_probability(x_t, t, conditions, key)``, (n,), where classifiers are trained; it is
        0 for cells whose condition ``key`` is left to the model.
    x_t, t
        Noised samples, (n, d), and their timesteps, (n,).
    conditions
        All that is asked for.
    estimate
        ``estimate(keys)`` is x_0, (n, d), with the conditions ``keys`` left to the model; a repeated call is free.
    """

    model: Any
    x_t: Tensor
    t: Tensor
    conditions: Any
    estimate: Estimate

    def uphill(self, objective: Callable[[Tensor], Tensor]) -> Tensor:
        r"""Shift of the estimate of x_0, (n, d), that adds the gradient of an objective to the score.

        The estimate and the score :math:`s = \nabla \log p(x_t)` are tied by
        :math:`\hat x_0 = (x_t + \sigma_t^2 s) / \alpha_t`, so that adding :math:`g` to the score adds
        :math:`\sigma_t^2 g / \alpha_t` to the estimate. Every sampler consumes estimates of x_0, and is so guided
        correctly.

        Parameters
        ----------
        objective
            From x_t, (n, d), to one number per sample, (n,), which depends on that sample alone.

        References
        ----------
        Dhariwal & Nichol, *Diffusion Models Beat GANs on Image Synthesis*, NeurIPS 2021, equation 14, where
        the same is written for the noise, ``-sigma s``.
        """
        with torch.enable_grad():
            x = self.x_t.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(x).sum(), x)
        schedule = self.model.process.schedule
        return (schedule.sigma[self.t] ** 2 / schedule.alpha[self.t])[:, None] * gradient


class Guidance(ABC):
    """Pulls samples towards their conditions; a subclass brings :meth:`shift`.

    Attributes
    ----------
    lowest_scale
        The smallest guidance scale that makes sense. 0 is no guidance.
    default_scale
        The guidance scale when the caller does not say.
    replaces_conditions
        Whether the denoiser is not to see the conditions that this method guides by, unless another method does.
    needs_classifier
        Whether a classifier must be trained for each condition that it guides by.
    """

    lowest_scale: float = 0.0
    default_scale: float = 1.0
    replaces_conditions: bool = False
    needs_classifier: bool = False

    @abstractmethod
    def shift(self, step: Step, scales: Mapping[Keys, float]) -> Tensor:
        """Return what to add to the estimate of x_0, (n, d).

        Parameters
        ----------
        step
            Where sampling is.
        scales
            Guidance scale of each group of condition keys, by their positions.
        """


@guidances.register("classifier_free")
class ClassifierFreeGuidance(Guidance):
    r"""Pushes the estimate away from what it would be if conditions were left to the model.

    With one scale w for all conditions, the estimate becomes

    .. math:: (1 + w) \, \hat x_0(c) - w \, \hat x_0(\varnothing),

    SCLD's equation 13: -1 is unconditional, 0 conditional; above 0 samples are sharper and less varied. The equation
    combines estimates of the noise. Here estimates of x_0 are combined, which is the same: at a given ``x_t`` the two
    are tied by an affine map, and the weights ``1 + w`` and ``-w`` sum to one. With a scale per condition, each adds
    :math:`w_k [\hat x_0(c) - \hat x_0(c \text{ without } c_k)]`, what it changes given the others. The condition goes into
    the network and is not added to the latent, as SCLD's equation 9 has it and its algorithm 2 does not.

    References
    ----------
    Ho & Salimans, *Classifier-Free Diffusion Guidance*, 2022, equation 6.
    SCLD, arXiv 2312.14220, equation 13.

    Examples
    --------
    >>> import torch
    >>> estimates = {frozenset(): torch.tensor([[2.0]]), frozenset({0}): torch.tensor([[1.0]])}
    >>> step = Step(model=None, x_t=None, t=None, conditions=None, estimate=estimates.get)
    >>> ClassifierFreeGuidance().shift(step, {frozenset({0}): 0.5})
    tensor([[0.5000]])
    """

    lowest_scale = -1.0

    def shift(self, step, scales):
        """Sum the scaled differences that leaving each group of conditions to the model makes."""
        x0 = step.estimate(frozenset())
        return sum(scale * (x0 - step.estimate(keys)) for keys, scale in scales.items())


@guidances.register("classifier")
class ClassifierGuidance(Guidance):
    r"""Follows the gradients of noise-aware classifiers, one per condition, summed.

    .. math:: \hat x_0 + \frac{\sigma_t^2}{\alpha_t} \sum_k \gamma_k \nabla_{x_t} \log p(c_k \mid x_t)

    At :math:`\gamma = 1`, on an unconditional denoiser, this is Bayes' rule, and with perfect classifiers samples follow
    :math:`p(x \mid c)` if the conditions are independent given the noised cell. Learned classifiers pull less; the
    default is the 2 of scDiffusion. The larger, the sharper and less varied. scDiffusion's equation 5 adds the same gradient, times the step's variance, to DDPM's mean; see
    :meth:`Step.uphill` for why the form here holds with every sampler.

    References
    ----------
    Luo et al., *scDiffusion*, Bioinformatics 2024, equation 5.
    Dhariwal & Nichol, *Diffusion Models Beat GANs on Image Synthesis*, NeurIPS 2021, algorithms 1 and 2.
    """

    default_scale = 2.0
    replaces_conditions = True
    needs_classifier = True

    def shift(self, step, scales):
        """Climb the scaled log-probabilities of the conditions."""

        def objective(x: Tensor) -> Tensor:
            return sum(
                scale * step.model.log_probability(x, step.t, step.conditions, key)
                for keys, scale in scales.items()
                for key in sorted(keys)
            )

        return step.uphill(objective)


@dataclass(frozen=True)
class Guide:
    """The estimate that a sampler follows: the denoiser's, its conditions composed and guided.

    Parameters
    ----------
    methods
        Guidance methods, each with its scale by group of condition keys. Their shifts are summed.
    keys
        Positions of the condition keys that are asked for, without nuisances.
    composition
        How the denoiser's estimate under several conditions is made.
    interval
        Guide only between these shares of the process, 0 (clean) to 1 (pure noise); ``(0, 0.5)`` is the half of the
        timesteps with less noise.
    rescale
        0 to 1: how far each sample's standard deviation across features is brought back to what it is without
        guidance (Lin et al., equations 15 and 16).

    References
    ----------
    Kynkäänniemi et al., *Applying Guidance in a Limited Interval Improves Sample and Distribution Quality in
    Diffusion Models*, NeurIPS 2024.
    Lin et al., *Common Diffusion Noise Schedules and Sample Steps are Flawed*, WACV 2024.
    """

    methods: Sequence[tuple[Guidance, Mapping[Keys, float]]] = ()
    keys: Keys = frozenset()
    composition: Composition = JointComposition()
    interval: tuple[float, float] = (0.0, 1.0)
    rescale: float = 0.0

    @property
    def hidden(self) -> Keys:
        """Conditions that the denoiser is not given, because only classifiers guide by them."""
        seen, replaced = set(), set()
        for method, scales in self.methods:
            (replaced if method.replaces_conditions else seen).update(*scales)
        return frozenset(replaced - seen)

    def __call__(self, model: Any, x_t: Tensor, t: Tensor, conditions: Any) -> Tensor:
        """Estimate x_0, (n, d), from ``x_t`` (n, d) at timesteps ``t`` (n,), all the same.

        ``model`` has ``process``, ``estimate(x_t, t, conditions)`` and what its guidance methods need.
        """
        hidden = self.hidden

        @cache
        def network(left: Keys) -> Tensor:
            return model.estimate(x_t, t, conditions.without(*left))

        @cache
        def estimate(left: Keys) -> Tensor:
            return self.composition(network, self.keys, hidden | left)

        x0 = estimate(frozenset())
        if not self.methods or not self._is_guided(t, model.process.n_timesteps):
            return x0
        step = Step(model, x_t, t, conditions, estimate)
        guided = x0 + sum(method.shift(step, scales) for method, scales in self.methods)
        if not self.rescale:
            return guided
        ratio = x0.std(1, keepdim=True) / guided.std(1, keepdim=True)  # Lin et al., eq. 15
        return guided * (self.rescale * ratio + 1 - self.rescale)  # eq. 16

    def _is_guided(self, t: Tensor, n_timesteps: int) -> bool:
        low, high = self.interval
        if low <= 0 and high >= 1:
            return True  # without reading t, for which the host would wait for the device
        return low < (int(t[0]) + 1) / n_timesteps <= high
