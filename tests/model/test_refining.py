import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdiffusion.diffusion import samplers
from scdiffusion.metrics import energy_distance

every_sampler = pytest.mark.parametrize("sampler", ["ddpm", "ddim", "euler", "dpmpp_2m"])


@every_sampler
def test_the_more_noise_the_less_is_left_of_a_cell(trained, sampler):
    some = trained.adata[::4].copy()
    encoded = trained.get_latent_representation(some)
    kept = []
    for level in (0.05, 0.5, 1.0):
        refined = trained.refine(some, level, obs_conditions=None, sampler=sampler, n_steps=20, rng=0)
        columns = zip(encoded.T, refined.obsm["X_scdiffusion"].T, strict=True)
        kept.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in columns]))
    assert kept[0] > 0.9 and kept[0] > kept[1] + 0.05 and kept[1] > kept[2] + 0.05 and abs(kept[2]) < 0.15


@pytest.mark.parametrize(("sampler", "level"), [("ddpm", 0.2), ("ddim", 0.5), ("euler", 0.7), ("dpmpp_2m", 0.9)])
def test_cells_are_distributed_as_they_were_whatever_the_level(trained, sampler, level):
    refined = trained.refine(level=level, sampler=sampler, n_steps=50, rng=0).obsm["X_scdiffusion"]
    real = trained.get_latent_representation(give_mean=False)
    far = energy_distance(real, real[trained.adata.obs["phase"] == "G1"])
    assert energy_distance(real, refined) < far / 2 + 0.15


def test_cells_keep_their_names_conditions_and_library_size(trained, adata):
    some = adata[100:160].copy()
    refined = trained.refine(some, level=0.1, rng=0)
    assert list(refined.obs_names) == list(some.obs_names) and list(refined.var_names) == list(trained.var_.index)
    assert (refined.obs["bulk_labels"].astype(str) == some.obs["bulk_labels"].astype(str)).all()
    assert refined.X.dtype == np.int32 and refined.uns["scdiffusion"]["level"] == 0.1
    depth, before = (np.asarray(X.sum(1)).ravel() for X in (refined.X, some.layers["counts"]))
    assert np.corrcoef(np.log(depth), np.log(before))[0, 1] > 0.9
    deeper = trained.refine(some, level=0.1, library_size=5000, rng=0)
    assert np.median(np.asarray(deeper.X.sum(1))) == pytest.approx(5000, rel=0.1)


def test_shallow_cells_come_nearer_to_what_they_were_before(trained, adata):
    """With a tenth of their counts; as a population after one draw, each of them on average over several."""
    rng = np.random.default_rng(0)
    shallow = adata.copy()
    counts = rng.binomial(shallow.layers["counts"].toarray().astype(int), 0.1)
    shallow.layers["counts"] = sp.csr_matrix(counts.astype(np.float32))
    shallow = shallow[counts.sum(1) > 0].copy()
    before = trained.get_latent_representation(shallow.copy())
    whole = trained.get_latent_representation(adata[shallow.obs_names].copy())
    draws = [trained.refine(shallow, level=0.6, rng=seed).obsm["X_scdiffusion"] for seed in range(4)]
    assert energy_distance(whole, draws[0]) < 0.7 * energy_distance(whole, before)
    assert ((np.mean(draws, axis=0) - whole) ** 2).mean() < 0.8 * ((before - whole) ** 2).mean()


def test_cells_become_what_they_are_said_to_be(trained):
    model = trained
    labels = model.adata.obs["bulk_labels"].astype(str).to_numpy()
    source = model.adata[labels == "CD14+ Monocyte"]
    latents = model.get_latent_representation()
    centres = {name: latents[labels == name].mean(0) for name in ("CD14+ Monocyte", "CD19+ B")}

    def moved(level):
        cells = model.refine(source, level=level, obs_conditions={"bulk_labels": "CD19+ B"}, rng=0)
        assert (cells.obs["bulk_labels"] == "CD19+ B").all()
        distances = [np.linalg.norm(cells.obsm["X_scdiffusion"] - centre, axis=1) for centre in centres.values()]
        return (distances[0] > distances[1]).mean()

    assert moved(0.1) < 0.2 and moved(1.0) > 0.9


def test_genes_in_any_order_and_cells_without_labels(trained, adata):
    some = adata[:20].copy()
    expected = trained.refine(some, obs_conditions=None, rng=0)
    shuffled = some[:, ::-1].copy()
    del shuffled.obs["bulk_labels"], shuffled.obs["phase"]
    refined = trained.refine(shuffled, rng=0)
    assert (refined.X != expected.X).nnz == 0 and refined.obs["bulk_labels"].isna().all()
    assert not [key for key in shuffled.uns if key.startswith("_scvi")]
    partly = some.copy()
    partly.obs.loc[partly.obs_names[:5], "bulk_labels"] = np.nan
    assert trained.refine(partly, rng=0).obs["bulk_labels"].isna().sum() == 5


def test_the_same_seed_gives_the_same_cells(trained):
    first, again, other = (trained.refine(trained.adata[:30], rng=rng) for rng in (0, 0, 1))
    assert (first.X != again.X).nnz == 0 and (first.X != other.X).nnz > 0
    chunked = trained.refine(trained.adata[:30], batch_size=7, rng=0)
    assert chunked.n_obs == 30 and list(chunked.obs_names) == list(first.obs_names)


def test_start_and_noise_level_are_the_same_step(trained):
    """The denoiser is first called at the step that the cells were noised to."""
    module, seen = trained.module, []

    class Spy(type(samplers.resolve("ddim"))):
        def integrate(self, denoise, x, alpha, sigma, generator):
            seen.append((x.clone(), alpha[0], sigma[0]))
            return x

    conditions = module.conditions(torch.full((4, 2), -1), torch.empty((4, 0)))
    origin = torch.full((4, module.n_features), 100.0)
    module.sample(conditions, Spy(), 10, torch.Generator().manual_seed(0), origin=origin, level=0.6)
    ((x, alpha, sigma),) = seen
    step = module.process.schedule.level_to_timestep(0.6)
    assert alpha == pytest.approx(float(module.process.schedule.alpha[step]))
    assert ((x - alpha * origin) / sigma).abs().max() < 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"level": 0}, "level must be above 0"),
        ({"level": 1.5}, "level must be above 0"),
        ({"obs_conditions": {"bulk_label": "CD34+"}}, "Did you mean 'bulk_labels'"),
        ({"obs_conditions": {"bulk_labels": ["CD34+"]}}, "700"),
        ({"library_size": [1.0, 2.0]}, "library_size"),
        ({"n_steps": 400, "level": 0.3}, "n_steps must be a whole number between 1 and 300"),
    ],
)
def test_mistakes_say_what_to_type(trained, arguments, message):
    with pytest.raises(ValueError, match=message):
        trained.refine(**arguments)


def test_cells_that_cannot_be_read(trained, adata):
    with pytest.raises(ValueError, match=r"lacks 65 of the 765 genes"):
        trained.refine(adata[:, :700].copy())
    normalised = adata[:60].copy()
    normalised.layers["counts"] = np.log1p(normalised.layers["counts"].toarray())
    with pytest.raises(ValueError, match="needs raw counts"):
        trained.refine(normalised)
    del normalised.layers["counts"]
    with pytest.raises(ValueError, match="'counts'"):
        trained.refine(normalised)
    with pytest.raises(ValueError, match="holds no cells"):
        trained.refine(adata[:0].copy())
