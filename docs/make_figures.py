"""Draw the figures of the README and of the guide.

    python docs/make_figures.py [DATA_DIR]

The README's comes from the dataset in the package, under a minute on one core. With DATA_DIR, the folder of the
benchmarks' datasets, those on judging generated cells are drawn as well, from its pbmc3k.h5ad: four minutes.
"""

import io
import sys
from pathlib import Path

import anndata as ad
import matplotlib.pyplot as plt
import scdiffusion as scd
from matplotlib.figure import Figure
from PIL import Image
from scdiffusion import pl

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "benchmarks"))

# one or two of each kind
SHOWN = [
    *("gene_mean_spearman", "library_size", "n_genes", "gene_correlation_error", "energy_distance", "coverage"),
    *("knn_auc", "logistic_auc", "random_forest_auc_genes", "lfc_slope", "label_accuracy"),
]


def readme() -> None:
    """Real and generated cells in one UMAP."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    model = scd.SCDiffusion(adata)
    model.train()
    generated = model.generate(obs_conditions="observed", rng=0)
    figure = pl.overlay(adata, generated, color="bulk_labels", layer="counts", return_fig=True)
    figure.set_size_inches(9.6, 2.7)  # a README is about 9 inches wide: text keeps its size
    save(figure, "overlay")


def judging(folder: Path) -> None:
    """A model, independent genes and shuffled genes, which mean expression alone does not tell apart."""
    from evaluation import candidates

    adata, key = ad.read_h5ad(folder / "pbmc3k.h5ad"), "louvain"
    is_train = (adata.obs["split"] == "train").to_numpy()
    train = adata[is_train].copy()
    real, *others = candidates(train, adata[~is_train], key, None).items()
    tables = {name: scd.tl.evaluate(real[1], cells, train=train, groupby=key, metrics=SHOWN) for name, cells in others}
    save(pl.evaluation(tables, return_fig=True), "judging_scores")

    figure, axes = plt.subplots(3, 3, figsize=(7.4, 7.3), layout="constrained")
    for row, (name, cells) in zip(axes, others[1:], strict=True):
        pl.overlay(train, cells, color=key, n_cells=cells.n_obs, size=6, ax=row, show=False)
        row[2].get_legend().remove()  # of the types
        figures = tables[name].query("group == 'all'").set_index("metric")["generated"]
        row[0].set_ylabel(
            f"{name}\nSCC {figures['gene_mean_spearman']:.3f}, forest AUC {figures['random_forest_auc_genes']:.2f}"
        )
        plt.setp(row, xlabel="")
    for row in axes[1:]:
        plt.setp(row, title="")
        row[2].artists[0].remove()  # the legend of the sides, once is enough
    save(figure, "judging_overlays")


def save(figure: Figure, name: str) -> None:
    """Save with a palette of 256 colours, which makes files three times smaller and looks the same."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=180)
    Image.open(buffer).convert("RGB").quantize(256).save(DOCS / "_static" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    readme()
    if len(sys.argv) > 1:
        judging(Path(sys.argv[1]))
