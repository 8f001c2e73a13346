"""How `SCDiffusion` turns cells into latents, and latents into expression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from anndata import AnnData
from mudata import MuData
from scvi.data import AnnDataManager
from torch import Tensor

from scdiffusion.autoencoders import Parameters
from scdiffusion.model._composition import Plan
from scdiffusion.model._conditions import read_conditions
from scdiffusion.model._constants import Key
from scdiffusion.model._expression_checks import TOO_MANY
from scdiffusion.model._lazy import as_anndata
from scdiffusion.model._messages import did_you_mean, name_some
from scdiffusion.model._module import DECODING_BLOCK
from scdiffusion.training import expression_source

LibrarySize = float | Sequence[float] | Mapping[str, float | Sequence[float]] | None


class LatentMixin:
    """Encoding cells, and decoding latents."""

    def get_latent_representation(
        self,
        adata: AnnData | MuData | None = None,
        indices: Sequence[int] | None = None,
        *,
        give_mean: bool = True,
        rng: int | None = 0,
    ) -> np.ndarray:
        """Latents of cells, standardised over the training cells unless `standardise_latents=False`.

        Parameters
        ----------
        adata
            Cells with the genes of the training data; by default the training data.
        indices
            Which cells; by default all.
        give_mean
            Whether to give the means of the posterior, or one sample of it per cell.
        rng
            Seed of the samples.

        Returns
        -------
        `(n_cells, n_latent)`; keep it in `adata.obsm["X_scdiffusion"]`, or let :func:`scdiffusion.tl.latent` do it.
        """
        self._require_trained("get_latent_representation")
        mean, log_variance, log_library, _ = self._encode(adata, indices)
        generator = None if give_mean else _generator(rng)
        return self._latents(mean, log_variance, log_library, generator).cpu().numpy()

    def posterior_predictive_sample(
        self,
        adata: AnnData | MuData | None = None,
        n_samples: int = 1,
        batch_size: int | None = None,
        indices: Sequence[int] | None = None,
        *,
        rng: int | None = 0,
    ) -> Any:
        """Encode cells, draw from their posterior, decode and draw: the ceiling of what can be generated.

        Has the signature that :class:`scvi.criticism.PosteriorPredictiveCheck` calls.

        Parameters
        ----------
        adata
            Cells with the genes of the training data; by default the training data.
        n_samples
            Number of draws of each cell.
        batch_size
            Ignored; cells are decoded in blocks of one size, whatever it says.
        indices
            Which cells; by default all.
        rng
            Seed.

        Returns
        -------
        Expression, :class:`sparse.GCXS`, `(n_cells, n_genes)`, with a third axis if `n_samples` is above 1. Of several
        modalities a dict by name.
        """
        import sparse

        self._require_trained("posterior_predictive_sample")
        if n_samples < 1:
            raise ValueError(f"n_samples must be at least 1, not {n_samples}.")
        of_latents, of_expression = _generator(rng), _generator(rng, self.device)
        mean, log_variance, log_library, covariates = self._encode(adata, indices)
        draws = []
        for _ in range(n_samples):
            latents = self._latents(mean, log_variance, log_library, of_latents)
            blocks = self._draw(latents, log_library.to(self.device), covariates, of_expression)
            draws.append(sparse.COO.from_scipy_sparse(sp.vstack(blocks, format="csr")))
        drawn = sparse.GCXS.from_coo(draws[0] if n_samples == 1 else sparse.stack(draws, axis=-1))
        return self._by_modality(drawn)

    def _encode(
        self, adata: AnnData | MuData | None, indices: Sequence[int] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Means and log-variances of the latents of cells, log library sizes `(n_cells, n_library)`, and covariates."""
        if adata is not None:
            adata = as_anndata(adata)
            if Key.POSTERIORS not in adata.obsm:
                self._checked_parts_of(adata)
        adata = self._validate_anndata(adata)
        manager = self.get_anndata_manager(adata, required=True)
        cells = None if indices is None else np.asarray(indices)
        covariates = self._covariates(self._registered_conditions(manager))
        if covariates is not None:
            covariates = (covariates if cells is None else covariates[cells]).to(self.device)
        return *self._registered_posteriors(manager, cells), covariates

    def _registered_posteriors(
        self, manager: AnnDataManager, cells: np.ndarray | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Posteriors of registered cells: those that are stored with them, else of their expression."""
        stored = manager.adata.obsm.get(Key.POSTERIORS)
        if stored is not None:
            n_latent = self.module.autoencoder.n_latent
            stored = stored if cells is None else stored[cells]
            return torch.from_numpy(stored).split([n_latent, n_latent, self.module.n_library], dim=1)
        expression, covariates = self._expression(manager), self._covariates(self._registered_conditions(manager))
        if cells is not None:
            expression = expression_source(expression.take(np.arange(expression.shape[0])[cells]))
            covariates = None if covariates is None else covariates[cells]
        return self._posteriors(expression, covariates)

    def _latents(
        self, mean: Tensor, log_variance: Tensor, log_library: Tensor, generator: torch.Generator | None
    ) -> Tensor:
        """Standardised means of posteriors, or samples where there is a generator, `(n_cells, n_latent)`."""
        if generator is not None:
            mean = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
        return self.module.standardise(mean.to(self.device), log_library.to(self.device))[:, : mean.shape[1]]

    @torch.inference_mode()
    def decode(
        self,
        latents: np.ndarray,
        *,
        library_size: LibrarySize = None,
        batch: str | None = None,
        covariates: Mapping[str, Any] | None = None,
    ) -> np.ndarray | dict[str, np.ndarray]:
        """Expected counts, or log-normalised expression, of given latents.

        How a cell is decoded never depends on the cells beside it: `decode(a)` equals the first rows of `decode(a and
        b)` bit for bit.

        Parameters
        ----------
        latents
            Latents as :meth:`get_latent_representation` and :meth:`generate` give them, `(n_cells, n_latent)`.
        library_size
            Expected total counts, for all cells or per cell, of several modalities a dict by name; by default the
            training cells' geometric mean.
        batch
            Category of the batch key; by default the largest batch.
        covariates
            What else the decoder of a model from :meth:`from_scvi_model` is told: a category or number for all cells, or
            one per cell, by condition key. By default the largest category and the mean.

        Returns
        -------
        `(n_cells, n_genes)`; of several modalities a dict of these by name.
        """
        self._require_trained("decode")
        z = torch.as_tensor(np.asarray(latents), dtype=torch.float32, device=self.device)
        if z.ndim != 2 or z.shape[1] != self.module.autoencoder.n_latent:
            raise ValueError(
                f"latents must be (n_cells, {self.module.autoencoder.n_latent}), as get_latent_representation gives them; "
                f"got {tuple(z.shape)}."
            )
        _, typical = self.module.split(torch.zeros((len(z), self.module.n_features), device=z.device))
        log_library = self._log_library(typical, self._read_library_size(library_size, len(z)))
        request = {**({} if batch is None else {self.batch_key: batch}), **(covariates or {})}
        told = self._covariates(self._typical_where_open(request, len(z)))
        told = None if told is None else told.to(z.device)
        parts = [parameters.mean.cpu() for _, parameters in self._decode_blocks(z, log_library, told)]
        expected = torch.cat(parts).numpy() if parts else np.empty((0, self.module.autoencoder.n_genes), np.float32)
        return self._by_modality(expected)

    def _typical_where_open(self, request: dict[str, Any], n_cells: int) -> Plan:
        """What cells are asked to be, and else the largest category and the mean of the training cells."""
        composition = self.composition
        unknown = [key for key in request if key not in self.covariate_keys]
        if unknown:
            told = name_some(self.covariate_keys)
            raise ValueError(f"The decoder is not told {unknown[0]!r}. It is told: {told}.")
        codes, values = read_conditions(request, max(n_cells, 1), composition, np.random.default_rng(0))
        means = composition.n_cells @ composition.values / composition.n_trained
        codes = np.where(codes < 0, composition.largest, codes)
        return Plan(codes[:n_cells], np.where(np.isnan(values), means, values)[:n_cells])

    def _require_trained(self, what: str) -> None:
        if not self.is_trained_:
            raise ValueError(f"The model is not trained yet: call model.train() before model.{what}().")

    def _read_library_size(self, library_size: LibrarySize, n_cells: int) -> np.ndarray | None:
        """Library sizes as given, `(n_cells, n_library)`, NaN where they are to be drawn; None where all are."""
        if library_size is None:
            return None
        names = [modality.name for modality, _ in self._columns() if modality.has_library_size]
        if not self.module.n_library:
            raise ValueError("This model's expression has no library size: leave library_size out.")
        if not self._is_multimodal:
            return _read_sizes(library_size, n_cells, "library_size")[:, None]
        if not isinstance(library_size, Mapping):
            raise ValueError(
                f"library_size must be a dict by modality, e.g. library_size={dict.fromkeys(names, 2000)}."
            )
        for name in library_size:
            if name not in names:
                raise ValueError(f"{name!r} is no modality with a library size.{did_you_mean(name, names)}")
        sizes = np.full((n_cells, len(names)), np.nan)
        for name, given in library_size.items():
            sizes[:, names.index(name)] = _read_sizes(given, n_cells, f"library_size[{name!r}]")
        return sizes

    def _log_library(self, drawn: Tensor, given: np.ndarray | None) -> Tensor:
        """Log library sizes of cells, `(n_cells, n_library)`, as given or drawn, these within the range of training."""
        least, most = (torch.tensor(bound, device=drawn.device).log() for bound in self.library_range_)
        drawn = drawn.clamp(least, most)
        if given is None:
            return drawn
        log_given = torch.as_tensor(np.log(given), dtype=torch.float32, device=drawn.device)
        return torch.where(log_given.isnan(), drawn, log_given)

    def _decode_blocks(
        self, latents: Tensor, log_library: Tensor, covariates: Tensor | None
    ) -> Iterator[tuple[int, Parameters]]:
        """Numbers of cells, and distributions of their expression, of which only those of one block are there at a time."""
        for start in range(0, len(latents), DECODING_BLOCK):
            rows = slice(start, min(start + DECODING_BLOCK, len(latents)))
            told = None if covariates is None else covariates[rows]
            yield rows.stop - start, self.module.decode(latents[rows], log_library[rows], told)

    @torch.inference_mode()
    def _draw(
        self,
        latents: Tensor,
        log_library: Tensor,
        covariates: Tensor | None,
        generator: torch.Generator,
        log_factors: Tensor | None = None,
    ) -> list[sp.csr_matrix]:
        """Draw expression block by block, so that only one block of cells by genes is ever dense.

        Genes' shares of the counts are as decoded, or multiplied by factors, whose logarithms are `(n_genes,)`.
        """
        drawn, likelihood = [], self.module.autoencoder.likelihood
        for n_cells, parameters in self._decode_blocks(latents, log_library, covariates):
            if log_factors is not None:
                parameters = parameters.reweighted(log_factors)
            cells, genes, values = likelihood.draw(parameters, generator)
            per_cell = torch.bincount(cells, minlength=n_cells)
            indptr = np.concatenate([[0], per_cell.cumsum(0).cpu().numpy()])
            shape = (n_cells, self.module.autoencoder.n_genes)
            entries = _as_stored(values.cpu(), likelihood.dtype), genes.to(torch.int32).cpu().numpy()
            drawn.append(sp.csr_matrix((*entries, indptr), shape))
        return drawn


def _as_stored(values: Tensor, dtype: torch.dtype) -> np.ndarray:
    """Values as they are stored; counts that do not fit would become negative."""
    if not dtype.is_floating_point and not (values < float(TOO_MANY)).all():
        raise ValueError(
            f"A count of {values.max():.3g} was drawn, and counts are stored as int32. Give a smaller library_size, or "
            "train on counts that are not scaled up."
        )
    return values.to(dtype).numpy()


def _read_sizes(given: float | Sequence[float], n_cells: int, name: str) -> np.ndarray:
    sizes = np.asarray(given, dtype=np.float64)
    if sizes.ndim > 1 or (sizes.ndim == 1 and len(sizes) != n_cells):
        raise ValueError(f"{name} must be one number or one per cell ({n_cells}); got shape {sizes.shape}.")
    if not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"{name} must hold positive, finite numbers of counts.")
    if (sizes >= TOO_MANY).any():
        raise ValueError(f"{name} must be below {TOO_MANY:,.0f} counts; got {sizes.max():.3g}.")
    return np.broadcast_to(sizes, (n_cells,))


def _generator(rng: int | None, device: torch.device | str = "cpu") -> torch.Generator:
    generator = torch.Generator(device)
    if rng is None:
        generator.seed()
        return generator
    return generator.manual_seed(rng)
