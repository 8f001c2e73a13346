"""Making a model from one of scvi-tools, whose encoder and decoder it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anndata import AnnData
from scvi.model.base import BaseModelClass

from scdiffusion.model._scvi_source import ScviSource

if TYPE_CHECKING:
    from mudata import MuData

    from scdiffusion.model import SCDiffusion


class BorrowingMixin:
    """Making a model from a trained one of scvi-tools."""

    @classmethod
    def from_scvi_model(
        cls,
        model: BaseModelClass | str | Path,
        adata: AnnData | MuData | None = None,
        condition_keys: str | Sequence[str] | None = None,
        *,
        continuous_condition_keys: str | Sequence[str] | None = None,
        **kwargs: Any,
    ) -> SCDiffusion:
        """Make a model that generates through the encoder and decoder of a trained scvi-tools model.

        Their weights are kept, frozen, as part of this model: :meth:`train` trains the diffusion alone, and a saved
        model does not need the other one. What that was set up with becomes conditions: its `batch_key` the batch, its
        `labels_key`, `categorical_covariate_keys` and `continuous_covariate_keys` conditions to generate by. Batch
        and covariates, which the decoder must know, are drawn from the training cells where :meth:`generate` is not
        told. Cells that a scANVI holds unlabelled have the labels that it predicts; its unlabelled category is none
        that can be asked for.

        Parameters
        ----------
        model
            Trained :class:`~scvi.model.SCVI`, :class:`~scvi.model.SCANVI`, :class:`~scvi.model.LinearSCVI` or
            :class:`~scvi.model.TOTALVI`, or the directory that it was saved in. scvi-tools unpickles what is there: give
            a directory only that you trust. Of a totalVI, RNA is generated, and no protein.
        adata
            Cells to learn the diffusion from, with the genes of `model`; by default those that it holds. They are
            registered with `model`, if they are not yet. Of minified data without counts the stored latents are used.
        condition_keys
            Further categorical `obs` columns to generate cells by.
        continuous_condition_keys
            Further numeric `obs` columns to generate cells by.
        **kwargs
            As for :class:`~scdiffusion.SCDiffusion`: settings of the diffusion, `preset` and `rng`.

        Returns
        -------
        The model, whose `adata` is a new :class:`~anndata.AnnData` of the same counts with the conditions in `obs`. Its
        `var`, and that of generated cells, is that of `adata`.

        Raises
        ------
        TypeError
            If `model` is of another class, or a setting does not exist.
        ValueError
            If `model` is not trained, holds no cells and none are given, was trained on other genes, was saved before
            scvi-tools 0.15, or has a setting that cannot be stored; or a condition cannot be used.

        References
        ----------
        Lopez et al., *Deep generative modeling for single-cell transcriptomics*, Nature Methods 2018. Xu et al.,
        *Probabilistic harmonization and annotation of single-cell transcriptomics data with deep generative models*,
        Molecular Systems Biology 2021.

        Examples
        --------
        >>> import scvi
        >>> import scdiffusion as scd
        >>> adata = scd.datasets.pbmc68k_reduced()
        >>> scvi.model.SCVI.setup_anndata(adata, layer="counts")
        >>> trained = scvi.model.SCVI(adata, n_hidden=16)
        >>> trained.train(max_epochs=1, enable_progress_bar=False)
        >>> model = scd.SCDiffusion.from_scvi_model(trained, condition_keys="bulk_labels")
        >>> model.train(max_epochs=1, progress=False)
        >>> model.generate(obs_conditions={"bulk_labels": {"CD34+": 5}}, rng=0).shape
        (5, 765)
        """
        source = ScviSource(model, adata)
        obs, kinds = source.conditions()
        further, further_numbers = (
            [key for key in ([keys] if isinstance(keys, str) else keys or []) if key not in kinds]
            for keys in (condition_keys, continuous_condition_keys)
        )
        cells = source.cells(obs, [*further, *further_numbers])
        cls.setup_anndata(
            cells,
            layer=source.layer,
            condition_keys=[*(key for key, kind in kinds.items() if kind in ("labels", "categorical")), *further],
            batch_key=source.setup.get("batch_key"),
            continuous_condition_keys=[*(key for key in kinds if kinds[key] == "continuous"), *further_numbers],
            values=source.values(),
        )
        borrowed = cls(
            cells,
            autoencoder=source.borrowing.autoencoder,
            scvi_module=source.borrowing.module,
            scvi_settings=source.module_settings(),
            covariates=source.covariates(kinds),
            **kwargs,
        )
        borrowed.module.autoencoder.adopt(source.model.module.state_dict())
        return borrowed
