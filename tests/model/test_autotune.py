"""scvi-tools' hyperparameter search takes the model."""

import numpy as np
import pytest
from lightning.pytorch import Callback
from lightning.pytorch.loggers import TensorBoardLogger

import scdiffusion as scd

SMALL = {"n_latent": 4, "n_hidden": 16, "condition_hidden": 16}


class Report(Callback):
    """Reports a metric at the end of each validation, as ray's callback does."""

    def __init__(self, metric):
        self.metric, self.reported = metric, []

    def on_validation_end(self, trainer, _):
        if self.metric in trainer.callback_metrics:
            self.reported.append(trainer.callback_metrics[self.metric].item())


def test_a_trial_of_a_search(adata, tmp_path, capsys):
    """What `scvi.autotune._experiment._trainable` does, without ray."""
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    manager = scd.SCDiffusion._get_most_recent_anndata_manager(adata, required=True)
    setup = manager._get_setup_method_args()
    assert manager._registry["setup_method_name"] == "setup_anndata"
    trial = adata.copy()
    scd.SCDiffusion.setup_anndata(trial, **setup["setup_args"])
    model = scd.SCDiffusion(trial, denoiser_hidden=16, **SMALL)
    report = Report("diffusion_validation_loss")
    model.train(
        accelerator="auto",
        devices="auto",
        check_val_every_n_epoch=1,
        enable_progress_bar=False,
        logger=TensorBoardLogger(tmp_path),
        callbacks=[report],
        max_epochs=3,
    )
    np.testing.assert_allclose(report.reported, model.history[report.metric].to_numpy().ravel(), rtol=1e-6)
    assert "epoch" not in capsys.readouterr().err.lower()
    assert any(tmp_path.rglob("events.out.tfevents.*"))


@pytest.mark.slow
def test_a_search(adata, tmp_path):
    for name in ("ray", "hyperopt", "scib_metrics"):
        pytest.importorskip(name, reason="a search needs scvi-tools[autotune]")
    from ray import tune
    from scvi.autotune import run_autotune

    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    search = run_autotune(
        scd.SCDiffusion,
        adata,
        metrics="diffusion_validation_loss",
        mode="min",
        search_space={
            "model_params": {"denoiser_hidden": tune.grid_search([16, 32]), **SMALL},
            "train_params": {"max_epochs": 2},
        },
        num_samples=1,
        scheduler="fifo",
        searcher="random",
        seed=0,
        resources={"cpu": 1},
        logging_dir=str(tmp_path),
        ignore_reinit_error=True,
    )
    found = {
        result.config["model_params"]["denoiser_hidden"]: result.metrics["diffusion_validation_loss"]
        for result in search.result_grid
    }
    assert found.keys() == {16, 32} and all(np.isfinite(loss) for loss in found.values())
