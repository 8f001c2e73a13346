"""Draw the figure of the README: trains on the dataset that comes with the package, under a minute on one core."""

from pathlib import Path

import scdiffusion as scd
from scdiffusion import pl

STATIC = Path(__file__).parent / "_static"


def main() -> None:
    """Train, generate, draw."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    model = scd.SCDiffusion(adata)
    model.train()
    generated = model.generate(obs_conditions="observed", rng=0)

    figure = pl.overlay(adata, generated, color="bulk_labels", layer="counts", return_fig=True)
    figure.set_size_inches(9.6, 2.7)  # a README is about 9 inches wide: text keeps its size
    figure.savefig(STATIC / "overlay.png", dpi=180)


if __name__ == "__main__":
    main()
