"""Guidance: pulling samples towards a condition while they are drawn."""

from __future__ import annotations

from torch import Tensor


def classifier_free(conditional_x0: Tensor, unconditional_x0: Tensor, scale: float | Tensor) -> Tensor:
    """Push the conditional estimate away from the unconditional one, ``(1 + w) cond - w uncond``.

    SCLD's equation 13 combines estimates of the noise. Here estimates of x_0 are combined, which is the same:
    at a given ``x_t`` the two are tied by ``x_t = alpha x_0 + sigma noise``, an affine map,
    and the weights ``1 + w`` and ``-w`` sum to one, so they pass through it unchanged.

    Parameters
    ----------
    conditional_x0
        Estimate of x_0 given the condition, (n, d).
    unconditional_x0
        Estimate of x_0 given no condition, or the global one, (n, d).
    scale
        w, one number or one per sample as (n, 1).
        -1 is unconditional, 0 conditional; above 0 the samples are sharper and less varied.

    Returns
    -------
    The guided estimate of x_0, (n, d).

    References
    ----------
    Ho & Salimans, *Classifier-Free Diffusion Guidance*, 2022, equation 6.
    SCLD, arXiv 2312.14220, equation 13.

    Examples
    --------
    >>> import torch
    >>> classifier_free(torch.tensor([[2.0]]), torch.tensor([[1.0]]), scale=0.5)
    tensor([[2.5000]])
    """
    return (1 + scale) * conditional_x0 - scale * unconditional_x0
