"""How far along real cells' development generated states are."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

from scdiffusion.metrics import reference_pca
from scdiffusion.model._checks import did_you_mean
from scdiffusion.tl._evaluation_input import read

N_COMPONENTS = 30


def pseudotime(
    states: AnnData,
    adata: AnnData,
    *,
    root: str | None = None,
    obs_key: str | None = None,
    layer: str | None = None,
    n_neighbors: int = 15,
    key_added: str = "pseudotime",
    copy: bool = False,
) -> AnnData | None:
    """Place generated cells on the diffusion pseudotime of real ones.

    The pseudotime is scanpy's, of the real cells alone, in 30 principal components of their log-normalised expression.
    A generated cell has the mean of the real cells that are nearest to it in these components.

    Parameters
    ----------
    states
        Generated cells, as :func:`~scdiffusion.tl.interpolate` returns them: counts or log-normalised expression.
    adata
        Real cells of all stages, likewise; left as they are.
    root
        Name of the real cell where pseudotime is 0. By default the most central of those in `states.obs["start_cell"]`.
    obs_key
        Numeric column of `adata.obs` to use in place of diffusion pseudotime, such as a pseudotime from another tool
        or the real time.
    layer
        Layer with the expression; by default `X`. Of `states`, `X` where they have no such layer.
    n_neighbors
        Number of nearest real cells, for the graph and for placing the generated cells.
    key_added
        Name in `states.obs`.
    copy
        Whether to return a copy instead of writing to `states`.

    Returns
    -------
    None, or the copy if `copy`. Sets `states.obs[key_added]`: 0 at the root, 1 at the real cell that is farthest from
    it; infinite, as scanpy's, where none of the neighbours can be reached from the root. With `obs_key`, its unit.

    Raises
    ------
    ValueError
        If the root is no cell of `adata`, a column is missing, or the two share too few genes.

    References
    ----------
    Haghverdi et al., *Diffusion pseudotime robustly reconstructs lineage branching*, Nature Methods 2016.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k_reduced()
    >>> states = adata[:60].copy()  # in place of generated cells
    >>> scd.tl.pseudotime(states, adata, root=adata.obs_names[0], layer="counts")
    >>> bool(states.obs["pseudotime"].between(0, 1).all())
    True
    """
    if obs_key is not None and obs_key not in adata.obs:
        raise ValueError(f"adata.obs has no column {obs_key!r}.{did_you_mean(obs_key, adata.obs.columns)}")
    cells = read({"real": adata, "generated": states}, None, layer, few_genes=True).cells
    n_components = min(N_COMPONENTS, min(cells["real"].log.shape) - 1)
    real, generated = reference_pca(cells["real"].log, cells["generated"].log, n_components=n_components)
    if obs_key is None:
        times = _diffusion_pseudotime(real, _root(root, states, adata, real), n_neighbors)
    else:
        times = adata.obs[obs_key].to_numpy(float)
    index = NearestNeighbors(n_neighbors=min(n_neighbors, len(real))).fit(real)
    nearest = index.kneighbors(generated, return_distance=False)  # (n_states, n_neighbors)
    states = states.copy() if copy else states
    states.obs[key_added] = np.ma.masked_invalid(times[nearest]).mean(1).filled(np.inf)
    return states if copy else None


def _root(root: str | None, states: AnnData, adata: AnnData, pcs: np.ndarray) -> int:
    """Row of the root."""
    if root is not None:
        if root not in adata.obs_names:
            raise ValueError(f"root must be the name of a cell of adata, e.g. {adata.obs_names[0]!r}; got {root!r}.")
        return int(adata.obs_names.get_loc(root))
    starts = np.flatnonzero(adata.obs_names.isin(states.obs.get("start_cell", ())))
    if not len(starts):
        raise ValueError(
            "adata has none of the cells in states.obs['start_cell']: pass root, the name of the cell where pseudotime "
            f"begins, e.g. root={adata.obs_names[0]!r}."
        )
    return int(starts[np.linalg.norm(pcs[starts] - pcs[starts].mean(0), axis=1).argmin()])


def _diffusion_pseudotime(pcs: np.ndarray, root: int, n_neighbors: int) -> np.ndarray:
    cells = AnnData(obsm={"X_pca": pcs}, uns={"iroot": root})
    sc.pp.neighbors(cells, n_neighbors=n_neighbors, use_rep="X_pca", random_state=0)
    sc.tl.diffmap(cells, random_state=0)
    sc.tl.dpt(cells)
    return cells.obs["dpt_pseudotime"].to_numpy(float)
