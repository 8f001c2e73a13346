"""Datasets that are downloaded when they are asked for, and kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import scipy.sparse as sp
from anndata import AnnData, concat
from anndata.utils import make_index_unique

_10X = "https://cf.10xgenomics.com/samples/cell-exp"
_FIGSHARE = "https://ndownloader.figshare.com/files"
_GEO = "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE135nnn/GSE135893/suppl"


@dataclass(frozen=True)
class RemoteFile:
    """A file on the web.

    Parameters
    ----------
    url
        Where it is.
    name
        What it is called in the folder of datasets.
    sha256
        Its checksum; None where the source publishes none. Then whatever arrives is kept, and its checksum is shown.
    """

    url: str
    name: str
    sha256: str | None = None

    def fetch(self, unpack: str | None = None) -> Path:
        """Download the file unless it is there, and return where it is.

        Parameters
        ----------
        unpack
            `"zip"` or `"tar"` to unpack it as well, and return the folder.

        Raises
        ------
        RuntimeError
            If it cannot be downloaded, with where to get it and where to put it.
        """
        import pooch

        folder = Path(sc.settings.datasetdir)
        unpackers = {"zip": pooch.Unzip, "tar": pooch.Untar}
        unpacked = folder / f"{self.name}.unpacked"
        processor = unpackers[unpack](extract_dir=unpacked.name) if unpack else None
        known_hash = None if self.sha256 is None else f"sha256:{self.sha256}"
        try:
            pooch.retrieve(self.url, known_hash, self.name, folder, processor=processor, progressbar=True)
        except Exception as error:
            path = (folder / self.name).absolute()
            raise RuntimeError(
                f"{self.name} could not be downloaded ({error}). Get it from {self.url} by other means and put it at "
                f"{path}, or say where it is kept: scanpy.settings.datasetdir = ..."
            ) from error
        return unpacked if unpack else folder / self.name


TABULA_MURIS = RemoteFile(f"{_FIGSHARE}/10700167", "tabula_muris_droplet.zip")
TABULA_MURIS_ANNOTATIONS = RemoteFile(f"{_FIGSHARE}/13088039", "tabula_muris_annotations_droplet.csv")
PBMC68K = RemoteFile(
    f"{_10X}/1.1.0/fresh_68k_pbmc_donor_a/fresh_68k_pbmc_donor_a_filtered_gene_bc_matrices.tar.gz",
    "fresh_68k_pbmc_donor_a_filtered_gene_bc_matrices.tar.gz",
)
PBMC68K_ANNOTATIONS = RemoteFile(
    "https://raw.githubusercontent.com/10XGenomics/single-cell-3prime-paper/master/pbmc68k_analysis/"
    "68k_pbmc_barcodes_annotation.tsv",
    "68k_pbmc_barcodes_annotation.tsv",
)
LUNG_FIBROSIS = {
    part: RemoteFile(f"{_GEO}/GSE135893_{part}", f"GSE135893_{part}")
    for part in ("matrix.mtx.gz", "barcodes.tsv.gz", "genes.tsv.gz", "IPF_metadata.csv.gz")
}
REPROGRAMMING = RemoteFile(f"{_FIGSHARE}/28618734", "reprogramming_schiebinger.h5ad")
BRAIN_SMALL = RemoteFile(f"{_10X}/1.3.0/1M_neurons/1M_neurons_neuron20k.h5", "1M_neurons_neuron20k.h5")


def tabula_muris() -> AnnData:
    """Cells of 12 mouse organs by droplets, of scDiffusion's experiments; about 400 MB are downloaded once.

    Files are kept in `scanpy.settings.datasetdir`. The source publishes no checksums, and neither do those of the other
    datasets here.

    Returns
    -------
    Annotated data of the annotated cells, about 55,656 x 23,433, with counts in `X` (CSR), `obs["organ"]`,
    `obs["celltype"]` (cell ontology class, missing for some), `obs["mouse"]` and `obs["channel"]`.

    Raises
    ------
    RuntimeError
        If a file cannot be downloaded, with where to get it and where to put it.

    References
    ----------
    The Tabula Muris Consortium (2018), Single-cell transcriptomics of 20 mouse organs creates a Tabula Muris,
    Nature 562:367. Data: figshare 5968960.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.tabula_muris()  # doctest: +SKIP
    >>> scd.SCDiffusion.setup_anndata(adata, condition_keys=["organ", "celltype"])  # doctest: +SKIP
    """
    annotations = pd.read_csv(TABULA_MURIS_ANNOTATIONS.fetch(), index_col="cell", low_memory=False)
    channels = []
    for matrix in sorted(TABULA_MURIS.fetch(unpack="zip").rglob("matrix.mtx")):
        channel = sc.read_10x_mtx(matrix.parent)
        name = matrix.parent.name.split("-", 1)[1]  # Kidney-10X_P4_5
        channel.obs_names = [f"{name}_{barcode.removesuffix('-1')}" for barcode in channel.obs_names]
        channels.append(channel)
    adata = concat(channels, merge="same")
    columns = {"tissue": "organ", "cell_ontology_class": "celltype", "mouse.id": "mouse", "channel": "channel"}
    return _tidy(_annotated(adata, annotations, columns))


def pbmc68k() -> AnnData:
    """68,579 peripheral blood cells of one donor, of both papers' experiments; about 125 MB are downloaded once.

    Files are kept in `scanpy.settings.datasetdir`. :func:`pbmc68k_reduced` is a part of it that needs no download.

    Returns
    -------
    Annotated data, 68,579 x 32,738, with counts in `X` (CSR) and `obs["celltype"]`, one of 11 types, from the likeness
    to bulk-sorted cells.

    Raises
    ------
    RuntimeError
        If a file cannot be downloaded, with where to get it and where to put it.

    References
    ----------
    Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells,
    Nature Communications 8:14049.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.pbmc68k()  # doctest: +SKIP
    """
    (matrix,) = PBMC68K.fetch(unpack="tar").rglob("matrix.mtx")
    adata = sc.read_10x_mtx(matrix.parent)
    annotations = pd.read_csv(PBMC68K_ANNOTATIONS.fetch(), sep="\t", index_col="barcodes")
    adata.obs["celltype"] = annotations["celltype"].reindex(adata.obs_names).astype("category")
    return _tidy(adata)


def lung_fibrosis() -> AnnData:
    """114,396 cells of human lungs with and without fibrosis, of scDiffusion's experiments; about 1.1 GB once.

    Files are kept in `scanpy.settings.datasetdir`.

    Returns
    -------
    Annotated data with counts in `X` (CSR), `obs["celltype"]`, one of 31 types, `obs["population"]`,
    `obs["diagnosis"]` and `obs["sample"]`.

    Raises
    ------
    RuntimeError
        If a file cannot be downloaded, with where to get it and where to put it.

    References
    ----------
    Habermann et al. (2020), Single-cell RNA sequencing reveals profibrotic roles of distinct epithelial and mesenchymal
    lineages in pulmonary fibrosis, Science Advances 6:eaba1972. Data: GEO GSE135893.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.lung_fibrosis()  # doctest: +SKIP
    """
    paths = {part: file.fetch() for part, file in LUNG_FIBROSIS.items()}
    metadata = pd.read_csv(paths["IPF_metadata.csv.gz"], index_col=0)
    barcodes = pd.read_csv(paths["barcodes.tsv.gz"], header=None, sep="\t")[0].astype(str)
    genes = pd.read_csv(paths["genes.tsv.gz"], header=None, sep="\t").iloc[:, -1].astype(str)
    adata = sc.read_mtx(paths["matrix.mtx.gz"]).T
    adata.obs_names, adata.var_names = list(barcodes), make_index_unique(pd.Index(list(genes)))
    columns = {
        "celltype": "celltype", "population": "population", "Diagnosis": "diagnosis", "Sample_Name": "sample",
    }  # fmt: skip
    return _tidy(_annotated(adata, metadata, columns))


def reprogramming() -> AnnData:
    """236,285 cells of mouse fibroblasts on their way to stem cells, of scDiffusion's experiments; 1.4 GB once.

    Files are kept in `scanpy.settings.datasetdir`.

    Returns
    -------
    Annotated data, 236,285 x 19,089, with log-normalised expression, not counts, in `X`: register it with
    `values="log-normalised"` and use `preset="scdiffusion"`. `obs["day"]` is the time, 0 to 18, a category;
    `obs["serum"]` and `obs["2i"]` the medium, `obs["cell_sets"]` clusters.

    Raises
    ------
    RuntimeError
        If the file cannot be downloaded, with where to get it and where to put it.

    References
    ----------
    Schiebinger et al. (2019), Optimal-transport analysis of single-cell gene expression identifies developmental
    trajectories in reprogramming, Cell 176:928. The file is that of CellRank.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.reprogramming()  # doctest: +SKIP
    """
    return _tidy(sc.read_h5ad(REPROGRAMMING.fetch()))


def brain_small() -> AnnData:
    """20,000 brain cells of mouse embryos, of SCLD's experiments; about 70 MB are downloaded once.

    Files are kept in `scanpy.settings.datasetdir`. There are no labels: SCLD, like others, uses Louvain clusters.

    Returns
    -------
    Annotated data, 20,000 x 27,998, with counts in `X` (CSR).

    Raises
    ------
    RuntimeError
        If the file cannot be downloaded, with where to get it and where to put it.

    References
    ----------
    10x Genomics (2017), 1.3 million brain cells from E18 mice, 20,000 of them.

    Examples
    --------
    >>> import scdiffusion as scd
    >>> adata = scd.datasets.brain_small()  # doctest: +SKIP
    """
    return _tidy(sc.read_10x_h5(BRAIN_SMALL.fetch()))


def _annotated(adata: AnnData, annotations: pd.DataFrame, columns: dict[str, str]) -> AnnData:
    """The cells that are annotated, with some of the columns under names of ours."""
    adata = adata[adata.obs_names.isin(annotations.index)].copy()
    adata.obs = annotations.loc[adata.obs_names, list(columns)].rename(columns=columns).astype("category")
    return adata


def _tidy(adata: AnnData) -> AnnData:
    adata.X = sp.csr_matrix(adata.X, dtype=np.float32)
    adata.var_names_make_unique()
    return adata
