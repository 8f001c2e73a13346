"""scDiffusion's autoencoder, in the layout of SCimilarity's checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import COUNTS, autoencoders
from ._log_normalised import LogNormalisedAutoencoder
from ._pretrained import PretrainedWeights


class _Layers(nn.Module):
    """Linear, batch normalisation and PReLU for each hidden layer, then a linear layer.

    Their names in the state dict are SCimilarity's, `network.<layer>.<part>`, where dropout counts as a part.
    """

    def __init__(self, sizes: Sequence[int], dropout: float, *, drop_input: bool) -> None:
        super().__init__()
        self.network = nn.ModuleList()
        for i, (n_in, n_out) in enumerate(pairwise(sizes[:-1])):
            before = [nn.Dropout(dropout)] if drop_input or i else []
            self.network.append(nn.Sequential(*before, nn.Linear(n_in, n_out), nn.BatchNorm1d(n_out), nn.PReLU()))
        self.network.append(nn.Linear(sizes[-2], sizes[-1]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.network:
            x = layer(x)
        return x


class _Encoder(_Layers):
    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(super().forward(x), p=2, dim=1)


@autoencoders.register("scimilarity")
class SCimilarityAutoencoder(LogNormalisedAutoencoder):
    """Fully connected layers with batch normalisation, latents of length one, mirrored decoder, squared error.

    Batch normalisation uses the statistics of the minibatch while training and nowhere else: in evaluation mode, which
    the model is in whenever it encodes or decodes, each cell is treated by itself.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_latent
        Number of latent dimensions.
    n_hidden
        Widths of the encoder's hidden layers; the decoder's are the same in reverse.
    dropout
        Dropout rate of the hidden layers and the genes.
    freeze_hidden
        Whether to train only the layers that genes enter and leave by; the others, with their batch statistics, stay
        as they are. For pretrained weights.
    n_batches
        Ignored: batches are known to the diffusion only.
    values
        Whether it is given `"counts"` or `"log-normalised"` expression.

    References
    ----------
    Luo et al. 2024, scDiffusion; Heimberg et al. 2025, *A cell atlas foundation model for scalable search of similar
    human cells*, Nature, whose software defines the layout.

    Examples
    --------
    >>> import torch
    >>> autoencoder = SCimilarityAutoencoder(n_genes=100, n_latent=8, n_hidden=(32, 32)).eval()
    >>> latents, _ = autoencoder.encode(torch.ones(4, 100))
    >>> latents.shape, torch.allclose(latents.norm(dim=1), torch.ones(4))
    (torch.Size([4, 8]), True)
    """

    def __init__(
        self,
        n_genes: int,
        n_latent: int = 128,
        n_hidden: Sequence[int] = (1024, 1024, 1024),
        dropout: float = 0.0,
        freeze_hidden: bool = False,
        n_batches: int = 0,
        values: str = COUNTS,
    ) -> None:
        if not isinstance(n_hidden, Sequence) or not n_hidden:
            raise ValueError(f"n_hidden must hold the width of each hidden layer, e.g. (1024, 1024); got {n_hidden!r}.")
        sizes = [n_genes, *n_hidden, n_latent]
        super().__init__(
            _Encoder(sizes, dropout, drop_input=True),
            _Layers(sizes[::-1], dropout, drop_input=False),
            n_genes, n_latent, values,
        )  # fmt: skip
        self._frozen = [*self.encoder.network[1:], *self.decoder.network[:-1]] if freeze_hidden else []
        for layer in self._frozen:
            layer.requires_grad_(False)

    def train(self, mode: bool = True) -> SCimilarityAutoencoder:
        """Switch to training mode, except for frozen layers, whose batch statistics would drift."""
        super().train(mode)
        for layer in self._frozen:
            layer.eval()
        return self

    @torch.no_grad()
    def adopt(self, weights: PretrainedWeights, genes: Sequence[str]) -> int:
        """Take over pretrained weights; genes that are not among theirs keep the weights they have.

        Parameters
        ----------
        weights
            From :func:`read_pretrained`, of the same layer sizes.
        genes
            Names of this autoencoder's genes, `(n_genes,)`.

        Returns
        -------
        Number of genes whose weights were taken over.

        Raises
        ------
        ValueError
            If no gene is shared.
        """
        position = {gene: i for i, gene in enumerate(weights.genes)}
        shared = [(i, position[gene]) for i, gene in enumerate(genes) if gene in position]
        if not shared:
            raise ValueError(
                f"None of the {len(genes)} genes is among the {len(position)} pretrained ones: these begin with "
                f"{', '.join(map(repr, weights.genes[:3]))}, those of adata with {', '.join(map(repr, genes[:3]))}. "
                "Set adata.var_names to the same kind of identifier."
            )
        ours, theirs = torch.tensor(shared).T
        first, last = "network.0.1.weight", f"network.{len(self.decoder.network) - 1}"
        encoder, decoder = dict(weights.encoder), dict(weights.decoder)
        encoder[first] = self.encoder.state_dict()[first].clone()
        encoder[first][:, ours] = weights.encoder[first][:, theirs]
        for name in (f"{last}.weight", f"{last}.bias"):
            decoder[name] = self.decoder.state_dict()[name].clone()
            decoder[name][ours] = weights.decoder[name][theirs]
        self.encoder.load_state_dict(encoder)
        self.decoder.load_state_dict(decoder)
        return len(shared)
