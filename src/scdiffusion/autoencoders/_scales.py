"""Scales on which a decoder's linear path is fitted: what it puts out, and the counts that are meant by it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from scipy.stats import norm
from sklearn.decomposition import PCA
from torch import Tensor, nn

from ._components import LinearMap, fit_components
from ._glm import fit_dispersions, fit_means

_BLOCK = 512
_N_KNOTS = 128
# Share of a protein's map that makes its counts log-normal in any case, so that no gap between its modes is closed.
_LOG_NORMAL_SHARE = 0.5
_OFFSET = 0.5  # of a count, before its logarithm
_BEYOND = 0.3  # slope of the map beyond the training cells, as a share of the mean one


class Scale(nn.Module, ABC):
    """How the counts of a modality are read by the encoder, and given by the decoder.

    Attributes
    ----------
    has_library_size
        Whether expected counts depend on a library size.
    """

    has_library_size: bool

    @abstractmethod
    def fit(self, counts: sp.csr_matrix) -> None:
        """Set the scale by the training cells' counts, `(n_cells, n_genes)`."""

    @abstractmethod
    def forward(self, counts: Tensor) -> Tensor:
        """Counts as the encoder reads them, `(n_cells, n_genes)`."""

    @abstractmethod
    def log_mean(self, output: Tensor, log_library: Tensor) -> Tensor:
        """Logarithm of expected counts of what the decoder puts out, `(n_cells, n_genes)`.

        `log_library` is `(n_cells, 1)`, or `(n_cells, 0)` where there is no library size.
        """

    @abstractmethod
    def fit_components(
        self,
        counts: sp.csr_matrix,
        labels: np.ndarray,
        n_principal: int,
        n_discriminant: Sequence[int],
        rng: np.random.Generator,
    ) -> LinearMap:
        """Components of what the encoder reads, as :func:`~scdiffusion.autoencoders._components.fit_components`."""

    @abstractmethod
    def regress(self, counts: sp.csr_matrix, scores: np.ndarray) -> Tensor:
        """Intercept and slopes of the decoder's output on scores, `(n_genes, 1 + n_scores)`."""

    @abstractmethod
    def means(self, counts: sp.csr_matrix, output: Callable[[slice, slice], Tensor]) -> Callable[[slice], Tensor]:
        """Expected counts of a range of genes, of what :meth:`fit_dispersions` is given."""

    @abstractmethod
    def fit_dispersions(
        self,
        counts: sp.csr_matrix,
        output: Callable[[slice, slice], Tensor],
        kept: Callable[[slice], Tensor],
        zero_logits: Callable[[slice], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Likeliest dispersions.

        Parameters
        ----------
        counts
            `(n_cells, n_genes)`.
        output
            Gives what the decoder puts out for a range of genes and of cells.
        kept
            Gives the share of a range of genes' counts that a background leaves, broadcastable to all cells.
        zero_logits
            Gives the logits of zeros beyond the likelihood's own; None where there are none.

        Returns
        -------
        What is to be added to each gene's output, and its log inverse dispersion, each `(n_genes,)`.
        """


class LibraryScale(Scale):
    r"""Counts as shares of a library size: their mean is :math:`\ell \cdot \mathrm{softmax}(f(z))`.

    The encoder reads the `log1p` of counts at the training cells' median library size.
    """

    has_library_size = True

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("typical_size", torch.tensor(1e4))

    def fit(self, counts: sp.csr_matrix) -> None:
        """Take over the median library size."""
        self.typical_size.fill_(float(np.median(_totals(counts))))

    def forward(self, counts: Tensor) -> Tensor:
        """Log-normalised counts."""
        return torch.log1p(counts * (self.typical_size / counts.sum(1, keepdim=True).clamp(min=1)))

    def log_mean(self, output: Tensor, log_library: Tensor) -> Tensor:
        """Logarithm of each gene's share of the library size."""
        return F.log_softmax(output, dim=1) + log_library

    def fit_components(
        self,
        counts: sp.csr_matrix,
        labels: np.ndarray,
        n_principal: int,
        n_discriminant: Sequence[int],
        rng: np.random.Generator,
    ) -> LinearMap:
        """Principal components, and discriminants of the conditions."""
        return fit_components(counts, labels, n_principal, tuple(n_discriminant), rng)

    def regress(self, counts: sp.csr_matrix, scores: np.ndarray) -> Tensor:
        """Poisson regression."""
        return fit_means(counts, _totals(counts), scores)

    def means(self, counts: sp.csr_matrix, output: Callable[[slice, slice], Tensor]) -> Callable[[slice], Tensor]:
        """Shares of the totals of counts."""
        every, n_cells = slice(None), counts.shape[0]
        blocks = [slice(start, start + _BLOCK) for start in range(0, n_cells, _BLOCK)]
        total = torch.cat([output(every, cells).logsumexp(1) for cells in blocks])  # (n_cells,)
        offset = (torch.from_numpy(_totals(counts)).log() - total)[:, None]
        return lambda genes: torch.exp(output(genes, every) + offset)

    def fit_dispersions(
        self,
        counts: sp.csr_matrix,
        output: Callable[[slice, slice], Tensor],
        kept: Callable[[slice], Tensor],
        zero_logits: Callable[[slice], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Likeliest dispersions, where each gene has its total."""
        means = self.means(counts, output)
        return fit_dispersions(counts, lambda genes: means(genes) * kept(genes), zero_logits)


class PanelScale(Scale):
    r"""Counts of a panel of proteins, each on its own scale: their mean is :math:`h_g(f_g(z))` with :math:`h_g` monotone.

    There is no library size: the total of a panel is that of the few proteins a cell has most of, no measure of how
    deeply it was sequenced, and dividing by it would spread these over all others.

    A protein has a narrow mode of background and others far above. :math:`h_g^{-1}` maps its counts half-way to normal
    scores: the distribution that is the mean of the protein's own and of a log-normal one becomes a normal one. This
    gives a diffusion modes as wide as the gaps between them. As it is invertible, and as components of all proteins are
    too, the linear path alone restores the counts.

    Parameters
    ----------
    n_features
        Number of proteins.
    """

    has_library_size = False

    def __init__(self, n_features: int) -> None:
        super().__init__()
        knots = torch.linspace(-3, 3, _N_KNOTS).repeat(n_features, 1)  # (n_features, n_knots)
        self.register_buffer("log_counts", knots.clone())
        self.register_buffer("scores", knots.clone())

    def fit(self, counts: sp.csr_matrix) -> None:
        """Set the knots of each protein's map."""
        x = np.log(counts.toarray() + _OFFSET)  # (n_cells, n_features)
        least = 2 / len(x)
        for protein, of_cells in enumerate(x.T):
            values, n_cells = np.unique(of_cells, return_counts=True)
            knots = np.linspace(values[0], max(values[-1], values[0] + 1), _N_KNOTS)
            # Equal counts are in the middle of their step of the distribution function.
            share = np.interp(knots, values, (n_cells.cumsum() - n_cells / 2) / len(x))
            log_normal = norm.cdf(knots, of_cells.mean(), max(of_cells.std(), 0.1))
            mixed = _LOG_NORMAL_SHARE * log_normal + (1 - _LOG_NORMAL_SHARE) * share
            self.log_counts[protein] = torch.from_numpy(knots)
            # The ramp keeps knots apart where there are no cells and the normal distribution has ended.
            scores = norm.ppf(least + (1 - 2 * least) * mixed) + np.linspace(0, 0.01, _N_KNOTS)
            self.scores[protein] = torch.from_numpy(scores)

    def forward(self, counts: Tensor) -> Tensor:
        """Scores of counts."""
        return _interpolate(torch.log(counts + _OFFSET), self.log_counts, self.scores)

    def log_mean(self, output: Tensor, log_library: Tensor) -> Tensor:
        """Log counts that have these scores."""
        return _interpolate(output, self.scores, self.log_counts)

    def fit_components(
        self,
        counts: sp.csr_matrix,
        labels: np.ndarray,
        n_principal: int,
        n_discriminant: Sequence[int],
        rng: np.random.Generator,
    ) -> LinearMap:
        """Principal components of the scores, of unit variance; with as many as proteins nothing is lost."""
        x = self(torch.from_numpy(counts.toarray())).numpy()
        pca = PCA(min(n_principal, *x.shape), svd_solver="full").fit(x)
        axes = pca.components_.T / np.sqrt(pca.explained_variance_)
        return LinearMap(axes.astype(np.float32), pca.mean_ @ axes)

    def regress(self, counts: sp.csr_matrix, scores: np.ndarray) -> Tensor:
        """Least squares, which is exact where no component was left out."""
        design = np.column_stack([np.ones(len(scores)), scores])
        x = self(torch.from_numpy(counts.toarray())).numpy()
        return torch.from_numpy(np.linalg.lstsq(design, x, rcond=None)[0].T).float()

    def means(self, counts: sp.csr_matrix, output: Callable[[slice, slice], Tensor]) -> Callable[[slice], Tensor]:
        """Counts that have the scores that are put out."""
        every = slice(None)
        mean = self.log_mean(output(every, every), torch.empty(0)).exp()
        return lambda genes: mean[:, genes]

    def fit_dispersions(
        self,
        counts: sp.csr_matrix,
        output: Callable[[slice, slice], Tensor],
        kept: Callable[[slice], Tensor],
        zero_logits: Callable[[slice], Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Likeliest dispersions; the output stays as it is, since adding to it would move the modes."""
        means = self.means(counts, output)
        _, log_dispersion = fit_dispersions(counts, lambda genes: means(genes) * kept(genes), zero_logits)
        return torch.zeros_like(log_dispersion), log_dispersion


def _totals(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(1)).ravel().astype(np.float32)


def _interpolate(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Piecewise linear map of each column, `(n_cells, n_features)`, through its own knots, `(n_features, n_knots)`."""
    x = x.T.contiguous()  # (n_features, n_cells)
    inside = torch.minimum(torch.maximum(x, knots[:, :1]), knots[:, -1:])
    right = torch.searchsorted(knots, inside.detach()).clamp(1, knots.shape[1] - 1)
    left = right - 1
    start, end = knots.gather(1, left), knots.gather(1, right)
    low, high = values.gather(1, left), values.gather(1, right)
    # The slope at an end is that of a few cells, and may be any.
    slope = _BEYOND * (values[:, -1:] - values[:, :1]) / (knots[:, -1:] - knots[:, :1])
    return (low + (inside - start) / (end - start) * (high - low) + (x - inside) * slope).T
