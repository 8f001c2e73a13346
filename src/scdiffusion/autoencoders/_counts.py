"""The default autoencoder: variational, on counts, with a linear path beside the network."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import COUNTS, autoencoders
from ._components import fit_components, gene_weights, normalise
from ._glm import fit_glm
from ._likelihoods import CountParameters, likelihoods

DISPERSIONS = ("gene", "gene-batch", "gene-cell")
# The starting values need no more cells than this; the optimiser sees all of them.
_N_CELLS_INITIALISE = 5_000


@autoencoders.register("counts")
class CountAutoencoder(nn.Module):
    r"""Variational autoencoder of counts whose linear path starts as a principal component analysis.

    Encoder and decoder are each the sum of a linear map and a small network. The linear maps start from the
    principal components of the log-normalised counts, the inverse dispersions from their likeliest values
    given those components, and the network's part from zero. Training therefore starts where GLM-PCA
    :cite:p:`Townes2019` would end, and a few hundred steps suffice, on small and wide data too.

    Counts follow the chosen likelihood with mean :math:`\ell \cdot \mathrm{softmax}(f(z))`, where :math:`\ell` is the
    library size of the cell :cite:p:`Lopez2018`. No layer uses batch statistics: how a cell is decoded never depends
    on the cells beside it.

    Parameters
    ----------
    n_genes
        Number of genes.
    n_latent
        Number of latent dimensions.
    n_hidden
        Width of the hidden layers.
    n_layers
        Number of hidden layers on each side.
    likelihood
        `"nb"`, `"zinb"`, `"poisson"`, or a :class:`CountLikelihood`.
    dispersion
        Whether the inverse dispersion is one number per gene (`"gene"`), per gene and batch (`"gene-batch"`), or
        decoded for each cell (`"gene-cell"`).
    n_batches
        Number of batches of the nuisance condition; 0 for none.
    dropout
        Dropout rate of the hidden layers.
    values
        What it is given; only `"counts"` will do.
    """

    variational = True

    def __init__(
        self,
        n_genes: int,
        n_latent: int = 30,
        n_hidden: int = 256,
        n_layers: int = 1,
        likelihood: str = "nb",
        dispersion: str = "gene",
        n_batches: int = 0,
        dropout: float = 0.3,
        values: str = COUNTS,
    ) -> None:
        super().__init__()
        if values != COUNTS:
            raise ValueError(
                f"This autoencoder models counts, but {values} expression was registered. Register raw counts, "
                "setup_anndata(adata, layer='counts'), or choose a preset for log-normalised expression, 'scdiffusion' "
                "or 'scld'."
            )
        if dispersion not in DISPERSIONS:
            raise ValueError(f"Unknown dispersion {dispersion!r}. Available: {', '.join(DISPERSIONS)}.")
        if dispersion == "gene-batch" and not n_batches:
            raise ValueError("dispersion='gene-batch' needs a batch: pass batch_key= to setup_anndata.")
        self.n_genes, self.n_latent, self.n_batches = n_genes, n_latent, n_batches
        self.likelihood = likelihoods.resolve(likelihood)
        self.dispersion = dispersion if self.likelihood.has_dispersion else None

        self.encoder_input = nn.Linear(n_genes, n_hidden)
        self.encoder = _hidden_layers(n_hidden, n_layers, dropout)
        self.encoder_output = nn.Linear(n_hidden, 2 * n_latent)
        self.encoder_linear = nn.Linear(n_genes, n_latent)

        self.decoder_input = nn.Linear(n_latent, n_hidden)
        self.decoder = _hidden_layers(n_hidden, n_layers, dropout)
        self.decoder_output = nn.Linear(n_hidden + n_latent, n_genes)
        self.decoder_batch = nn.Embedding(n_batches, n_genes) if n_batches else None
        self.decoder_zero = nn.Linear(n_hidden, n_genes) if self.likelihood.has_zero_inflation else None
        self.decoder_dispersion = nn.Linear(n_hidden, n_genes, bias=False) if self.dispersion == "gene-cell" else None
        if self.dispersion:
            n_rows = n_batches if self.dispersion == "gene-batch" else 1
            self.log_dispersion = nn.Parameter(torch.zeros(n_rows, n_genes))
        self.register_buffer("input_scale", torch.tensor(1e4))
        self._zero_network_outputs()

    def _zero_network_outputs(self) -> None:
        """Let the networks start silent, so that the linear path alone defines the starting point."""
        nn.init.zeros_(self.encoder_output.weight)
        nn.init.zeros_(self.encoder_output.bias)
        nn.init.constant_(self.encoder_output.bias[self.n_latent :], -4.0)
        nn.init.zeros_(self.decoder_output.weight)
        for layer in (self.decoder_batch, self.decoder_zero, self.decoder_dispersion):
            if layer is not None:
                nn.init.zeros_(layer.weight)
        if self.decoder_zero is not None:
            nn.init.constant_(self.decoder_zero.bias, -3.0)

    @torch.no_grad()
    def initialise(self, counts: sp.csr_matrix, rng: np.random.Generator) -> None:
        """Start the encoder from principal components, and the decoder from a regression on them.

        Parameters
        ----------
        counts
            Counts of the training cells, `(n_cells, n_genes)`.
        rng
            Chooses the cells where there are more than needed.
        """
        if counts.shape[0] > _N_CELLS_INITIALISE:
            counts = counts[np.sort(rng.choice(counts.shape[0], _N_CELLS_INITIALISE, replace=False))]
        library = np.asarray(counts.sum(1)).ravel().astype(np.float32)  # (n_cells,)
        self.input_scale.fill_(float(np.median(library)))

        weights = gene_weights(counts, rng)
        pca = fit_components(counts, weights, self.n_latent, rng)
        n_components = pca.n_components_
        scores = pca.transform(normalise(counts, float(self.input_scale)) @ sp.diags_array(weights))
        scores = squash(torch.from_numpy(scores)).numpy()  # (n_cells, n_components)
        encoder = pca.components_ / np.sqrt(pca.explained_variance_)[:, None]  # (n_components, n_genes)
        self.encoder_linear.weight.zero_()
        self.encoder_linear.bias.zero_()
        self.encoder_linear.weight[:n_components] = torch.from_numpy(encoder * weights)
        self.encoder_linear.bias[:n_components] = torch.from_numpy(-encoder @ pca.mean_)
        coefficients, log_dispersion = fit_glm(counts, library, scores, estimate_dispersion=self.dispersion is not None)
        n_hidden = self.decoder_input.out_features
        self.decoder_output.bias.copy_(coefficients[:, 0])
        self.decoder_output.weight[:, n_hidden : n_hidden + n_components] = coefficients[:, 1:]
        if self.dispersion:
            self.log_dispersion.copy_(log_dispersion)

    def encode(self, counts: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents' posterior.

        Parameters
        ----------
        counts
            Counts, `(n_cells, n_genes)`.

        Returns
        -------
        Mean and log-variance, each `(n_cells, n_latent)`.
        """
        library = counts.sum(1, keepdim=True).clamp(min=1)
        x = torch.log1p(counts * (self.input_scale / library))
        mean, log_variance = self.encoder_output(self.encoder(self.encoder_input(x))).chunk(2, dim=1)
        return squash(self.encoder_linear(x).float()) + mean, log_variance.clamp(-10, 4)

    def parameters_of(self, latents: Tensor, library_size: Tensor, batch: Tensor | None = None) -> CountParameters:
        """Parameters of the counts' distribution.

        Parameters
        ----------
        latents
            `(n_cells, n_latent)`.
        library_size
            Expected total counts, `(n_cells,)`.
        batch
            Batch codes, `(n_cells,)`; None where there are no batches.
        """
        hidden = self.decoder(self.decoder_input(latents))
        logits = self.decoder_output(torch.cat([hidden, latents], dim=1))
        log_dispersion = None
        if self.decoder_batch is not None:
            logits = logits + self.decoder_batch(batch)
        if self.dispersion:
            log_dispersion = self.log_dispersion[batch] if self.dispersion == "gene-batch" else self.log_dispersion
            if self.decoder_dispersion is not None:
                log_dispersion = log_dispersion + self.decoder_dispersion(hidden).float()
        return CountParameters(
            F.log_softmax(logits.float(), dim=1) + library_size.log()[:, None],
            log_dispersion,
            None if self.decoder_zero is None else self.decoder_zero(hidden).float(),
        )

    def loss(self, counts: Tensor, latents: Tensor, batch: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each cell, `(n_cells,)`."""
        rows, columns = counts.nonzero(as_tuple=True)
        parameters = self.parameters_of(latents, counts.sum(1), batch)
        return -self.likelihood.log_prob(rows, columns, counts[rows, columns], parameters)


def squash(scores: Tensor) -> Tensor:
    """Nearly the identity within two standard deviations, logarithmic far out.

    Cells of a rare type may lie ten standard deviations out on a component, where a log-linear decoder would explode.
    """
    return 2 * torch.asinh(scores / 2)


def _hidden_layers(n_hidden: int, n_layers: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(n_layers):
        if i:
            layers.append(nn.Linear(n_hidden, n_hidden))
        layers += [nn.LayerNorm(n_hidden), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
