import os
import signal

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from processes import DIES_AT_A_MOMENT, run

import scdiffusion as scd
from scdiffusion.training._callbacks import KeepBest

TRAINS = """
import scdiffusion as scd
adata = scd.datasets.pbmc68k_reduced()
scd.SCDiffusion.setup_anndata(adata, layer="counts")
model = scd.SCDiffusion(adata, n_latent=4, n_hidden=8, denoiser_hidden=8, denoiser_layers=1)
model.train(max_epochs=3, progress=False, checkpoint_dir=folder)
"""


def untrained() -> scd.SCDiffusion:
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts")
    return scd.SCDiffusion(adata, n_latent=4, n_hidden=8, denoiser_hidden=8, denoiser_layers=1)


@pytest.mark.filterwarnings("ignore:Going on with")
@pytest.mark.parametrize("moment", [3, 5, 8])
def test_killed_while_training_it_goes_on(tmp_path, moment):
    folder = tmp_path / "checkpoints"
    assert run(DIES_AT_A_MOMENT + TRAINS, folder=str(folder), watched=str(folder), moment=moment) == -signal.SIGKILL
    for checkpoint in folder.rglob("*.ckpt"):
        assert torch.load(checkpoint, weights_only=True)["epoch"] >= 0
    model = untrained()
    model.train(max_epochs=3, progress=False, checkpoint_dir=folder)
    assert model.history["diffusion_train_loss"].index[-1] == 2
    assert np.isfinite(model.generate(5, rng=0).obsm["X_scdiffusion"]).all()


def test_damaged_checkpoints_are_refused_with_a_way_out(tmp_path):
    untrained().train(max_epochs=1, progress=False, checkpoint_dir=tmp_path)
    path = tmp_path / "autoencoder" / "last.ckpt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="Delete it"), pytest.warns(UserWarning, match="Going on with the autoencoder"):
        untrained().train(max_epochs=1, progress=False, checkpoint_dir=tmp_path)


def test_ctrl_c_keeps_the_best_weights(tmp_path):
    """Weights are spoilt after an epoch, and the interruption comes as the signal that a terminal sends."""
    best = {}

    class SpoilAndInterrupt(Callback):
        def on_train_epoch_end(self, trainer, stage):
            if stage.name == "diffusion" and trainer.current_epoch == 1:
                keep = next(callback for callback in trainer.callbacks if isinstance(callback, KeepBest))
                best.update({name: weights.clone() for name, weights in keep.best_weights.items()})
                with torch.no_grad():
                    for weights in (*stage.network.parameters(), *stage.average.parameters()):
                        weights.zero_()
                os.kill(os.getpid(), signal.SIGINT)

    model = untrained()
    with pytest.raises(KeyboardInterrupt):
        model.train(max_epochs=5, progress=False, callbacks=[SpoilAndInterrupt()])
    weights = model.module.denoiser.state_dict()
    assert best and all(torch.equal(weights[name], kept) for name, kept in best.items())
