"""The scorer: how real a generated cell looks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Standard deviations of real cells beyond which a feature counts as no farther away.
_FARTHEST = 6.0


class Scorer(nn.Module):
    r"""Tells real cells from generated ones; for :meth:`~scdiffusion.SCDiffusion.train_scorer`.

    Three linear layers, as in SCLD, with dropout between them. The output :math:`s(x)` is the logit of the probability
    that a cell is real. Trained with as much weight on real as on generated cells, it is the logarithm of the ratio of their densities,

    .. math:: s(x) = \log \frac{d(x)}{1 - d(x)} \approx \log \frac{p_\text{real}(x)}{p_\text{generated}(x)}.

    Parameters
    ----------
    n_features
        Number of features of a cell.
    n_hidden
        Width.
    dropout
        Dropout rate after the first two layers.

    References
    ----------
    Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model* (SCLD), 2023, post-guidance.
    Sugiyama et al., *Density Ratio Estimation in Machine Learning*, 2012, chapter 4.

    Examples
    --------
    >>> import torch
    >>> scorer = Scorer(n_features=10).eval()
    >>> scorer(torch.randn(5, 10)).shape
    torch.Size([5])
    """

    def __init__(self, n_features: int, n_hidden: int = 128, dropout: float = 0.2) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        self.layers = nn.Sequential(
            nn.Linear(n_features, n_hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, n_hidden),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Linear(n_hidden, 1),
        )

    @torch.no_grad()
    def set_standardisation(self, real: Tensor) -> None:
        """Measure features, `(n_cells, n_features)`, by the mean and standard deviation of these real cells."""
        self.mean.copy_(real.mean(0))
        self.scale.copy_(real.std(0).clamp(min=1e-6))

    def forward(self, features: Tensor) -> Tensor:
        """Logit of the probability that cells are real, `(n_cells,)`, from their features, `(n_cells, n_features)`."""
        # Generated cells may lie where no real cell does, and a linear extrapolation there would be unbounded.
        standardised = ((features - self.mean) / self.scale).clamp(-_FARTHEST, _FARTHEST)
        return self.layers(standardised).squeeze(1)
