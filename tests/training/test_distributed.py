"""Two processes that train one model, against one."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scdiffusion.training import Stage

SCRIPT = Path(__file__).with_name("train_in_processes.py")


def run(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=300, check=True
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def alone(folder):
    spec = importlib.util.spec_from_file_location("train_in_processes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main(folder, 128)
    return torch.load(folder / "auto.pt")


@pytest.fixture(scope="module")
def together(folder):
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    shown = run(*launcher, SCRIPT, folder, 64, "ddp")
    return [torch.load(folder / f"2{rank}.pt") for rank in range(2)], shown.stderr


def assert_same_losses(losses, expected):
    # The same seed gives other noise; over seeds, losses scatter by a thousandth, and in the latents by some per cent.
    for stage, rel in (("autoencoder", 1e-3), ("diffusion", 0.15), ("classifier", 0.15)):
        assert losses["losses"][stage] == pytest.approx(expected["losses"][stage], rel=rel), stage


def test_losses_are_those_of_one_process_with_as_many_cells_a_step(alone, together):
    assert_same_losses(together[0][0], alone)


def test_all_processes_end_with_the_same_model(together):
    (first, second), _ = together
    assert first["losses"] == second["losses"]
    assert all(torch.equal(tensor, second["weights"][name]) for name, tensor in first["weights"].items())


def test_progress_is_shown_once(together):
    assert together[1].count("Training the diffusion: 100%|") <= 2  # the last update, and the bar once closed


def test_each_process_draws_noise_of_its_own(monkeypatch):
    drawn = []
    with torch.random.fork_rng():
        for rank in range(2):
            torch.manual_seed(0)
            monkeypatch.setattr(Stage, "global_rank", rank)
            Stage("any", torch.nn.Linear(1, 1)).on_train_start()
            drawn.append(torch.rand(3))
    assert not torch.equal(*drawn)


@pytest.mark.slow
def test_processes_that_are_started_for_the_training_hand_over_what_they_learned(folder, alone):
    run(SCRIPT, folder, 64, "ddp_fork")
    forked = torch.load(folder / "ddp_fork.pt")
    assert_same_losses(forked, alone)
    assert not torch.equal(forked["weights"]["denoiser.output.weight"], alone["weights"]["denoiser.output.weight"])
