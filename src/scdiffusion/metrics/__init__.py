"""How close are generated cells to real ones: arrays in, a number out.

Rows are cells, columns are features (genes or principal components); the real side comes first. Every figure should be
read beside the same figure of real against real cells, at the same number of cells.
"""

from ._classifier import knn_auc, logistic_auc, random_forest_auc
from ._coexpression import gene_correlation_error, gene_correlation_similarity
from ._cross_modality import cross_correlation_error
from ._fold_changes import lfc_correlation, lfc_slope, log_fold_changes, marker_overlap
from ._labels import label_accuracy, train_on_synthetic_f1
from ._marginals import (
    gene_mean_correlation,
    gene_mean_error,
    gene_variance_error,
    ks_distance,
    library_size,
    n_genes,
    zero_fraction,
)
from ._memorisation import membership_auc, nearest_training_ratio
from ._mmd import mmd_scdiffusion, mmd_scld, mmd_unbiased
from ._neighbors import density_coverage, lisi, one_nn_accuracy, precision_recall
from ._preprocess import joint_pca, log_normalise, reference_pca
from ._transport import energy_distance, wasserstein

__all__ = [
    "cross_correlation_error",
    "density_coverage",
    "energy_distance",
    "gene_correlation_error",
    "gene_correlation_similarity",
    "gene_mean_correlation",
    "gene_mean_error",
    "gene_variance_error",
    "joint_pca",
    "knn_auc",
    "ks_distance",
    "label_accuracy",
    "lfc_correlation",
    "lfc_slope",
    "library_size",
    "lisi",
    "log_fold_changes",
    "log_normalise",
    "logistic_auc",
    "marker_overlap",
    "membership_auc",
    "mmd_scdiffusion",
    "mmd_scld",
    "mmd_unbiased",
    "n_genes",
    "nearest_training_ratio",
    "one_nn_accuracy",
    "precision_recall",
    "random_forest_auc",
    "reference_pca",
    "train_on_synthetic_f1",
    "wasserstein",
    "zero_fraction",
]
