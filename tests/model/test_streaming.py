import shutil
import signal
import warnings
import weakref
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from processes import DIES_AT_A_MOMENT, WRITES_NO_MORE_THAN, rank_environments, run, start

import scdiffusion as scd
from scdiffusion.model._streaming import Stream

READ = {".zarr": ad.read_zarr, ".h5ad": ad.read_h5ad}
REQUEST = {"n_cells": 200, "obs_conditions": "observed", "batch_size": 64, "rng": 5}  # the last chunk is a small one

GENERATES = """
import scdiffusion as scd
scd.SCDiffusion.load(model).generate(**request, output=output)
"""


@pytest.fixture(scope="module")
def saved(small_preset, tmp_path_factory):
    """A model, and where it is saved."""
    folder = tmp_path_factory.mktemp("streaming") / "model"
    small_preset(None).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def model(saved):
    return scd.SCDiffusion.load(saved)


@pytest.fixture(scope="module")
def expected(model):
    return model.generate(**REQUEST)


def assert_same(cells: ad.AnnData, expected: ad.AnnData) -> None:
    assert cells.X.dtype == expected.X.dtype and (cells.X != expected.X).nnz == 0
    assert np.array_equal(cells.obsm["X_scdiffusion"], expected.obsm["X_scdiffusion"])
    pd.testing.assert_frame_equal(cells.obs, expected.obs)
    pd.testing.assert_frame_equal(cells.var, expected.var)
    np.testing.assert_equal(cells.uns["scdiffusion"], expected.uns["scdiffusion"])  # a list comes back as an array


def resume(model, output, request=REQUEST):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.generate(**request, output=output)


@pytest.mark.parametrize("suffix", READ)
def test_streamed_cells_are_those_of_memory(model, expected, tmp_path, suffix):
    output = tmp_path / "new" / f"cells{suffix}"
    cells = model.generate(**REQUEST, output=output)
    assert_same(READ[suffix](output), expected)
    assert_same(cells.to_memory(), expected)
    assert_same(cells[100:105].to_memory(), expected[100:105].copy())
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_few_chunks_are_in_memory_at_a_time(model, tmp_path, monkeypatch):
    alive, most = [], 0

    def watch(name):
        method = getattr(Stream, name)

        def watched(self, *arguments, **kwargs):
            nonlocal most
            alive.append(weakref.ref(next(argument for argument in arguments if isinstance(argument, ad.AnnData))))
            most = max(most, sum(reference() is not None for reference in alive))
            return method(self, *arguments, **kwargs)

        monkeypatch.setattr(Stream, name, watched)

    watch("_keep")
    watch("_append")
    model.generate(100, batch_size=10, rng=0, output=tmp_path / "cells.h5ad")
    assert len(alive) == 20 and most <= 2


@pytest.mark.parametrize(("suffix", "n_moments"), [(".zarr", 5), (".h5ad", 4)])
def test_killed_at_any_moment_it_goes_on_to_the_same_cells(model, saved, expected, tmp_path, suffix, n_moments):
    def generate(output, moment):
        variables = {"watched": f"{output}.partial", "moment": moment}
        counted = "\nopen(n_events_file, 'w').write(str(n_events))"
        return run(
            DIES_AT_A_MOMENT + GENERATES + counted, model=saved, request=REQUEST, output=str(output), **variables,
            n_events_file=str(tmp_path / "n_events"),
        )  # fmt: skip

    assert generate(tmp_path / f"whole{suffix}", moment=0) == 0
    n_events = int((tmp_path / "n_events").read_text())
    n_resumed = 0
    for moment in np.unique(np.linspace(1, n_events, n_moments).round().astype(int)):
        output = tmp_path / f"cells{moment}{suffix}"
        assert generate(output, moment) == -signal.SIGKILL
        if not output.exists():
            n_resumed += 1
            resume(model, output)
            assert not Path(f"{output}.partial").exists()
        assert_same(READ[suffix](output), expected)
    assert n_resumed >= n_moments - 2


def test_going_on_is_said_and_draws_only_what_is_missing(model, expected, tmp_path, monkeypatch):
    output, drawn = tmp_path / "cells.zarr", []
    start_chunk = scd.SCDiffusion._start_chunk

    def interrupt(self, drawing, rows, seed):
        if len(drawn) == 3:
            raise KeyboardInterrupt
        drawn.append(rows.start)
        return start_chunk(self, drawing, rows, seed)

    monkeypatch.setattr(scd.SCDiffusion, "_start_chunk", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.generate(**REQUEST, output=output)
    drawn.append("interrupted")
    with pytest.warns(UserWarning, match="holds 2 of the 4 chunks"):
        cells = model.generate(**REQUEST, output=output)
    assert drawn == [0, 64, 128, "interrupted", 128, 192]  # one was being decoded
    assert_same(cells.to_memory(), expected)


def begin(model, output, monkeypatch, **request):
    """Leave a call unfinished after its first chunk."""
    with monkeypatch.context() as patch:
        patch.setattr("scdiffusion.model._streaming.Stream._join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.generate(**request, output=output)
    for chunk in sorted(Path(f"{output}.partial").glob("chunk-*"))[1:]:
        chunk.unlink()


def test_without_a_seed_it_goes_on_with_the_one_it_began_with(model, tmp_path, monkeypatch):
    request = {**REQUEST, "rng": None}
    begin(model, tmp_path / "a.zarr", monkeypatch, **request)
    shutil.copytree(tmp_path / "a.zarr.partial", tmp_path / "b.zarr.partial")
    kept = ad.read_h5ad(tmp_path / "a.zarr.partial" / "chunk-0000000.h5ad")
    first, second = (resume(model, tmp_path / name, request).to_memory() for name in ("a.zarr", "b.zarr"))
    assert_same(first, second)
    assert (first[:64].X != kept.X).nnz == 0
    assert not np.array_equal(first.obsm["X_scdiffusion"][:64], first.obsm["X_scdiffusion"][64:128])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rng": 6}, "seed"),
        ({"obs_conditions": {"bulk_labels": "CD34+"}}, "conditions"),
        ({"n_cells": 201}, "conditions"),
        ({"library_size": 1000}, "library size"),
        ({"sampler": "ddim"}, "setting"),
        ({"batch_size": 32}, "setting"),
        ({"guidance": "classifier_free", "guidance_scale": 2}, "setting"),
    ],
)
def test_unfinished_work_of_another_call_is_refused_and_left_alone(model, tmp_path, monkeypatch, change, named):
    output = tmp_path / "cells.h5ad"
    begin(model, output, monkeypatch, **REQUEST)
    before = sorted(Path(f"{output}.partial").iterdir())
    with pytest.raises(ValueError, match=f"another call, with another .*'{named}'.*shutil.rmtree"):
        model.generate(**{**REQUEST, **change}, output=output)
    assert sorted(Path(f"{output}.partial").iterdir()) == before


def test_unfinished_work_of_another_model_is_refused(model, small_preset, tmp_path, monkeypatch):
    begin(model, tmp_path / "cells.h5ad", monkeypatch, **REQUEST)
    with pytest.raises(ValueError, match="another 'model'"):
        small_preset(None, denoiser_layers=1).generate(**REQUEST, output=tmp_path / "cells.h5ad")


def test_bad_outputs_are_refused_before_anything_is_drawn(model, tmp_path, monkeypatch):
    (tmp_path / "cells.zarr").mkdir()
    with pytest.raises(FileExistsError, match="Choose another output"):
        model.generate(5, output=tmp_path / "cells.zarr")
    with pytest.raises(ValueError, match=r"must end in \.h5ad or \.zarr"):
        model.generate(5, output=tmp_path / "cells.csv")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="rng=0"):
        model.generate(5, output=tmp_path / "other.zarr")
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]


def test_a_full_disk_is_a_clear_error_and_leaves_other_files_alone(model, saved, expected, tmp_path):
    output, told = tmp_path / "cells.h5ad", tmp_path / "told"
    code = """
from pathlib import Path
import scdiffusion as scd
model = scd.SCDiffusion.load(model)
try:
    model.generate(**request, output=output)
except OSError as error:
    Path(told).write_text(str(error))
"""
    (tmp_path / "earlier.txt").write_text("intact")
    arguments = {"model": saved, "request": REQUEST, "output": str(output), "told": str(told)}
    assert run(WRITES_NO_MORE_THAN + code, **arguments, n_bytes=50_000) == 0
    assert "Make room and repeat the call" in told.read_text()
    assert not output.exists() and (tmp_path / "earlier.txt").read_text() == "intact"
    resume(model, output)
    assert_same(ad.read_h5ad(output), expected)


@pytest.mark.parametrize("suffix", READ)
def test_two_calls_at_once_never_mix(model, expected, tmp_path, suffix):
    output = tmp_path / f"cells{suffix}"
    stream = Stream(output)
    with stream._held_by_rank_0():
        with pytest.raises(OSError, match="Another call is writing .* Wait for it, or choose another output"):
            model.generate(**REQUEST, output=output)
    resume(model, output)
    assert_same(READ[suffix](output), expected)
    with pytest.raises(FileExistsError), stream._held_by_rank_0():
        pytest.fail("the other call has finished meanwhile")


def test_a_killed_call_lets_the_next_one_in(tmp_path):
    code = """
import os, signal
from scdiffusion.model._streaming import Stream
with Stream(output)._held_by_rank_0():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    output = str(tmp_path / "cells.zarr")
    assert run(code, output=output) == -signal.SIGKILL
    with Stream(output)._held_by_rank_0():
        assert Path(f"{output}.partial").is_dir()


def test_damaged_chunks_are_drawn_again(model, expected, tmp_path, monkeypatch):
    output = tmp_path / "cells.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(Stream, "_join", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            model.generate(**REQUEST, output=output)
    for number, contents in ((1, b""), (2, Path(f"{output}.partial/chunk-0000002.h5ad").read_bytes()[:5000])):
        Path(f"{output}.partial/chunk-000000{number}.h5ad").write_bytes(contents)
    with pytest.warns(UserWarning, match="holds 4 of the 4 chunks.* 2 of them are damaged and drawn again"):
        model.generate(**REQUEST, output=output)
    assert_same(ad.read_zarr(output), expected)


def test_a_damaged_note_of_the_call_is_refused_with_a_way_out(model, tmp_path, monkeypatch):
    begin(model, tmp_path / "cells.zarr", monkeypatch, **REQUEST)
    (tmp_path / "cells.zarr.partial" / "call.json").write_text("{")
    with pytest.raises(ValueError, match=r"call.json, which says .* is damaged.*shutil.rmtree"):
        model.generate(**REQUEST, output=tmp_path / "cells.zarr")


def test_room_for_joining_is_looked_for_in_time(model, expected, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
        with pytest.raises(OSError, match=r"0 MB are free.*Make room and repeat the call"):
            model.generate(**REQUEST, output=tmp_path / "cells.h5ad")
    assert_same(resume(model, tmp_path / "cells.h5ad").to_memory(), expected)


@pytest.mark.parametrize(("n_ranks", "has_group"), [(2, False), (4, True)])
def test_any_number_of_ranks_gives_the_same_cells(saved, expected, tmp_path, n_ranks, has_group):
    code = """
import os
from pathlib import Path
from torch import distributed
import scdiffusion as scd
os.environ.update(environment)
if has_group:
    distributed.init_process_group("gloo")
cells = scd.SCDiffusion.load(model).generate(**request, output=output)
assert cells.n_obs == request["n_cells"]
assert distributed.is_initialized() == has_group
"""
    output = str(tmp_path / "cells.zarr")
    processes = [
        start(code, environment=environment, model=saved, request=REQUEST, output=output, has_group=has_group)
        for environment in rank_environments(n_ranks)
    ]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * n_ranks
    assert_same(ad.read_zarr(output), expected)
    assert [path.name for path in tmp_path.iterdir()] == ["cells.zarr"]
