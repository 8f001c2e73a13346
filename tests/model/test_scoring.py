import threading

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

import scdiffusion as scd
from scdiffusion.diffusion import Selection
from scdiffusion.model._drawing import Drawing
from scdiffusion.model._selection import read_keep_top
from scdiffusion.networks import Conditions

from .conftest import SMALL


@pytest.fixture(scope="module")
def scored():
    """A model after too little training, whose cells can be told from real ones, with a scorer."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys=["bulk_labels", "phase"])
    model = scd.SCDiffusion(adata, **SMALL[None])
    model.train(max_epochs=3, progress=False)
    model.train_scorer(max_epochs=15, progress=False)
    return model


def small_model(preset=None, max_epochs=1, **overrides):
    """A model that a test may change."""
    adata = scd.datasets.pbmc68k_reduced()
    scd.SCDiffusion.setup_anndata(adata, layer="counts", condition_keys="bulk_labels")
    model = scd.SCDiffusion(adata, preset, **{**SMALL[preset], **overrides})
    model.train(max_epochs, progress=False)
    return model


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("scdiffusion")]


class TestTraining:
    def test_generated_cells_of_a_poor_model_are_told_from_held_out_ones(self, scored):
        assert scored.history["scorer_auc"].iloc[-1, 0] > 0.65
        assert {"scorer_train_loss", "scorer_validation_loss"} <= set(scored.history)

    def test_real_cells_that_no_scorer_has_seen_are_scored_above_generated_ones(self, scored):
        held_out = scored._expression().take(scored.validation_indices_)
        generated = scored.generate(200, "observed", keep_top=1.0, rng=3)
        real = torch.sigmoid(scored._log_ratio(held_out, None, None)).numpy()
        assert np.median(real) > generated.obs["realness"].median() + 0.05

    def test_learns_from_training_cells_only(self, scored, monkeypatch):
        seen = []
        features = type(scored)._scored_features

        def spy(self, expression, *args):
            seen.append(expression)
            return features(self, expression, *args)

        monkeypatch.setattr(type(scored), "_scored_features", spy)
        before = scored.scorer_, {name: frame.copy() for name, frame in scored.history_.items()}
        weights = {name: tensor.clone() for name, tensor in scored.module.scorer.state_dict().items()}
        scored.train_scorer(max_epochs=1, progress=False, scorer_kwargs={"n_cells": 50}, rng=5)
        assert [matrix.shape[0] for matrix in seen] == [100, 400]
        expression = scored._expression()
        for rows, cells in ((seen[0][:50], scored.train_indices_), (seen[0][50:], scored.validation_indices_)):
            known = {tuple(row) for row in expression.take(cells).toarray()}
            assert all(tuple(row) in known for row in rows.toarray())
        assert len(scored.history["scorer_auc"]) == 1
        (scored.scorer_, scored.history_) = before
        scored.module.scorer.load_state_dict(weights)

    def test_repeats(self, scored):
        model, weights = small_model(), []
        for _ in range(2):
            model.train_scorer(max_epochs=2, progress=False, rng=4)
            weights.append(model.module.scorer.state_dict())
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


class TestKeeping:
    def test_scores_without_dropping(self, scored):
        plain = scored.generate(100, "observed", rng=0)
        all_kept = scored.generate(100, "observed", keep_top=1.0, rng=0)
        assert (plain.X != all_kept.X).nnz == 0 and plain.obs.equals(all_kept.obs.drop(columns="realness"))
        assert all_kept.obs["realness"].between(0, 1).all()
        assert all_kept.uns["scdiffusion"]["kept_fraction"] == 1 and "keep_top" not in plain.uns["scdiffusion"]

    @pytest.mark.parametrize("selection", ["rank", "rejection"])
    def test_kept_cells_look_more_real(self, scored, selection):
        every = scored.generate(300, "observed", keep_top=1.0, rng=0)
        half = scored.generate(300, "observed", keep_top=0.5, selection=selection, rng=0)
        assert half.obs["realness"].mean() > every.obs["realness"].mean() + 0.03
        assert half.uns["scdiffusion"]["kept_fraction"] == pytest.approx(0.5, abs=0.02)

    def test_scores_are_those_of_the_cells_they_stand_beside(self, scored):
        cells = scored.generate(120, "observed", keep_top=0.6, batch_size=50, rng=0)
        again = torch.sigmoid(scored._log_ratio(cells.X, None, cells.obsm["X_scdiffusion"]))
        np.testing.assert_allclose(cells.obs["realness"], again, atol=1e-5)

    def test_exactly_what_is_asked_for(self, scored):
        asked = {"bulk_labels": {"CD34+": 7, "Dendritic": 30, "CD56+ NK": 1}}
        cells = scored.generate(obs_conditions=asked, keep_top=0.3, batch_size=16, rng=0)
        assert list(cells.obs["bulk_labels"]) == ["CD34+"] * 7 + ["Dendritic"] * 30 + ["CD56+ NK"]
        assert cells.uns["scdiffusion"]["select_per_condition"]
        provenance = scored.generate(8, {"phase": "S"}, keep_top=0.8, rng=0).uns["scdiffusion"]
        assert provenance["kept_fraction"] == 0.8 and provenance["selection"] == "RankSelection"

    def test_conditions_are_those_that_the_kept_cells_were_drawn_for(self, scored, monkeypatch):
        """Over all, whoever prefers a type gets more of it, and obs says so."""
        drawn, sample = [], scored.module.sample
        monkeypatch.setattr(
            scored.module, "sample", lambda c, *args, **kwargs: drawn.append(c.codes) or sample(c, *args, **kwargs)
        )

        class ByPosition(Selection):
            def select(self, log_ratio, n, generator):
                return torch.arange(n)

        asked = {"bulk_labels": {"CD14+ Monocyte": 50, "CD34+": 50}}
        cells = scored.generate(
            obs_conditions=asked, keep_top=0.5, selection=ByPosition(), select_per_condition=False, rng=0
        )
        # Of the 200 candidates, two for each row in the order of the rows, those of the first 100 are kept.
        assert (cells.obs["bulk_labels"] == "CD14+ Monocyte").all()
        shares = cells.uns["scdiffusion"]["shares"]["bulk_labels"]
        assert shares.loc["CD34+"].tolist() == [0.5, 0] and shares.loc["CD14+ Monocyte"].tolist() == [0.5, 1]
        assert np.array_equal(
            scored._category_dtype("bulk_labels").categories[drawn[0][:100, 0].numpy()], cells.obs["bulk_labels"]
        )

    def test_a_library_size_per_cell_is_kept_to(self, scored):
        sizes = np.tile([200.0, 6000.0], 20)
        cells = scored.generate(40, {"phase": "G1"}, library_size=sizes, keep_top=0.5, rng=0)
        np.testing.assert_allclose(np.asarray(cells.X.sum(1)).ravel(), sizes, rtol=0.5)
        assert cells.uns["scdiffusion"]["kept_fraction"] == 0.5
        one = scored.generate(40, {"phase": "G1"}, library_size=500, keep_top=0.8, rng=0)
        assert one.uns["scdiffusion"]["kept_fraction"] == 0.8

    def test_profiles_and_keys_apart(self):
        """A profile's code, below that of what is left to the model, must not mix up the groups of other keys."""
        conditions = Conditions(torch.tensor([[0, -2], [1, -2], [0, -2], [-1, -2]]))
        drawing = Drawing(conditions, None, None, cut=read_keep_top(0.5))
        group = drawing.groups(slice(0, 4))
        assert group[0] == group[2] and len(group.unique()) == 3

    def test_chunks_do_not_know_of_each_other(self, scored):
        rows = scored.adata.obs[["bulk_labels", "phase"]][:50]
        whole, first = (
            scored.generate(obs_conditions=asked, keep_top=0.5, batch_size=40, rng=7) for asked in (rows, rows[:20])
        )
        assert np.array_equal(first.X.toarray(), whole.X[:20].toarray())

    def test_a_cell_without_counts_has_a_score(self, scored):
        empty = sp.csr_matrix((2, scored.module.autoencoder.n_genes), dtype=np.float32)
        assert torch.isfinite(scored._log_ratio(empty, None, None)).all()


class TestOverlap:
    """One thread decodes and scores while another denoises."""

    @pytest.fixture
    def drawing(self, scored):
        conditions = scored._plan("observed", 50, np.random.default_rng(0))[1]
        return Drawing(conditions, scored._read_sampler(None), 5, cut=read_keep_top(0.5), batch_size=8)

    def test_gives_what_one_after_the_other_gives(self, scored, drawing):
        overlapped = list(scored._draw_cells(drawing, np.random.SeedSequence(1), "", progress=False))
        slices = [slice(start, min(start + 8, 50)) for start in range(0, 50, 8)]
        in_turn = [
            scored._start_chunk(drawing, rows, seed)()
            for rows, seed in zip(slices, np.random.SeedSequence(1).spawn(7), strict=True)
        ]
        for a, b in zip(overlapped, in_turn, strict=True):
            assert (
                a.rows == b.rows and np.array_equal(a.latents, b.latents) and np.array_equal(a.log_ratio, b.log_ratio)
            )
            assert np.array_equal(a.expression.toarray(), b.expression.toarray())

    def test_holds_one_chunk_ahead_of_the_reader(self, scored, drawing, monkeypatch):
        started = []
        start = type(scored)._start_chunk
        monkeypatch.setattr(type(scored), "_start_chunk", lambda *args: started.append(args) or start(*args))
        chunks = scored._draw_cells(drawing, np.random.SeedSequence(1), "", progress=False)
        next(chunks)
        assert len(started) == 2
        chunks.close()
        assert not threads()

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    @pytest.mark.parametrize("where", ["_log_ratio", "_start_chunk"])
    def test_errors_reach_the_caller_and_leave_no_thread(self, scored, monkeypatch, error, where):
        method, n_calls = getattr(type(scored), where), []

        def fails(*args):
            n_calls.append(1)
            if len(n_calls) == 3:
                raise error("on the way")
            return method(*args)

        monkeypatch.setattr(type(scored), where, fails)
        with pytest.raises(error, match="on the way"):
            scored.generate(60, "observed", keep_top=0.5, n_steps=3, batch_size=16, rng=0)
        assert not threads() and len(n_calls) < 6


class TestBelonging:
    def test_is_saved_with_the_model(self, scored, tmp_path):
        scored.save(tmp_path / "model")
        loaded = scd.SCDiffusion.load(tmp_path / "model")
        a, b = (model.generate(20, "observed", keep_top=0.8, rng=0) for model in (scored, loaded))
        assert np.array_equal(a.X.toarray(), b.X.toarray()) and a.obs.equals(b.obs)
        a.write_h5ad(tmp_path / "cells.h5ad")
        cells = scored.generate(20, "observed", keep_top=0.8, select_per_condition=False, rng=0)
        cells.write_h5ad(tmp_path / "cells.h5ad")
        assert isinstance(cells.uns["scdiffusion"]["shares"]["phase"], pd.DataFrame)

    def test_refused_after_further_training_and_with_other_weights(self, tmp_path):
        model = small_model()
        with pytest.raises(ValueError, match=r"no scorer.*model\.train_scorer\(\)"):
            model.generate(5, keep_top=0.8)
        model.train_scorer(max_epochs=1, progress=False)
        model.generate(5, keep_top=0.8)
        trained = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        model.train({"autoencoder": 0, "diffusion": 1}, progress=False)
        with pytest.raises(ValueError, match=r"other weights.*model\.train_scorer\(\) again"):
            model.generate(5, keep_top=0.8)
        model.generate(5)
        model.save(tmp_path / "model")
        with pytest.raises(ValueError, match="other weights"):
            scd.SCDiffusion.load(tmp_path / "model").generate(5, keep_top=0.8)
        model.module.load_state_dict(trained)
        model.generate(5, keep_top=0.8)
        other = small_model(rng=1)
        model.module.load_state_dict(other.module.state_dict(), strict=False)
        with pytest.raises(ValueError, match="other weights"):
            model.generate(5, keep_top=0.8)
        model.train_scorer(max_epochs=1, progress=False)
        model.generate(5, keep_top=0.8)


class TestPreset:
    def test_scld_trains_a_scorer_last_and_selects_by_it(self, tmp_path):
        model = small_model("scld", {"autoencoder": 1, "diffusion": 1, "scorer": 0}, keep_top=0.8)
        model.train_scorer(max_epochs=2, generate_kwargs={"sampler": "dpmpp_2m"}, progress=False)
        cells = model.generate(40, {"bulk_labels": "Dendritic"}, n_steps=5, rng=0)
        assert cells.uns["scdiffusion"]["keep_top"] == 0.8 and "realness" in cells.obs
        assert "realness" not in model.generate(5, n_steps=5, keep_top="none").obs
        again = torch.sigmoid(model._log_ratio(cells.X, None, cells.obsm["X_scdiffusion"]))
        np.testing.assert_allclose(cells.obs["realness"], again, atol=1e-5)
        assert scd.SCDiffusion(model.adata, "scld")._settings["selection"] == {"keep_top": 0.8}

    def test_keep_top_is_a_setting_of_any_model(self):
        model = small_model(max_epochs=1, keep_top=0.5)
        assert "scorer_auc" in model.history
        assert model.generate(10, rng=0).uns["scdiffusion"]["kept_fraction"] == 0.5
        model.train({"autoencoder": 0, "diffusion": 1, "scorer": 1}, scorer_kwargs={"n_hidden": 8}, progress=False)
        assert model.generate(10, rng=0).uns["scdiffusion"]["keep_top"] == 0.5


class TestMistakes:
    @pytest.mark.parametrize("keep_top", [0, -0.1, 1.5, float("nan"), True, "most"])
    def test_keep_top_is_a_share(self, scored, keep_top):
        with pytest.raises(ValueError, match=r"keep_top must be a share.*0\.8"):
            scored.generate(5, keep_top=keep_top)
        with pytest.raises(ValueError, match="keep_top must be a share"):
            scd.SCDiffusion(scored.adata, keep_top=keep_top)

    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda m: m.generate(5, keep_top=0.8, selection="rnk"), ValueError, "Did you mean 'rank'"),
            (lambda m: m.generate(5, selection="rejection"), ValueError, "keep_top=0.8"),
            (lambda m: m.train_scorer(max_epochs=0), ValueError, "max_epochs"),
            (lambda m: m.train_scorer(scorer_kwargs={"hidden": 3}), TypeError, "Did you mean 'n_hidden'"),
            (lambda m: m.train(scorer_kwargs={"n_hidden": 3}), ValueError, r"call model\.train_scorer"),
            (lambda m: m.train(max_epochs={"scorer": 3}), ValueError, "no stage 'scorer'"),
            (lambda m: scd.SCDiffusion(m.adata).train_scorer(), ValueError, r"call model\.train\(\) before"),
        ],
    )
    def test_mistakes_say_what_to_type(self, scored, call, error, message):
        with pytest.raises(error, match=message):
            call(scored)

    def test_a_model_without_data_has_no_real_cells_to_learn_from(self, scored, tmp_path):
        scored.save(tmp_path / "model")
        with pytest.raises(ValueError, match="loaded without data"):
            scd.SCDiffusion.load(tmp_path / "model").train_scorer()
