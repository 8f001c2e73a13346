"""The default autoencoder: variational, on counts, with a linear path beside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ._base import COUNTS, autoencoders
from ._components import LinearMap, subsample
from ._glm import fit_zero_inflation
from ._likelihoods import CountLikelihood, CountParameters, likelihoods
from ._scales import LibraryScale, Scale

DISPERSIONS = ("gene", "gene-batch", "gene-cell")
# Bounds of the share of a latent's variance that re-encoding a cell may add.
_NOISE_RANGE = (0.001, 0.8)
_N_CELLS_CALIBRATE = 10_000
_LOG_BACKGROUND = -1.5  # a fifth, to start from
# A gene's counts are then three thousand times as high where it is detected as on average.
_MOST_ZERO_LOGIT = 8.0
_BLOCK = 512


@autoencoders.register("counts")
class CountAutoencoder(nn.Module):
    r"""Variational autoencoder of counts whose linear path starts as a principal component analysis.

    Encoder and decoder are each the sum of a linear map and a small network. The encoder's linear map holds the
    principal components of the log-normalised counts, and discriminants of the conditions beside them; it stays as it
    is. The decoder's starts from a regression of the counts on these, the inverse dispersions from their likeliest
    values, the posterior's width from the noise that counts leave in the components, and the network's parts from
    zero. Training therefore starts where GLM-PCA :cite:p:`Townes2019` would end, and a few hundred steps suffice, on
    small and wide data too.

    Counts follow the chosen likelihood with mean :math:`\ell \cdot \mathrm{softmax}(f(z))`, where :math:`\ell` is the
    library size of the cell :cite:p:`Lopez2018`; with zero inflation, the zeros are counted in. No layer uses batch
    statistics: how a cell is decoded never depends on the cells beside it.

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
        `"nb"`, `"zinb"`, `"poisson"`, `"nb_mixture"`, `"bernoulli"`, or a :class:`CountLikelihood`.
    dispersion
        Whether the inverse dispersion is one number per gene (`"gene"`), per gene and batch (`"gene-batch"`), or
        decoded for each cell (`"gene-cell"`).
    n_batches
        Number of batches of the nuisance condition; 0 for none.
    dropout
        Dropout rate of the hidden layers.
    n_discriminant
        How many of the latents start as discriminants of each condition key; the others as principal components.
    values
        What it is given; only `"counts"` will do.
    scales
        How the counts of each member of the likelihood are read and given; by default as shares of a library size.
    """

    variational, encodes_covariates = True, False

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
        n_discriminant: Sequence[int] = (),
        values: str = COUNTS,
        scales: Sequence[Scale] | None = None,
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
        if sum(n_discriminant) >= n_latent:
            raise ValueError(
                f"n_latent={n_latent} leaves no principal component beside {sum(n_discriminant)} discriminants."
            )
        self.n_genes, self.n_latent, self.n_batches = n_genes, n_latent, n_batches
        self.n_discriminant = tuple(n_discriminant)
        self.likelihood = likelihoods.resolve(likelihood)
        self.dispersion = dispersion if self.likelihood.has_dispersion else None

        self.encoder_input = nn.Linear(n_genes, n_hidden)
        self.encoder = _hidden_layers(n_hidden, n_layers, dropout)
        self.encoder_output = nn.Linear(n_hidden, 2 * n_latent)
        self.register_buffer("component_weights", torch.zeros(n_latent, n_genes))
        self.register_buffer("component_offset", torch.zeros(n_latent))
        self.register_buffer("is_squashed", torch.ones(n_latent, dtype=torch.bool))
        self.register_buffer("rotation", torch.eye(n_latent))

        self.decoder_input = nn.Linear(n_latent, n_hidden)
        self.decoder = _hidden_layers(n_hidden, n_layers, dropout)
        self.decoder_output = nn.Linear(n_hidden + n_latent, n_genes)
        self.decoder_batch = nn.Embedding(n_batches, n_genes) if n_batches else None
        self.decoder_zero = nn.Linear(n_hidden + n_latent, n_genes) if self.likelihood.has_zero_inflation else None
        self.decoder_dispersion = nn.Linear(n_hidden, n_genes, bias=False) if self.dispersion == "gene-cell" else None
        if self.likelihood.has_background:
            self.log_background = nn.Parameter(torch.full((1, n_genes), _LOG_BACKGROUND))
        if self.dispersion:
            n_rows = n_batches if self.dispersion == "gene-batch" else 1
            self.log_dispersion = nn.Parameter(torch.zeros(n_rows, n_genes))
        self.scales = nn.ModuleList(scales or [LibraryScale()])
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
    def initialise(self, counts: sp.csr_matrix, labels: np.ndarray, rng: np.random.Generator) -> None:
        """Start the encoder from components of the data, and the decoder from a regression on them.

        Parameters
        ----------
        counts
            Counts of the training cells, `(n_cells, n_genes)`.
        labels
            Category codes of their conditions, `(n_cells, n_keys)`.
        rng
            Chooses the cells where there are more than needed.
        """
        counts, labels = subsample(counts, labels, rng)
        parts = [(scale, counts[:, columns]) for columns, _, scale in self._members()]
        for (scale, part), (_, likelihood) in zip(parts, self.likelihood.members, strict=True):
            if part.max() > likelihood.largest:
                raise ValueError(
                    f"{type(likelihood).__name__} counts are {likelihood.largest:g} at most, but there are some of "
                    f"{part.max():g}. Set them to one, or choose likelihood='poisson'."
                )
            scale.fit(part)
        maps = self._fit_components(parts, labels, rng)
        weights = scipy.linalg.block_diag(*(components.weights.T for components in maps))
        n_components = len(weights)  # few cells may allow fewer than asked for
        self.component_weights.zero_()
        self.component_offset.zero_()
        self.component_weights[:n_components] = torch.from_numpy(weights)
        self.component_offset[:n_components] = torch.from_numpy(np.hstack([components.offset for components in maps]))
        is_share = [np.full(len(c.offset), scale.has_library_size) for c, (scale, _) in zip(maps, parts, strict=True)]
        self.is_squashed[:n_components] = torch.from_numpy(np.hstack(is_share))

        scores = torch.cat([self._scores(self._normalised(x)) for x in _dense_blocks(counts)])
        known = scores.numpy()[:, :n_components]
        coefficients = torch.cat([scale.regress(part, known) for scale, part in parts])
        _set_linear_path(self.decoder_output, coefficients, self.n_latent)
        zeros = self._fit_zero_inflation(counts, scores, known)
        log_dispersion = self._fit_dispersions(counts, scores, None)
        if self.dispersion:
            self.log_dispersion.copy_(log_dispersion)
        axes = self._leave_room_for_noise(counts, scores, n_components, int(rng.integers(2**31)))
        coefficients[:, 0] = self.decoder_output.bias
        for layer, fitted in ((self.decoder_output, coefficients), (self.decoder_zero, zeros)):
            if fitted is not None:
                _set_linear_path(
                    layer, torch.cat([fitted[:, :1], fitted[:, 1:] @ torch.linalg.inv(axes).T], dim=1), self.n_latent
                )
        self.calibrate(counts, None, rng)

    def _fit_components(
        self, parts: Sequence[tuple[Scale, sp.csr_matrix]], labels: np.ndarray, rng: np.random.Generator
    ) -> list[LinearMap]:
        """Components of each member of the likelihood."""
        ((scale, counts),) = parts
        n_principal = self.n_latent - sum(self.n_discriminant)
        return [scale.fit_components(counts, labels, n_principal, self.n_discriminant, rng)]

    @torch.no_grad()
    def calibrate(self, counts: sp.csr_matrix, batch: np.ndarray | None, rng: np.random.Generator) -> None:
        """Give every gene its total and its likeliest dispersion, for samples of the latents.

        Gradient steps leave both a little off, and let a gene's few impossible counts into its dispersion.

        Parameters
        ----------
        counts
            `(n_cells, n_genes)`.
        batch
            Batch codes, `(n_cells,)`; None where there are no batches, or all are still alike.
        rng
            Chooses the cells where there are more than needed, and samples latents.
        """
        cells = np.arange(counts.shape[0])
        if len(cells) > _N_CELLS_CALIBRATE:
            cells = np.sort(rng.choice(cells, _N_CELLS_CALIBRATE, replace=False))
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        counts, latents = counts[cells], []
        for x in _dense_blocks(counts):
            mean, log_variance = self.encode(x)
            noise = torch.randn(mean.shape, generator=generator)
            latents.append(mean + noise * (0.5 * log_variance).exp())
        batches = None if batch is None else torch.from_numpy(batch[cells])
        log_dispersion = self._fit_dispersions(counts, torch.cat(latents), batches)
        for columns, likelihood, _ in self._members():
            if self.dispersion == "gene" and not likelihood.has_background:
                self.log_dispersion[:, columns] = log_dispersion[columns]

    def _fit_dispersions(self, counts: sp.csr_matrix, latents: Tensor, batch: Tensor | None) -> Tensor:
        """Set the intercepts to give each gene's total, and return its likeliest log dispersion, `(n_genes,)`."""
        features = self._features(latents)
        if batch is None and self.n_batches:
            batch = torch.zeros(len(latents), dtype=torch.long)
        return torch.cat([self._fit_member(*member, counts, features, batch) for member in self._members()])

    def _fit_member(
        self,
        columns: slice,
        likelihood: CountLikelihood,
        scale: Scale,
        counts: sp.csr_matrix,
        features: Tensor,
        batch: Tensor | None,
    ) -> Tensor:
        """The same of one member of the likelihood."""

        def zero_logits(genes: slice) -> Tensor:
            return self._zero_logits(features, columns, genes)

        def kept(genes: slice) -> Tensor:
            if not likelihood.has_background:
                return torch.ones(())
            zero = zero_logits(genes)
            background = self.log_background[:, columns][:, genes]
            return CountParameters(torch.zeros_like(zero), None, zero, background).mean

        shift, log_dispersion = scale.fit_dispersions(
            counts[:, columns],
            self._output_of(columns, features, batch),
            kept,
            zero_logits if likelihood.inflates_zeros else None,
        )
        self.decoder_output.bias[columns] += shift
        return log_dispersion

    def _fit_zero_inflation(self, counts: sp.csr_matrix, scores: Tensor, known: np.ndarray) -> Tensor | None:
        """Start the zero inflation, where there is one, from a regression on the scores, which is returned too."""
        if self.decoder_zero is None:
            return None
        features, coefficients = self._features(scores), torch.zeros(self.n_genes, 1 + known.shape[1])
        coefficients[:, 0] = self.decoder_zero.bias
        batch = torch.zeros(len(scores), dtype=torch.long) if self.n_batches else None  # all alike before training
        for columns, likelihood, scale in self._members():
            if likelihood.inflates_zeros:
                means = scale.means(counts[:, columns], self._output_of(columns, features, batch))
                coefficients[columns] = fit_zero_inflation(counts[:, columns], means, known)
        _set_linear_path(self.decoder_zero, coefficients, self.n_latent)
        return coefficients

    def _output_of(self, columns: slice, features: Tensor, batch: Tensor | None) -> Callable[[slice, slice], Tensor]:
        """What the decoder puts out for a range of a member's genes and of cells."""
        weight, bias = self.decoder_output.weight[columns], self.decoder_output.bias[columns]  # views

        def output(genes: slice, cells: slice) -> Tensor:
            values = F.linear(features[cells], weight[genes], bias[genes])
            return values if batch is None else values + self.decoder_batch.weight[:, columns][:, genes][batch[cells]]

        return output

    def _features(self, latents: Tensor) -> Tensor:
        """What the last layers read: the network's hidden units and the latents, `(n_cells, n_hidden + n_latent)`."""
        return torch.cat([self.decoder(self.decoder_input(latents)), latents], dim=1)

    def _zero_logits(self, features: Tensor, columns: slice = slice(None), genes: slice = slice(None)) -> Tensor:
        """Logits of zero inflation, or of a background, of some of a member's genes, `(n_cells, n_genes)`."""
        weight, bias = self.decoder_zero.weight[columns][genes], self.decoder_zero.bias[columns][genes]
        logits = F.linear(features, weight, bias)
        return logits.float().clamp(max=_MOST_ZERO_LOGIT)

    def _leave_room_for_noise(self, counts: sp.csr_matrix, scores: Tensor, n_scores: int, seed: int) -> Tensor:
        r"""Turn scores, which hold the counts' noise, into a posterior of what lies behind them.

        Cells decoded from scores get noise anew, and would scatter more widely than real ones. How much is seen by
        encoding such cells again: where noise makes up the share :math:`\nu` of the variance along a direction, the
        posterior given a score :math:`s` of unit variance is normal with mean :math:`(1 - \nu) s` and variance
        :math:`\nu (1 - \nu)`, and cells decoded from its samples scatter as real ones do.

        Returns
        -------
        The latents as directions in the scores, `(n_scores, n_scores)`: those along which noise is uncorrelated.
        """
        generator = torch.Generator().manual_seed(seed)
        first, second = (self._encode_again(scores, counts, generator)[:, :n_scores].double() for _ in range(2))
        noise = torch.atleast_2d(torch.cov((first - second).T)) / 2  # of a single score, a number
        spread = torch.atleast_2d(torch.cov(scores[:, :n_scores].T.double()))
        whiten = torch.linalg.inv(torch.linalg.cholesky(spread))
        share, axes = torch.linalg.eigh(whiten @ noise @ whiten.T)
        share, axes = share.clamp(*_NOISE_RANGE).float(), (whiten.T @ axes).float()  # scores @ axes has unit variance
        self.rotation.zero_()
        self.rotation[:n_scores, :n_scores] = axes * (1 - share)
        self.encoder_output.bias[self.n_latent : self.n_latent + n_scores] = (share * (1 - share)).log()
        return axes

    def _encode_again(self, latents: Tensor, counts: sp.csr_matrix, generator: torch.Generator) -> Tensor:
        """Scores of counts drawn from latents, at the library sizes of counts, `(n_cells, n_latent)`."""
        scores = []
        for z, x in zip(latents.split(_BLOCK), _dense_blocks(counts), strict=True):
            batch = torch.zeros(len(z), dtype=torch.long) if self.n_batches else None  # all alike before training
            parameters = self.parameters_of(z, self.likelihood.library_size(x), batch)
            rows, columns, drawn = self.likelihood.draw(parameters, generator)
            scores.append(self._scores(self._normalised(torch.zeros_like(x).index_put_((rows, columns), drawn))))
        return torch.cat(scores)

    def _members(self) -> Iterator[tuple[slice, CountLikelihood, Scale]]:
        """Columns, likelihood and scale of each modality."""
        for (columns, likelihood), scale in zip(self.likelihood.members, self.scales, strict=True):
            yield columns, likelihood, scale

    def _normalised(self, counts: Tensor) -> Tensor:
        """Counts as the encoder reads them, `(n_cells, n_genes)`."""
        return torch.cat([scale(counts[:, columns]) for columns, _, scale in self._members()], dim=1)

    def _scores(self, x: Tensor) -> Tensor:
        """Components of what the encoder reads, `(n_cells, n_latent)`."""
        scores = F.linear(x, self.component_weights, -self.component_offset).float()
        return torch.where(self.is_squashed, squash(scores), scores)

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
        x = self._normalised(counts)
        mean, log_variance = self.encoder_output(self.encoder(self.encoder_input(x))).chunk(2, dim=1)
        return self._scores(x) @ self.rotation + mean, log_variance.clamp(-10, 4)

    def parameters_of(self, latents: Tensor, library_size: Tensor, batch: Tensor | None = None) -> CountParameters:
        """Parameters of the counts' distribution.

        Parameters
        ----------
        latents
            `(n_cells, n_latent)`.
        library_size
            Expected total counts, `(n_cells,)`, of several modalities `(n_cells, n_library)`.
        batch
            Batch codes, `(n_cells,)`; None where there are no batches.
        """
        features = self._features(latents)
        output = self.decoder_output(features)
        zero_logits = None if self.decoder_zero is None else self._zero_logits(features)
        log_dispersion = None
        if self.decoder_batch is not None:
            output = output + self.decoder_batch(batch)
        if self.dispersion:
            log_dispersion = self.log_dispersion[batch] if self.dispersion == "gene-batch" else self.log_dispersion
            if self.decoder_dispersion is not None:
                log_dispersion = log_dispersion + self.decoder_dispersion(features[:, : -self.n_latent]).float()
        n_library = [int(scale.has_library_size) for scale in self.scales]
        sizes = library_size.log().reshape(len(latents), sum(n_library)).split(n_library, dim=1)
        log_rates = []
        for (columns, likelihood, scale), log_library in zip(self._members(), sizes, strict=True):
            log_rates.append(scale.log_mean(output[:, columns].float(), log_library))
            if likelihood.inflates_zeros:  # what is not an inflated zero makes up for those that are
                log_rates[-1] = log_rates[-1] + F.softplus(zero_logits[:, columns])
        return CountParameters(
            torch.cat(log_rates, dim=1),
            log_dispersion,
            zero_logits,
            self.log_background if self.likelihood.has_background else None,
        )

    def loss(self, counts: Tensor, latents: Tensor, batch: Tensor | None = None) -> Tensor:
        """Negative log-likelihood of each cell, `(n_cells,)`."""
        rows, columns = counts.nonzero(as_tuple=True)
        parameters = self.parameters_of(latents, self.likelihood.library_size(counts), batch)
        return -self.likelihood.log_prob(rows, columns, counts[rows, columns], parameters)


def squash(scores: Tensor) -> Tensor:
    """Nearly the identity within two standard deviations, logarithmic far out.

    Cells of a rare type may lie ten standard deviations out on a component, where a log-linear decoder would explode.
    """
    return 2 * torch.asinh(scores / 2)


def _set_linear_path(layer: nn.Linear, coefficients: Tensor, n_latent: int) -> None:
    """Let a last layer read intercept and slopes, `(n_genes, 1 + n_scores)`, off the latents and nothing off the network."""
    slopes = layer.weight[:, -n_latent:]  # a view
    slopes.zero_()
    slopes[:, : coefficients.shape[1] - 1] = coefficients[:, 1:]
    layer.bias.copy_(coefficients[:, 0])


def _dense_blocks(counts: sp.csr_matrix) -> Iterator[Tensor]:
    return (torch.from_numpy(counts[start : start + _BLOCK].toarray()) for start in range(0, counts.shape[0], _BLOCK))


def _hidden_layers(n_hidden: int, n_layers: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(n_layers):
        if i:
            layers.append(nn.Linear(n_hidden, n_hidden))
        layers += [nn.LayerNorm(n_hidden), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers)
