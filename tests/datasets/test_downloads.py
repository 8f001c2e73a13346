"""Loaders, on files in the sources' formats that a server of the tests' own offers."""

import gzip
import hashlib
import io
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scipy.sparse as sp
from scipy.io import mmwrite

import scdiffusion as scd
from scdiffusion.datasets import _downloads
from scdiffusion.datasets._downloads import RemoteFile

GENES = ["Actb", "Cd3e", "Cd3e", "Lyz2"]  # a name that occurs twice, as in the sources
COUNTS = np.array([[1, 0, 2, 0], [0, 3, 0, 1], [5, 0, 0, 7]])


def mtx(counts) -> str:
    text = io.BytesIO()
    mmwrite(text, sp.coo_matrix(counts))
    return text.getvalue().decode()


def mex(barcodes) -> dict[str, str]:
    """A folder as 10x wrote them, genes by cells."""
    return {
        "matrix.mtx": mtx(COUNTS[: len(barcodes)].T),
        "genes.tsv": "".join(f"ID{i}\t{gene}\n" for i, gene in enumerate(GENES)),
        "barcodes.tsv": "\n".join(barcodes) + "\n",
    }


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        self.server.requests.append(self.path)


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    server.requests, server.folder = [], folder
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def offered(server, tmp_path, monkeypatch):
    """Puts a file on the server, in place of one of the module's; the folder of datasets is a new one."""
    before, sc.settings.datasetdir = sc.settings.datasetdir, tmp_path / "datasets"

    def offer(name: str, contents: bytes, key: str | None = None, sha256: str | None = None) -> RemoteFile:
        there = getattr(_downloads, name)
        file = there[key] if key else there
        (server.folder / file.name).write_bytes(contents)
        local = RemoteFile(f"http://127.0.0.1:{server.server_port}/{file.name}", file.name, sha256)
        if key:
            monkeypatch.setitem(there, key, local)
        else:
            monkeypatch.setattr(_downloads, name, local)
        return local

    yield offer
    sc.settings.datasetdir = before


def check(adata, names):
    assert list(adata.obs_names) == names and isinstance(adata.X, sp.csr_matrix) and adata.X.dtype == np.float32
    assert (adata.X.toarray() == COUNTS[: adata.n_obs]).all()
    assert adata.var_names.is_unique and adata.var_names[0] == "Actb"


def test_tabula_muris(offered, server):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for folder, barcodes in {"Kidney-10X_P4_5": ["AA-1", "CC-1"], "Heart_and_Aorta-10X_P7_4": ["AA-1"]}.items():
            for name, text in mex(barcodes).items():
                file.writestr(f"droplet/{folder}/{name}", text)
    annotations = pd.DataFrame(
        {
            "cell": ["10X_P4_5_AA", "10X_P7_4_AA", "10X_P9_9_TT"],
            "tissue": ["Kidney", "Heart_and_Aorta", "Lung"],
            "cell_ontology_class": ["T cell", None, "B cell"],
            "mouse.id": ["3-F-56", "3-M-8", "x"],
            "channel": ["10X_P4_5", "10X_P7_4", "10X_P9_9"],
        }
    )
    offered("TABULA_MURIS", archive.getvalue())
    offered("TABULA_MURIS_ANNOTATIONS", annotations.to_csv(index=False).encode())
    for _ in range(2):
        adata = scd.datasets.tabula_muris()
        assert dict(zip(adata.obs_names, adata.obs["organ"], strict=True)) == {
            "10X_P7_4_AA": "Heart_and_Aorta",
            "10X_P4_5_AA": "Kidney",
        }
        assert adata["10X_P4_5_AA"].obs["celltype"].tolist() == ["T cell"] and adata.obs["celltype"].isna().sum() == 1
        assert (adata["10X_P4_5_AA"].X.toarray() == COUNTS[0]).all()
    assert len(server.requests) == 2  # one per file; the second time nothing is downloaded


def test_pbmc68k(offered):
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as file:
        for name, text in mex(["AA-1", "CC-1", "GG-1"]).items():
            entry = tarfile.TarInfo(f"filtered_matrices_mex/hg19/{name}")
            entry.size = len(text)
            file.addfile(entry, io.BytesIO(text.encode()))
    offered("PBMC68K", archive.getvalue())
    offered("PBMC68K_ANNOTATIONS", b"TSNE.1\tTSNE.2\tbarcodes\tcelltype\n0\t1\tCC-1\tCD34+\n0\t1\tAA-1\tDendritic\n")
    adata = scd.datasets.pbmc68k()
    check(adata, ["AA-1", "CC-1", "GG-1"])
    assert adata.obs["celltype"].astype(object).tolist()[:2] == ["Dendritic", "CD34+"]


def test_lung_fibrosis(offered):
    metadata = pd.DataFrame(
        {"celltype": ["AT2", "AT1"], "population": "Epithelial", "Diagnosis": ["IPF", "Control"], "Sample_Name": "S1"},
        index=["x_AA", "x_CC"],
    )
    parts = {
        "matrix.mtx.gz": mtx(COUNTS.T),
        "barcodes.tsv.gz": "x_AA\nx_CC\nx_GG\n",
        "genes.tsv.gz": "\n".join(GENES) + "\n",
        "IPF_metadata.csv.gz": metadata.to_csv(),
    }
    for part, text in parts.items():
        offered("LUNG_FIBROSIS", gzip.compress(text.encode()), key=part)
    adata = scd.datasets.lung_fibrosis()
    check(adata, ["x_AA", "x_CC"])
    assert adata.obs["celltype"].tolist() == ["AT2", "AT1"] and set(adata.obs) >= {"diagnosis", "sample", "population"}


def test_reprogramming(offered, tmp_path):
    cells = ad.AnnData(
        sp.csr_matrix(np.log1p(COUNTS)), obs=pd.DataFrame({"day": ["0.0", "0.5", "1.0"]}, index=list("abc"))
    )
    cells.write_h5ad(tmp_path / "cells.h5ad")
    offered("REPROGRAMMING", (tmp_path / "cells.h5ad").read_bytes())
    adata = scd.datasets.reprogramming()
    assert adata.X.dtype == np.float32 and adata.obs["day"].tolist() == ["0.0", "0.5", "1.0"]


def test_brain_small(offered, tmp_path):
    counts = sp.csr_matrix(COUNTS)
    with h5py.File(tmp_path / "brain.h5", "w") as file:
        group = file.create_group("mm10")
        for name, values in {"data": counts.data, "indices": counts.indices, "indptr": counts.indptr}.items():
            group[name] = values
        group["shape"] = [len(GENES), len(COUNTS)]
        group["barcodes"] = np.array(["AA-1", "CC-1", "GG-1"], dtype="S")
        group["gene_names"] = np.array(GENES, dtype="S")
        group["genes"] = np.array([f"ID{i}" for i in range(len(GENES))], dtype="S")
    offered("BRAIN_SMALL", (tmp_path / "brain.h5").read_bytes())
    check(scd.datasets.brain_small(), ["AA-1", "CC-1", "GG-1"])


def test_a_known_checksum_is_checked(offered, tmp_path):
    right, wrong = (hashlib.sha256(text).hexdigest() for text in (b"cells", b"other cells"))
    assert offered("BRAIN_SMALL", b"cells", sha256=right).fetch().read_bytes() == b"cells"
    (tmp_path / "datasets" / _downloads.BRAIN_SMALL.name).unlink()
    with pytest.raises(RuntimeError, match="does not match the known hash"):
        offered("BRAIN_SMALL", b"cells", sha256=wrong).fetch()


def test_offline_says_where_to_get_the_file_and_where_to_put_it(offered, server, tmp_path):
    file = offered("BRAIN_SMALL", b"")
    (server.folder / file.name).unlink()
    path = tmp_path / "datasets" / file.name
    with pytest.raises(RuntimeError, match=rf"Get it from {file.url} by other means and put it at {path}"):
        scd.datasets.brain_small()
    path.write_bytes(b"by hand")
    assert file.fetch().read_bytes() == b"by hand"


def test_sources_are_public_addresses():
    files = [value for value in vars(_downloads).values() if isinstance(value, RemoteFile)]
    files += _downloads.LUNG_FIBROSIS.values()
    assert len(files) == 10 and all(file.url.startswith("https://") for file in files)
    assert len({file.name for file in files}) == 10
