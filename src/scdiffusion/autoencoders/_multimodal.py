"""Several modalities of the same cells in joint latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import scipy.sparse as sp
from torch import Tensor

from ._base import COUNTS, autoencoders
from ._components import LinearMap, count_components
from ._counts import CountAutoencoder
from ._joint import JointLikelihood, JointParameters
from ._likelihoods import likelihoods
from ._scales import LibraryScale, PanelScale, Scale

#: Likelihood of each kind of modality, unless another is asked for.
MODALITIES = {"rna": "nb", "protein": "nb", "atac": "poisson"}
# The density of a few thousand cells is learned better in thirty dimensions than in fifty, that of proteins above all.
_MOST_COMPONENTS, _MOST_PANEL_COMPONENTS = 15, 20


@autoencoders.register("multimodal")
class MultimodalAutoencoder(CountAutoencoder):
    r"""Variational autoencoder of several modalities, which share their latents.

    As :class:`CountAutoencoder`, but that the encoder's linear map holds the components of each modality, side by side.
    The posterior's width, the decoder's regression and its network see the latents of all modalities: what one says of
    a cell helps to decode the others.

    Counts of RNA and ATAC are shares of library sizes, each of its own. Those of a protein panel have none, and are read
    on scales of their own (:class:`PanelScale`).

    Parameters
    ----------
    n_genes
        Number of features of all modalities together.
    n_features
        Number of features of each modality, by name, in the order of the columns.
    kinds
        Kind of each modality, `"rna"`, `"protein"` or `"atac"`, by name.
    n_latent
        Number of latent dimensions of each modality, by name.
    likelihood
        Likelihood of each modality, by name, as for :class:`CountAutoencoder`.
    n_discriminant
        How many latents of a modality start as discriminants of each condition key, by name; by default none.
    n_hidden, n_layers, dispersion, n_batches, dropout, values
        As for :class:`CountAutoencoder`.

    Examples
    --------
    >>> import torch
    >>> autoencoder = MultimodalAutoencoder(
    ...     n_genes=110,
    ...     n_features={"rna": 100, "adt": 10},
    ...     kinds={"rna": "rna", "adt": "protein"},
    ...     n_latent={"rna": 5, "adt": 10},
    ...     likelihood={"rna": "nb", "adt": "nb"},
    ... )
    >>> autoencoder.encode(torch.ones(4, 110))[0].shape
    torch.Size([4, 15])
    """

    def __init__(
        self,
        n_genes: int,
        n_features: Mapping[str, int],
        kinds: Mapping[str, str],
        n_latent: Mapping[str, int],
        likelihood: Mapping[str, str],
        n_hidden: int = 256,
        n_layers: int = 1,
        dispersion: str = "gene",
        n_batches: int = 0,
        dropout: float = 0.3,
        n_discriminant: Mapping[str, Sequence[int]] | None = None,
        values: str = COUNTS,
    ) -> None:
        for argument, given in (("n_latent", n_latent), ("likelihood", likelihood)):
            if set(given) != set(n_features):
                raise ValueError(f"{argument} must name every modality ({', '.join(n_features)}); got {given!r}.")
        scales = [PanelScale(n) if kinds[name] == "protein" else LibraryScale() for name, n in n_features.items()]
        joint = JointLikelihood(
            [likelihoods.resolve(likelihood[name]) for name in n_features],
            list(n_features.values()),
            [scale.has_library_size for scale in scales],
        )
        super().__init__(
            n_genes, sum(n_latent.values()), n_hidden, n_layers, joint, dispersion, n_batches, dropout,
            values=values, scales=scales,
        )  # fmt: skip
        n_discriminant = n_discriminant or {}
        self._n_components = [(n_latent[name], n_discriminant.get(name, ())) for name in n_features]

    def _fit_components(
        self, parts: Sequence[tuple[Scale, sp.csr_matrix]], labels: np.ndarray, rng: np.random.Generator
    ) -> list[LinearMap]:
        return [
            scale.fit_components(counts, labels, n_latent - sum(n_discriminant), n_discriminant, rng)
            for (scale, counts), (n_latent, n_discriminant) in zip(parts, self._n_components, strict=True)
        ]

    def parameters_of(self, latents: Tensor, library_size: Tensor, batch: Tensor | None = None) -> JointParameters:
        """Parameters of the counts' distribution in each modality; `library_size` is `(n_cells, n_library)`."""
        return self.likelihood.split(super().parameters_of(latents, library_size, batch))


def count_latents(
    counts: sp.csr_matrix,
    labels: np.ndarray,
    n_features: Mapping[str, int],
    kinds: Mapping[str, str],
    rng: np.random.Generator,
) -> tuple[dict[str, int], dict[str, list[int]]]:
    """How many latents each modality gets, by name.

    RNA and ATAC get as many as :func:`count_components` finds, with 15 principal components at most. Next to nothing of
    a component of proteins is noise, as these are counted in their hundreds: a panel keeps all of them, up to 20.

    Parameters
    ----------
    counts
        Of all modalities, `(n_cells, n_genes)`.
    labels
        Category codes, `(n_cells, n_keys)`.
    n_features, kinds
        Number of features and kind (`"rna"`, `"protein"`, `"atac"`) of each modality, in the order of the columns.
    rng
        Splits the cells.

    Returns
    -------
    The number of latents, and how many of them are discriminants of each condition key.
    """
    n_latent, n_discriminant, start = {}, {}, 0
    for name, n in n_features.items():
        if kinds[name] == "protein":
            n_latent[name], n_discriminant[name] = min(n, _MOST_PANEL_COMPONENTS), []
        else:
            n_principal, found = count_components(counts[:, start : start + n], labels, rng)
            n_latent[name] = min(n_principal, _MOST_COMPONENTS) + sum(found)
            n_discriminant[name] = list(found)
        start += n
    return n_latent, n_discriminant
