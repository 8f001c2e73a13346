import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdiffusion.autoencoders import Bernoulli, JointLikelihood, MultimodalAutoencoder, NegativeBinomial, count_latents
from scdiffusion.autoencoders._scales import PanelScale
from scdiffusion.metrics import cross_correlation_error, log_normalise

N_CELLS, N_GENES, N_PROTEINS = 800, 120, 6
SIZES = {"rna": N_GENES, "adt": N_PROTEINS}
KINDS = {"rna": "rna", "adt": "protein"}
NO_LABELS = np.empty((N_CELLS, 0), dtype=np.int64)


@pytest.fixture(scope="module")
def cells() -> sp.csr_matrix:
    """Two types that RNA hardly shows, and proteins with a background mode and one that is 30 times higher."""
    rng = np.random.default_rng(0)
    is_positive = rng.integers(2, size=(N_CELLS, N_PROTEINS)) * np.array([1, 1, 1, 1, 0, 0])
    log_rates = rng.normal(-5, 0.5, N_GENES) + 0.8 * is_positive[:, [0]] * (np.arange(N_GENES) < 10)
    library = rng.lognormal(7, 0.3, (N_CELLS, 1))
    rna = rng.poisson(library * np.exp(log_rates))
    depth = rng.normal(0, 0.3, (N_CELLS, 1))
    adt = rng.poisson(np.exp(2.5 + depth + rng.normal(0, 0.2, is_positive.shape) + 3.4 * is_positive))
    return sp.csr_matrix(np.hstack([rna, adt]).astype(np.float32))


def start(cells: sp.csr_matrix, **kwargs) -> MultimodalAutoencoder:
    likelihood = {"rna": "nb", "adt": "nb"} | kwargs.pop("likelihood", {})
    n_latent = {"rna": 5, "adt": N_PROTEINS}
    torch.manual_seed(0)
    autoencoder = MultimodalAutoencoder(126, SIZES, KINDS, n_latent, likelihood, **kwargs).eval()
    autoencoder.initialise(cells, NO_LABELS, np.random.default_rng(0))
    return autoencoder


@pytest.fixture(scope="module")
def started(cells) -> MultimodalAutoencoder:
    return start(cells)


@torch.no_grad()
def draw(autoencoder, cells) -> np.ndarray:
    """Cells encoded, decoded and drawn."""
    x, generator = torch.from_numpy(cells.toarray()), torch.Generator().manual_seed(0)
    mean, log_variance = autoencoder.encode(x)
    latents = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
    parameters = autoencoder.parameters_of(latents, autoencoder.likelihood.library_size(x))
    rows, columns, values = autoencoder.likelihood.draw(parameters, generator)
    return sp.csr_matrix((values.numpy(), (rows.numpy(), columns.numpy())), cells.shape).toarray()


def test_starting_point_restores_proteins_and_what_ties_them_to_genes(started, cells):
    drawn, real = draw(started, cells), cells.toarray()
    proteins, restored = np.log1p(real[:, N_GENES:]), np.log1p(drawn[:, N_GENES:])
    for i in range(4):
        assert np.corrcoef(proteins[:, i], restored[:, i])[0, 1] > 0.95
        assert np.mean((restored[:, i] > 3.6) & (restored[:, i] < 4.6)) < 0.07  # between the modes, where hardly any is
    np.testing.assert_allclose(restored.mean(0), proteins.mean(0), atol=0.1)
    np.testing.assert_allclose(restored.std(0), proteins.std(0), rtol=0.15)
    genes, drawn_genes = log_normalise(real[:, :N_GENES]), log_normalise(drawn[:, :N_GENES])
    tied = [(gene, 0) for gene in range(10)]
    error = cross_correlation_error(genes, proteins, drawn_genes, restored, pairs=tied)
    apart = cross_correlation_error(genes, proteins, drawn_genes, restored[::-1], pairs=tied)
    assert error < 0.1 and apart > 0.25


def test_protein_tells_what_rna_is_decoded_to(started, cells):
    """Genes are decoded by what the latents of proteins say of them, as well."""
    x = torch.from_numpy(cells[:200].toarray())
    changed = x.clone()
    changed[:, N_GENES] = torch.where(x[:, N_GENES] > 100, 12.0, 400.0)
    with torch.no_grad():
        size = started.likelihood.library_size(x)
        means = [started.parameters_of(started.encode(counts)[0], size).parts[0].mean for counts in (x, changed)]
    is_positive = x[:, N_GENES] > 100
    ratio = (means[1] / means[0])[:, :10].mean(1)
    assert ratio[is_positive].median() < 0.9 < 1.1 < ratio[~is_positive].median()


def test_a_panel_has_no_library_size(started, cells):
    x = torch.from_numpy(cells[:5].toarray())
    assert started.likelihood.n_library == 1
    torch.testing.assert_close(started.likelihood.library_size(x), x[:, :N_GENES].sum(1, keepdim=True))
    latents = started.encode(x)[0]
    small, large = (started.parameters_of(latents, torch.full((5, 1), size)) for size in (100.0, 1000.0))
    torch.testing.assert_close(large.parts[0].mean, 10 * small.parts[0].mean)
    torch.testing.assert_close(large.parts[1].mean, small.parts[1].mean)


def test_scale_of_a_panel_is_monotone_and_invertible(cells):
    counts = cells[:, N_GENES:]
    scale = PanelScale(N_PROTEINS)
    scale.fit(counts)
    dense = torch.from_numpy(counts.toarray())
    scores = scale(dense)
    torch.testing.assert_close(scale.log_mean(scores, torch.empty(0)).exp() - 0.5, dense, rtol=1e-3, atol=1e-2)
    grid = torch.linspace(0, 1e5, 5000)[:, None].expand(-1, N_PROTEINS)
    assert (scale(grid).diff(dim=0) > 0).all()
    assert scores.std(0).min() > 0.7 and scores.std(0).max() < 1.1
    # a mode is wider, as a share of the distance to the other, than it is of the logarithm
    is_high = dense[:, 0] > 100
    log = dense[:, 0].log1p()

    def width(values):
        return values[~is_high].std() / (values[is_high].mean() - values[~is_high].mean())

    assert width(scores[:, 0]) > 1.3 * width(log)


def test_a_protein_that_is_the_same_in_all_cells_is_no_trouble():
    counts = sp.csr_matrix(np.full((100, 2), 3, dtype=np.float32))
    scale = PanelScale(2)
    scale.fit(counts)
    scores = scale(torch.from_numpy(counts.toarray()))
    assert torch.isfinite(scores).all()
    torch.testing.assert_close(
        scale.log_mean(scores, torch.empty(0)).exp(), torch.full((100, 2), 3.5), rtol=1e-3, atol=0
    )


def test_joint_likelihood_is_the_sum_of_its_members(started, cells):
    x = torch.from_numpy(cells[:20].toarray())
    parameters = started.parameters_of(started.encode(x)[0], started.likelihood.library_size(x))
    rows, columns = x.nonzero(as_tuple=True)
    joint = started.likelihood.log_prob(rows, columns, x[rows, columns], parameters)
    apart = torch.zeros(20)
    for part, of_part in zip(parameters.parts, x.split([N_GENES, N_PROTEINS], dim=1), strict=True):
        r, c = of_part.nonzero(as_tuple=True)
        apart = apart + NegativeBinomial().log_prob(r, c, of_part[r, c], part)
    torch.testing.assert_close(joint, apart)
    rows, columns, values = started.likelihood.draw(parameters, torch.Generator().manual_seed(0))
    keys = rows * 126 + columns
    assert (keys.diff() > 0).all() and (values > 0).all()


def test_each_modality_has_its_library_size():
    likelihood = JointLikelihood([NegativeBinomial(), Bernoulli()], [3, 2], [True, True])
    x = torch.tensor([[1.0, 2, 3, 1, 0]])
    assert likelihood.library_size(x).tolist() == [[6.0, 1.0]]


@pytest.mark.parametrize(("name", "dispersion"), [("nb_mixture", "gene"), ("poisson", "gene-cell")])
def test_other_likelihoods_and_batches_train(cells, name, dispersion):
    autoencoder = start(cells, likelihood={"adt": name}, dispersion=dispersion, n_batches=2)
    x, batch = torch.from_numpy(cells[:64].toarray()), torch.arange(64) % 2
    loss = autoencoder.loss(x, autoencoder.encode(x)[0], batch).mean()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in autoencoder.parameters() if p.grad is not None)
    autoencoder.calibrate(cells, np.arange(N_CELLS) % 2, np.random.default_rng(0))


def test_counts_are_refused_where_there_should_be_ones(cells):
    with pytest.raises(ValueError, match="Bernoulli counts are 1 at most.*'poisson'"):
        start(cells, likelihood={"rna": "bernoulli"})


def test_a_panel_keeps_all_its_components_and_rna_those_with_signal(cells):
    n_latent, n_discriminant = count_latents(cells, NO_LABELS, SIZES, KINDS, np.random.default_rng(0))
    assert n_latent["adt"] == N_PROTEINS and 5 <= n_latent["rna"] <= 15
    assert n_discriminant == {"rna": [], "adt": []}
