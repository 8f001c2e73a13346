"""What a model with the default settings reaches on real data, with margins for other machines."""

import numpy as np
import pytest
import scipy.sparse as sp

import scdiffusion as scd
from scdiffusion import metrics

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("name", "key"), [("kang_stim_ctrl_1556", "cell_type"), ("worm_embryo_time", "cell_type")])
def test_generated_cells_are_hard_to_tell_from_cells_never_seen(shared_data, name, key):
    adata = shared_data(name)
    is_train = (adata.obs["split"] == "train").to_numpy()
    train, test = adata[is_train].copy(), adata[~is_train].copy()
    scd.SCDiffusion.setup_anndata(train, condition_keys=key)
    model = scd.SCDiffusion(train)
    model.train(progress=False)
    cells = model.generate(test.n_obs, obs_conditions="observed", rng=0)
    real, generated = metrics.log_normalise(sp.csr_matrix(test.X)), metrics.log_normalise(cells.X)
    # Shuffled genes come from the training cells: with the very cells they are compared with, they share all means.
    rng = np.random.default_rng(0)
    log_train = metrics.log_normalise(sp.csr_matrix(train.X))
    shuffled = sp.csr_matrix(np.column_stack([rng.permutation(gene) for gene in log_train.toarray().T])[: test.n_obs])
    assert metrics.random_forest_auc(real, generated, n_estimators=300) < 0.72
    pcs_auc = metrics.random_forest_auc(*metrics.joint_pca(real, generated), n_estimators=300)
    assert pcs_auc < 0.75 < metrics.random_forest_auc(*metrics.joint_pca(real, shuffled), n_estimators=300)
    assert metrics.ks_distance(metrics.library_size(test.X), metrics.library_size(cells.X)) < 0.15

    labels, asked = test.obs[key].astype(str).to_numpy(), cells.obs[key].astype(str).to_numpy()
    train_labels = train.obs[key].astype(str).to_numpy()
    pcs, real_pcs, generated_pcs = metrics.reference_pca(log_train, real, generated)
    on_real = metrics.label_accuracy(pcs, train_labels, real_pcs, labels)
    assert metrics.label_accuracy(pcs, train_labels, generated_pcs, asked) > on_real - 0.1
