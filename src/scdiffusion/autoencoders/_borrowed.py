"""The trained encoder and decoder of an scvi-tools model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scvi.module import LDVAE, TOTALVAE, VAE
from torch import Tensor, nn

from ._base import COUNTS, Likelihood, autoencoders
from ._likelihoods import CountParameters, likelihoods


@dataclass
class NormalParameters:
    """Parameters of a normal distribution for each cell and gene, `(n_cells, n_genes)`.

    Attributes
    ----------
    mean, scale
        Mean and standard deviation.
    """

    mean: Tensor
    scale: Tensor

    def head(self, n_cells: int) -> NormalParameters:
        """The parameters of the first cells."""
        return NormalParameters(self.mean[:n_cells], self.scale[:n_cells])


class RectifiedNormal(Likelihood):
    """Normal distribution of which what falls below zero is zero, since expression does not.

    Parameters
    ----------
    values
        What is drawn: `"log-normalised"` expression, or `"counts"`, rounded to whole ones.
    """

    has_library_size = True

    def __init__(self, values: str) -> None:
        self.values = values
        self.dtype = torch.int32 if values == COUNTS else torch.float32

    def log_prob(self, rows: Tensor, columns: Tensor, values: Tensor, p: NormalParameters) -> Tensor:
        """Log-density of what is above zero, and log-probability of the zeros, `(n_cells,)`."""
        of_zeros = torch.special.log_ndtr(-p.mean / p.scale)  # (n_cells, n_genes)
        mean, scale = p.mean[rows, columns], p.scale[rows, columns]
        positive = torch.distributions.Normal(mean, scale).log_prob(values)
        return of_zeros.sum(1).index_add(0, rows, positive - of_zeros[rows, columns])

    def draw(self, p: NormalParameters, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The positive draws."""
        drawn = p.mean + p.scale * torch.randn(p.mean.shape, generator=generator, device=p.mean.device)
        drawn = drawn.round() if self.values == COUNTS else drawn
        rows, columns = (drawn > 0).nonzero(as_tuple=True)
        return rows, columns, drawn[rows, columns]


@autoencoders.register("borrowed")
class BorrowedAutoencoder(nn.Module):
    r"""Encoder and decoder of a trained scVI, scANVI or linearly decoded scVI, frozen :cite:p:`Lopez2018`.

    What :meth:`~scdiffusion.SCDiffusion.from_scvi_model` makes. The modules are scvi-tools' own, and always in
    evaluation mode, so that their batch statistics stay as trained. Latents are those before any transformation, of
    which the posterior is normal. The decoder's expected expression is scaled to the library size of the cell,
    :math:`\ell \rho / \sum_g \rho_g`, which for :math:`\rho` that sum to one is scVI's own; the library size is the
    observed one, whatever scVI took it for.

    Parameters
    ----------
    n_genes
        Number of genes.
    scvi_module
        Name of the class in :mod:`scvi.module`.
    scvi_settings
        Its arguments.
    covariates
        What encoder and decoder are told of cells, in the order of the columns of the covariates they are given: names
        and what each is, `"batch"`, `"categorical"`, `"continuous"`, or `"labels"`, which the dispersions go by.
    n_batches
        Ignored: `scvi_settings` tell.
    values
        What it is given, `"counts"` or `"log-normalised"` expression.
    """

    variational = encodes_covariates = True
    scvi_modules: Mapping[str, type[nn.Module]] = {"VAE": VAE, "LDVAE": LDVAE}
    unused: tuple[str, ...] = ("l_encoder",)  # parts of the module that have no say in expression

    def __init__(
        self,
        n_genes: int,
        scvi_module: str | None = None,
        scvi_settings: Mapping[str, Any] | None = None,
        covariates: Mapping[str, str] | None = None,
        n_batches: int = 0,
        values: str = COUNTS,
    ) -> None:
        super().__init__()
        if scvi_module is None:
            raise ValueError("This autoencoder comes with a trained model: SCDiffusion.from_scvi_model(model).")
        self.scvi = self.scvi_modules[scvi_module](**scvi_settings)
        for name in self.unused:
            delattr(self.scvi, name)
        self.requires_grad_(False).eval()
        self.n_genes, self.n_latent = n_genes, self.scvi.n_latent
        name = self.scvi.gene_likelihood
        self.likelihood = RectifiedNormal(values) if name == "normal" else likelihoods.resolve(name)
        self.covariates = dict(covariates or {})

    def adopt(self, state: Mapping[str, Tensor]) -> None:
        """Take over the weights of a trained module, given its state dict."""
        self.scvi.load_state_dict({name: state[name] for name in self.scvi.state_dict()})

    def train(self, mode: bool = True) -> BorrowedAutoencoder:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def initialise(self, expression: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Keep the weights as they are."""

    def calibrate(self, expression: sp.csr_matrix, batch: np.ndarray | None, rng: np.random.Generator) -> None:
        """Keep the weights as they are."""

    def encode(self, expression: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents' posterior, each `(n_cells, n_latent)`.

        Parameters
        ----------
        expression
            `(n_cells, n_genes)`.
        covariates
            `(n_cells, n_covariates)`.
        """
        told = {"cat_covs": self._told(covariates, "categorical"), "cont_covs": self._told(covariates, "continuous")}
        posterior = self.scvi.inference(expression, self._code(covariates, "batch"), **told)["qz"]
        return posterior.loc, 2 * posterior.scale.log()

    def parameters_of(
        self, latents: Tensor, library_size: Tensor, covariates: Tensor
    ) -> CountParameters | NormalParameters:
        """Parameters of the distribution of the expression.

        Parameters
        ----------
        latents
            `(n_cells, n_latent)`.
        library_size
            Expected total of the expression, `(n_cells,)`.
        covariates
            `(n_cells, n_covariates)`.
        """
        z = latents.softmax(-1) if self.scvi.latent_distribution == "ln" else latents
        rate, dispersion, zero_logits = self._decode(z, covariates)
        mean = rate * (library_size.reshape(-1, 1) / rate.sum(1, keepdim=True))
        if isinstance(self.likelihood, RectifiedNormal):
            return NormalParameters(mean, dispersion)
        # A share that underflows to zero must not make a count impossible.
        log_rate = mean.clamp(min=1e-30).log()
        return CountParameters(log_rate, None if dispersion is None else dispersion.log(), zero_logits)

    def _decode(self, z: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Expected expression up to a factor, dispersion, and logits of additional zeros, `(n_cells, n_genes)`."""
        none = z.new_zeros((len(z), 1))  # logarithm of a library size of one
        px = self.scvi.generative(
            z,
            none,
            self._code(covariates, "batch"),
            cont_covs=self._told(covariates, "continuous"),
            cat_covs=self._told(covariates, "categorical"),
            size_factor=none,
            y=self._code(covariates, "labels"),
        )["px"]
        return {
            "nb": lambda: (px.mu, px.theta, None),
            "zinb": lambda: (px.mu, px.theta, px.zi_logits),
            "poisson": lambda: (px.rate, None, None),
            "normal": lambda: (px.loc, px.scale, None),
        }[self.scvi.gene_likelihood]()

    def loss(self, expression: Tensor, latents: Tensor, covariates: Tensor) -> Tensor:
        """Negative log-likelihood of each cell, `(n_cells,)`."""
        rows, columns = expression.nonzero(as_tuple=True)
        parameters = self.parameters_of(latents, expression.sum(1), covariates)
        return -self.likelihood.log_prob(rows, columns, expression[rows, columns], parameters)

    def _told(self, covariates: Tensor, kind: str) -> Tensor | None:
        """The covariates of a kind, `(n_cells, n_of_kind)`, categories as the integers that they must be."""
        columns = [i for i, other in enumerate(self.covariates.values()) if other == kind]
        if not columns:
            return None
        return covariates[:, columns] if kind == "continuous" else covariates[:, columns].round().long()

    def _code(self, covariates: Tensor, kind: str) -> Tensor:
        """The one category of a kind, `(n_cells, 1)`; the first where the model knows one only."""
        codes = self._told(covariates, kind)
        return covariates.new_zeros((len(covariates), 1), dtype=torch.long) if codes is None else codes


@autoencoders.register("borrowed_totalvi")
class BorrowedTotalVI(BorrowedAutoencoder):
    """RNA decoder of a trained totalVI, frozen.

    Its encoder reads RNA and protein together, so that cells of RNA alone have no latents here.
    """

    encodes_covariates = True
    scvi_modules = {"TOTALVAE": TOTALVAE}
    unused = ("encoder", "background_pro_alpha", "background_pro_log_beta")

    def encode(self, expression: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor]:
        """Raise: there is no protein to encode."""
        raise ValueError(
            "totalVI encodes RNA together with protein, which this model does not hold: only the cells that it was made "
            "from have latents. Make it anew for others: SCDiffusion.from_scvi_model(model, adata)."
        )

    def _decode(self, z: Tensor, covariates: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        one = z.new_ones((len(z), 1))
        px = self.scvi.generative(
            z,
            one,
            self._code(covariates, "batch"),
            self._code(covariates, "labels"),
            cont_covs=self._told(covariates, "continuous"),
            cat_covs=self._told(covariates, "categorical"),
            size_factor=one,
        )["px_"]
        return px["rate"], px["r"].expand_as(px["rate"]), px["dropout"] if self.scvi.gene_likelihood == "zinb" else None
