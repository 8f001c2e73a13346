import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdiffusion.autoencoders import CountAutoencoder, CountParameters, count_components
from scdiffusion.autoencoders._components import gene_weights
from scdiffusion.autoencoders._glm import fit_glm


def simulate(n_cells=600, n_genes=200, n_factors=3, theta=5.0, seed=0):
    """Counts from a known log-linear model."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=(n_cells, n_factors))
    slopes = rng.normal(scale=0.5, size=(n_genes, n_factors)) * (np.arange(n_genes) < n_genes // 2)[:, None]
    intercepts = rng.normal(-5.5, 0.7, size=n_genes)
    library = rng.lognormal(7, 0.3, size=n_cells)
    mean = library[:, None] * np.exp(intercepts + scores @ slopes.T)
    counts = rng.poisson(rng.gamma(theta, mean / theta))
    return sp.csr_matrix(counts.astype(np.float32)), library, scores, slopes, intercepts


def test_regression_recovers_slopes_and_dispersion():
    counts, library, scores, slopes, intercepts = simulate()
    coefficients, log_dispersion = fit_glm(counts, library, scores)
    np.testing.assert_allclose(coefficients[:, 0], intercepts, atol=0.35)
    assert np.corrcoef(coefficients[:, 1:].numpy().ravel(), slopes.ravel())[0, 1] > 0.97
    assert float(log_dispersion.median().exp()) == pytest.approx(5.0, rel=0.3)


def test_components_are_counted_as_simulated():
    assert 3 <= count_components(simulate()[0], np.random.default_rng(0), least=1) <= 5
    assert 6 <= count_components(simulate(n_factors=6, seed=1)[0], np.random.default_rng(0), least=1) <= 8


def test_noise_has_no_components_beyond_the_least():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(2.0, size=(400, 100)).astype(np.float32))
    assert count_components(counts, np.random.default_rng(0), least=2) == 2


def test_weights_favour_genes_with_signal():
    counts = simulate()[0]
    weights = gene_weights(counts, np.random.default_rng(0))
    assert weights[:100].mean() > weights[100:].mean() + 0.2


def test_starting_point_explains_cells_it_was_not_fitted_on():
    counts, *_ = simulate()
    train, held_out = counts[:450], torch.from_numpy(counts[450:].toarray())
    autoencoder = CountAutoencoder(200, n_latent=3).eval()
    autoencoder.initialise(train, np.random.default_rng(0))
    fraction = torch.from_numpy(np.asarray(train.sum(0)).ravel() / train.sum()).float().clamp(min=1e-6)
    rows, columns = held_out.nonzero(as_tuple=True)
    only_means = CountParameters(fraction.log() + held_out.sum(1).log()[:, None], autoencoder.log_dispersion)
    with torch.no_grad():
        at_start = autoencoder.loss(held_out, autoencoder.encode(held_out)[0]).mean()
        without_latents = -autoencoder.likelihood.log_prob(rows, columns, held_out[rows, columns], only_means).mean()
    assert at_start < without_latents - 10


def test_a_few_impossible_counts_do_not_make_a_gene_overdispersed():
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.5, size=(1000, 20)).astype(np.float32)
    counts[rng.choice(1000, 4, replace=False), 0] = 12
    _, log_dispersion = fit_glm(sp.csr_matrix(counts), np.full(1000, 10.0), rng.normal(size=(1000, 2)))
    assert log_dispersion[0].exp() > 5


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson"])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch", "gene-cell"])
def test_every_likelihood_and_dispersion_learns(likelihood, dispersion):
    counts = torch.from_numpy(simulate(n_cells=128)[0].toarray())
    batch = torch.arange(128) % 2
    torch.manual_seed(0)
    autoencoder = CountAutoencoder(200, 3, likelihood=likelihood, dispersion=dispersion, n_batches=2, dropout=0.0)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        loss = autoencoder.loss(counts, autoencoder.encode(counts)[0], batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 20
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for n, p in autoencoder.named_parameters())


def test_decoder_batches_differ_after_learning_a_batch_effect():
    counts = simulate(n_cells=128)[0].toarray()
    counts[::2, :20] += 20
    counts, batch = torch.from_numpy(counts), torch.arange(128) % 2
    torch.manual_seed(0)
    autoencoder = CountAutoencoder(200, 3, n_batches=2, dropout=0.0)
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=2e-2)
    for _ in range(60):
        loss = autoencoder.loss(counts, torch.zeros(128, 3), batch).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        first, second = (
            autoencoder.parameters_of(torch.zeros(1, 3), torch.tensor([1000.0]), torch.tensor([b])).mean[0, :20].sum()
            for b in (0, 1)
        )
    assert first > 1.5 * second


def test_bad_settings_say_what_there_is():
    with pytest.raises(ValueError, match="Available: gene, gene-batch, gene-cell"):
        CountAutoencoder(10, dispersion="cell")
    with pytest.raises(ValueError, match="batch_key"):
        CountAutoencoder(10, dispersion="gene-batch")
