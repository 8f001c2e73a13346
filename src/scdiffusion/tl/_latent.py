"""Latents of cells, kept in the AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anndata import AnnData

from scdiffusion.model._constants import Key

if TYPE_CHECKING:
    from scdiffusion.model import SCDiffusion


def latent(adata: AnnData, model: SCDiffusion, *, key_added: str = Key.LATENT, copy: bool = False) -> AnnData | None:
    """Write the latents of cells to `adata.obsm`, ready for scanpy's neighbours.

    Parameters
    ----------
    adata
        Cells with the genes that the model was trained on.
    model
        A trained :class:`~scdiffusion.SCDiffusion`.
    key_added
        Name in `adata.obsm`.
    copy
        Whether to return a copy instead of writing to `adata`.

    Returns
    -------
    None, or the copy if `copy`. Sets `adata.obsm[key_added]`, `(n_cells, n_latent)`: latents standardised over the
    training cells.

    Examples
    --------
    >>> import scanpy as sc, scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> scd.SCDiffusion.setup_anndata(adata, layer="counts")
    >>> model = scd.SCDiffusion(adata, n_latent=8)
    >>> model.train(max_epochs=1, progress=False)
    >>> scd.tl.latent(adata, model)
    >>> sc.pp.neighbors(adata, use_rep="X_scdiffusion")
    """
    adata = adata.copy() if copy else adata
    adata.obsm[key_added] = model.get_latent_representation(adata)
    return adata if copy else None
