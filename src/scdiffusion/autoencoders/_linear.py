"""SCLD's autoencoder: two linear layers on each side."""

from __future__ import annotations

from torch import nn

from ._base import COUNTS, autoencoders
from ._log_normalised import LogNormalisedAutoencoder


@autoencoders.register("linear")
class LinearAutoencoder(LogNormalisedAutoencoder):
    """Two linear layers on each side, each followed by an activation, trained by squared error.

    The activation is a leaky rectifier, which never stops the gradient of a gene that is zero in most cells.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_latent
        Number of latent dimensions.
    n_hidden
        Width of the layer between genes and latents.
    n_batches
        Ignored: batches are known to the diffusion only.
    values
        Whether it is given `"counts"` or `"log-normalised"` expression.

    References
    ----------
    Wang et al., *Single-Cell RNA-seq Synthesis with Latent Diffusion Model*, arXiv 2312.14220, Eqs. 3-6. The paper
    calls the two layers Round and Map.

    Examples
    --------
    >>> import torch
    >>> autoencoder = LinearAutoencoder(n_genes=100, n_latent=8, n_hidden=32)
    >>> latents, _ = autoencoder.encode(torch.ones(4, 100))
    >>> latents.shape
    torch.Size([4, 8])
    """

    def __init__(
        self, n_genes: int, n_latent: int = 64, n_hidden: int = 512, n_batches: int = 0, values: str = COUNTS
    ) -> None:
        super().__init__(
            _two_layers(n_genes, n_hidden, n_latent),
            _two_layers(n_latent, n_hidden, n_genes),
            n_genes,
            n_latent,
            values,
        )


def _two_layers(n_in: int, n_hidden: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(n_in, n_hidden), nn.LeakyReLU(), nn.Linear(n_hidden, n_out), nn.LeakyReLU())
