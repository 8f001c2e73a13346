import pickle
import shutil
import signal
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from processes import DIES_AT_A_MOMENT, WRITES_NO_MORE_THAN, run

import scdiffusion as scd
from scdiffusion.model._saving import AtomicDirectory


@pytest.fixture
def saved(small_preset, tmp_path):
    """Where a model is saved."""
    small_preset(None).save(tmp_path / "model")
    return tmp_path / "model"


class Program:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_models_are_refused(saved, share):
    contents = (saved / "model.pt").read_bytes()
    (saved / "model.pt").write_bytes(contents[: int(share * len(contents))])
    with pytest.raises(ValueError, match=r"model\.pt is damaged"):
        scd.SCDiffusion.load(saved)


def test_models_with_any_flipped_bit_are_refused(saved):
    contents = (saved / "model.pt").read_bytes()
    for position in np.random.default_rng(0).integers(len(contents), size=40):
        damaged = bytearray(contents)
        damaged[position] ^= 4
        (saved / "model.pt").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"model\.pt is damaged"):
            scd.SCDiffusion.load(saved)


@pytest.mark.parametrize(
    "write", [lambda program, path: path.write_bytes(pickle.dumps(program)), torch.save], ids=["pickle", "torch"]
)
def test_programs_are_refused_and_not_run(saved, tmp_path, write):
    write(Program(tmp_path / "was_run"), saved / "model.pt")
    with pytest.raises(ValueError, match=r"not\s+written by model\.save"):
        scd.SCDiffusion.load(saved)
    assert not (tmp_path / "was_run").exists()


def test_a_newer_format_says_to_upgrade(saved):
    contents = torch.load(saved / "model.pt", weights_only=True)
    torch.save({**contents, "format": contents["format"] + 1, "version": "9.1"}, saved / "model.pt")
    with pytest.raises(ValueError, match=r"written by scdiffusion 9\.1.*pip install --upgrade"):
        scd.SCDiffusion.load(saved)
    torch.save({"weights": torch.zeros(3)}, saved / "model.pt")
    with pytest.raises(ValueError, match="not written by model.save"):
        scd.SCDiffusion.load(saved)


def test_models_that_miss_a_part_are_refused(saved):
    contents = torch.load(saved / "model.pt", weights_only=True)
    attributes, weights = contents["attr_dict"], contents["model_state_dict"]
    first = next(iter(weights))
    damaged = [
        *({key: value for key, value in contents.items() if key != name} for name in contents if name != "format"),
        *(
            {**contents, "attr_dict": {key: value for key, value in attributes.items() if key != name}}
            for name in ("registry_", "init_params_")
        ),
        {**contents, "attr_dict": None},
        {**contents, "model_state_dict": {name: weight for name, weight in weights.items() if name != first}},
        {**contents, "model_state_dict": {**weights, first: torch.zeros(2, 3, 4)}},
    ]
    for wrong in damaged:
        torch.save(wrong, saved / "model.pt")
        with pytest.raises(ValueError, match=r"model\.pt is damaged.* Save the model again"):
            scd.SCDiffusion.load(saved)
    torch.save({**contents, "format": "x"}, saved / "model.pt")
    with pytest.raises(ValueError, match="not written by model.save"):
        scd.SCDiffusion.load(saved)


def test_damaged_data_beside_a_model_are_named(saved, tmp_path):
    scd.SCDiffusion.load(saved, scd.datasets.pbmc68k_reduced()).save(tmp_path / "both", save_anndata=True)
    data = tmp_path / "both" / "adata.h5ad"
    data.write_bytes(data.read_bytes()[:20_000])
    with pytest.raises(ValueError, match=r"adata\.h5ad, the data beside the model, is damaged.*adata=False"):
        scd.SCDiffusion.load(tmp_path / "both")
    assert scd.SCDiffusion.load(tmp_path / "both", adata=False).is_trained_


@pytest.mark.parametrize(("with_data", "n_bytes"), [(False, 10_000), (True, 200_000)])
def test_a_full_disk_is_a_clear_error_and_leaves_the_model_before(saved, tmp_path, with_data, n_bytes):
    before, told = (saved / "model.pt").read_bytes(), tmp_path / "told"
    code = """
import scdiffusion as scd
model = scd.SCDiffusion.load(folder, scd.datasets.pbmc68k_reduced())
try:
    model.save(folder, overwrite=True, save_anndata=with_data)
except OSError as error:
    open(told, "w").write(str(error))
"""
    variables = {"folder": str(saved), "told": str(told), "with_data": with_data, "n_bytes": n_bytes}
    assert run(WRITES_NO_MORE_THAN + code, **variables) == 0
    assert f"Could not write {saved}" in told.read_text() and "Make room and save again" in told.read_text()
    assert (saved / "model.pt").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "told"]


def test_killed_while_saving_a_model_is_the_old_or_the_new_one(small_preset, saved, tmp_path):
    def latents(folder) -> np.ndarray:
        return scd.SCDiffusion.load(folder).generate(5, rng=0).obsm["X_scdiffusion"]

    small_preset(None, denoiser_layers=1).save(tmp_path / "new")
    old, new = latents(saved), latents(tmp_path / "new")
    code = "import scdiffusion as scd\nmodel = scd.SCDiffusion.load(source)" + DIES_AT_A_MOMENT
    code += "model.save(target, overwrite=True)"
    found = []
    for moment in range(1, 20):
        target = tmp_path / f"target{moment}" / "model"
        shutil.copytree(saved, target)
        exit_code = run(
            code, source=str(tmp_path / "new"), target=str(target), watched=str(target.parent), moment=moment
        )
        model = latents(target)
        assert np.array_equal(model, old) or np.array_equal(model, new)
        found.append(np.array_equal(model, new))
        if exit_code == 0:
            break
        assert exit_code == -signal.SIGKILL
    assert exit_code == 0 and found[-1] and not found[0]


def test_a_slower_save_does_not_replace_what_is_there_by_then(tmp_path):
    with (
        pytest.raises(ValueError, match="already exists"),
        AtomicDirectory(tmp_path / "model", overwrite=False) as slow,
    ):
        (slow / "file").write_text("slow")
        with AtomicDirectory(tmp_path / "model", overwrite=False) as fast:
            (fast / "file").write_text("fast")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model" / "file").read_text() == "fast"


def test_data_of_another_save_are_left_out(saved, tmp_path):
    adata = scd.datasets.pbmc68k_reduced()
    model = scd.SCDiffusion.load(saved, adata)
    model.save(tmp_path / "with_data", save_anndata=True)
    assert scd.SCDiffusion.load(tmp_path / "with_data").adata.n_obs == 700
    other = scd.SCDiffusion.load(saved, scd.datasets.pbmc68k_reduced()[:300].copy())
    other.save(tmp_path / "other", save_anndata=True)
    shutil.copy(tmp_path / "other" / "adata.h5ad", tmp_path / "with_data")
    with pytest.warns(UserWarning, match="not what the model was saved with"):
        assert scd.SCDiffusion.load(tmp_path / "with_data").adata is None
    model.save(tmp_path / "with_data", overwrite=True)  # without the data, which stay beside it
    assert ad.read_h5ad(tmp_path / "with_data" / "adata.h5ad").n_obs == 300
    assert scd.SCDiffusion.load(tmp_path / "with_data").adata is None
    with pytest.raises(ValueError, match="loaded without data"):
        scd.SCDiffusion.load(saved).save(tmp_path / "nothing", save_anndata=True)
    assert not (tmp_path / "nothing").exists()
