"""Every metric of fidelity must rank: real resample, small shift, independent NB per type, shuffled genes."""

import numpy as np
import pytest

from scdiffusion import metrics

FOREST = {"n_estimators": 100, "n_jobs": 1}


def unmixed(real, generated):
    return 1 - metrics.lisi(np.concatenate([real, generated]), np.repeat([0, 1], [len(real), len(generated)]))


# lower is better in all of them
ON_PCS = {
    "mmd_scdiffusion": metrics.mmd_scdiffusion,
    "mmd_scld": metrics.mmd_scld,
    "mmd_unbiased": metrics.mmd_unbiased,
    "energy_distance": metrics.energy_distance,
    "wasserstein_1": lambda real, gen: metrics.wasserstein(real, gen, p=1),
    "wasserstein_2": metrics.wasserstein,
    "wasserstein_sinkhorn": lambda real, gen: metrics.wasserstein(real, gen, method="sinkhorn"),
    "lisi": unmixed,
    "random_forest_auc": lambda real, gen: metrics.random_forest_auc(real, gen, **FOREST),
    "knn_auc": metrics.knn_auc,
    "one_nn_accuracy": metrics.one_nn_accuracy,
    "coverage": lambda real, gen: 1 - metrics.density_coverage(real, gen).coverage,
    "recall": lambda real, gen: 1 - metrics.precision_recall(real, gen).recall,
}
ON_GENES = {
    "gene_correlation_error": lambda real, gen: metrics.gene_correlation_error(real.log, gen.log, n_top=100),
    "gene_correlation_similarity": lambda real, gen: -metrics.gene_correlation_similarity(real.log, gen.log, n_top=100),
    "lfc_correlation": lambda real, gen: -metrics.lfc_correlation(real.log, real.types, gen.log, gen.types),
    "marker_overlap": lambda real, gen: -metrics.marker_overlap(real.log, real.types, gen.log, gen.types, n_top=20),
}


@pytest.mark.parametrize("name", ON_PCS)
def test_order_in_principal_components(cells, name):
    values = [ON_PCS[name](cells.real.pcs, generated.pcs) for generated in cells.generated.values()]
    assert values == sorted(set(values)), dict(zip(cells.generated, values, strict=True))


@pytest.mark.parametrize("name", ON_GENES)
def test_order_in_genes(cells, name):
    values = [ON_GENES[name](cells.real, generated) for generated in cells.generated.values()]
    assert values == sorted(set(values)), dict(zip(cells.generated, values, strict=True))


def test_gene_means_do_not_separate_shuffled_cells_from_real_ones(cells):
    """The reason why the papers' SCC is a smoke test only."""
    scc = {name: metrics.gene_mean_correlation(cells.real.log, gen.log) for name, gen in cells.generated.items()}
    assert scc["shuffled"] > 0.98
    assert scc["shuffled"] > scc["shifted"]


def test_gene_space_forest_sees_the_shift_that_pcs_hide(cells):
    real, shifted, resample = cells.real, cells.generated["shifted"], cells.generated["resample"]
    in_genes = metrics.random_forest_auc(real.log, shifted.log, **FOREST)
    assert in_genes > metrics.random_forest_auc(real.pcs, shifted.pcs, **FOREST) + 0.1
    assert metrics.random_forest_auc(real.log, resample.log, **FOREST) == pytest.approx(0.5, abs=0.07)
