from pathlib import Path

import anndata as ad
import pytest

import scdiffusion as scd

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def adata() -> ad.AnnData:
    """700 real cells with counts in a layer and two conditions."""
    return scd.datasets.pbmc68k_reduced()


@pytest.fixture(scope="session")
def trained() -> scd.SCDiffusion:
    """A model of two conditions, trained with the defaults."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
    model = scd.SCDiffusion(adata)
    model.train(progress=False)
    return model


@pytest.fixture(scope="session")
def shared_data():
    """Reader of the larger real datasets, which are not part of the package."""

    def read(name: str) -> ad.AnnData:
        path = DATA / f"{name}.h5ad"
        if not path.exists():
            pytest.skip(f"{path.name} is not beside the repository")
        return ad.read_h5ad(path)

    return read
