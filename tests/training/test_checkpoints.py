import os
import signal

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from processes import DIES_AT_A_MOMENT, WRITES_NO_MORE_THAN, run

import scdiffusion as scd
from scdiffusion._writing import whole_file
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


def test_a_full_disk_is_a_clear_error_and_leaves_the_checkpoint_before(tmp_path):
    untrained().train(max_epochs=1, progress=False, checkpoint_dir=tmp_path)
    path, told = tmp_path / "autoencoder" / "last.ckpt", tmp_path / "told"
    before = path.read_bytes()
    code = TRAINS.replace("model.train", "try:\n    model.train")
    code += "except OSError as error:\n    open(told, 'w').write(str(error))"
    variables = {"folder": str(tmp_path), "told": str(told), "n_bytes": len(before) // 2}
    assert run(WRITES_NO_MORE_THAN + code, **variables) == 0
    assert f"Could not write {path}" in told.read_text() and "Make room and call train again" in told.read_text()
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_trainings_in_one_folder_write_to_files_of_their_own(tmp_path):
    with whole_file(tmp_path / "last.ckpt") as first, whole_file(tmp_path / "last.ckpt") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second and not (tmp_path / "last.ckpt").exists()
    assert (tmp_path / "last.ckpt").read_text() == "first" and len(list(tmp_path.iterdir())) == 1


def test_checkpoints_that_do_not_fit_are_refused_with_a_way_out(tmp_path):
    untrained().train(max_epochs=2, progress=False, checkpoint_dir=tmp_path)
    with pytest.warns(UserWarning, match="Going on with"), pytest.raises(ValueError, match="Raise max_epochs .* to 2"):
        untrained().train(max_epochs=1, progress=False, checkpoint_dir=tmp_path)
    other = scd.datasets.pbmc68k_reduced()[:, :500].copy()
    other = other[np.ravel(other.layers["counts"].sum(1)) > 0].copy()
    scd.SCDiffusion.setup_anndata(other, layer="counts")
    other = scd.SCDiffusion(other, n_latent=4, n_hidden=8, denoiser_hidden=8, denoiser_layers=1)
    with pytest.warns(UserWarning, match="Going on with"), pytest.raises(ValueError, match="of another model.*500"):
        other.train(max_epochs=2, progress=False, checkpoint_dir=tmp_path)


@pytest.mark.filterwarnings("ignore:Going on with")
def test_ctrl_c_keeps_the_history_which_a_checkpoint_goes_on_with(tmp_path):
    class Interrupt(Callback):
        def on_train_epoch_start(self, trainer, stage):
            if stage.name == "diffusion" and trainer.current_epoch == 2:
                raise KeyboardInterrupt

    def epochs() -> list[int]:
        return model.history["diffusion_train_loss"].index.tolist()

    model = untrained()
    model.train(max_epochs=1, progress=False)
    later = {"max_epochs": {"autoencoder": 0, "diffusion": 4}, "progress": False, "checkpoint_dir": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        model.train(**later, callbacks=[Interrupt()])
    assert epochs() == [0, 1, 2]
    model.train(**later)
    assert epochs() == [0, 1, 2, 3, 4]


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
