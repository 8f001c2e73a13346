import numpy as np
import pytest
import scipy.sparse as sp
import torch

from scdiffusion.autoencoders import CountAutoencoder, CountParameters, count_components
from scdiffusion.autoencoders._components import fit_components, gene_weights, normalise
from scdiffusion.autoencoders._glm import fit_dispersions, fit_means

NO_LABELS = np.empty((600, 0), dtype=np.int64)


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


def dispersions(counts, library, scores, coefficients):
    design = torch.from_numpy(np.column_stack([np.ones(len(scores)), scores])).float()
    offset = torch.from_numpy(np.log(library)).float()[:, None]
    return fit_dispersions(counts, lambda genes: torch.exp(design @ coefficients[genes].T + offset))


def test_regression_recovers_slopes_and_dispersion():
    counts, library, scores, slopes, intercepts = simulate()
    coefficients = fit_means(counts, library, scores)
    _, log_dispersion = dispersions(counts, library, scores, coefficients)
    np.testing.assert_allclose(coefficients[:, 0], intercepts, atol=0.35)
    assert np.corrcoef(coefficients[:, 1:].numpy().ravel(), slopes.ravel())[0, 1] > 0.97
    assert float(log_dispersion.median().exp()) == pytest.approx(5.0, rel=0.3)


def test_components_are_counted_as_simulated():
    assert 3 <= count_components(simulate()[0], NO_LABELS, np.random.default_rng(0), least=1)[0] <= 5
    assert 6 <= count_components(simulate(n_factors=6, seed=1)[0], NO_LABELS, np.random.default_rng(0), least=1)[0] <= 8


def test_noise_has_no_components_beyond_the_least():
    counts = sp.csr_matrix(np.random.default_rng(0).poisson(2.0, size=(400, 100)).astype(np.float32))
    labels = np.random.default_rng(1).integers(3, size=(400, 2))
    assert count_components(counts, labels, np.random.default_rng(0), least=2) == (2, (0, 0))


@pytest.mark.parametrize(("n_cells", "n_genes", "mean"), [(199, 100, 0.5), (60, 3, 3.0), (60, 2, 3.0)])
def test_few_genes_that_hold_signal_make_few_components(n_cells, n_genes, mean):
    """As many directions as reliable genes; asked for more, or for discriminants beyond them, there are no more."""
    rng = np.random.default_rng(0)
    counts = sp.csr_matrix(rng.poisson(mean, size=(n_cells, n_genes)).astype(np.float32))
    labels = rng.integers(3, size=(n_cells, 1))
    count_components(counts, labels, rng)
    components = fit_components(counts, labels, 10, (2,), rng)
    scores = components(normalise(counts, float(np.median(np.asarray(counts.sum(1))))))
    assert np.isfinite(scores).all() and scores.shape[1] <= n_genes
    np.testing.assert_allclose(scores.std(0), 1, rtol=0.05)


def test_slopes_of_noise_are_shrunk_and_true_ones_are_not():
    counts, library, scores, slopes, _ = simulate()
    fitted = fit_means(counts, library, scores)[:, 1:].numpy()
    least_squares = np.sum(fitted[:100] * slopes[:100]) / np.sum(slopes[:100] ** 2)
    assert least_squares == pytest.approx(1, abs=0.1)
    error = 1 / np.sqrt(np.asarray(counts.sum(0)).ravel()[100:])  # of an estimate without a prior, at best
    assert np.abs(fitted[100:]).mean() < 0.85 * error.mean()  # without a prior, overdispersion makes it 1.07 times


def faint_types(seed=0):
    """Two types that differ a little in genes where all else is noise, beside strong factors they have no part in."""
    rng = np.random.default_rng(seed)
    counts, library, *_ = simulate(n_cells=800, n_genes=400, n_factors=2, seed=seed)
    types = rng.integers(2, size=800)
    faint = counts.toarray()
    faint[:, 300:360] = rng.poisson(np.where(types[:, None] == 1, 3.0, 2.0), size=(800, 60))
    return sp.csr_matrix(faint.astype(np.float32)), types[:, None]


def test_discriminants_find_types_that_components_miss_and_no_others():
    counts, types = faint_types()
    shuffled = np.random.default_rng(1).permutation(types)
    n_principal, n_discriminant = count_components(
        counts, np.hstack([types, shuffled]), np.random.default_rng(0), least=1
    )
    assert n_discriminant == (1, 0)
    train, held_out = slice(0, 500), slice(500, None)
    x = normalise(counts[held_out], float(np.median(np.asarray(counts[train].sum(1)))))
    scores = fit_components(counts[train], types[train], 2, (1,), np.random.default_rng(0))(x)
    separation = [abs(np.corrcoef(scores[:, j], types[held_out, 0])[0, 1]) for j in range(3)]
    assert separation[2] > 0.3 > 2 * max(separation[:2])


def test_calibration_undoes_what_training_left_off():
    counts, _, _, _, _ = simulate()
    autoencoder = CountAutoencoder(200, n_latent=3).eval()
    autoencoder.initialise(counts, NO_LABELS, np.random.default_rng(0))
    bias, log_dispersion = autoencoder.decoder_output.bias.clone(), autoencoder.log_dispersion.clone()
    with torch.no_grad():
        autoencoder.decoder_output.bias += 0.2 * torch.randn(200, generator=torch.Generator().manual_seed(0))
        autoencoder.log_dispersion += 1
    autoencoder.calibrate(counts, None, np.random.default_rng(0))
    shift = autoencoder.decoder_output.bias - bias
    torch.testing.assert_close(shift, shift.mean().expand(200), rtol=0, atol=0.1)
    torch.testing.assert_close(autoencoder.log_dispersion, log_dispersion, rtol=0, atol=0.4)


def test_latents_leave_room_for_the_noise_of_counts():
    """Cells decoded from the posterior scatter as real ones do; decoded from its scores, they would scatter more."""
    counts = simulate(n_cells=1500, seed=3)[0]
    autoencoder = CountAutoencoder(200, n_latent=3).eval()
    autoencoder.initialise(counts, np.empty((1500, 0), dtype=np.int64), np.random.default_rng(0))
    with torch.no_grad():
        dense = torch.from_numpy(counts.toarray())
        mean, log_variance = autoencoder.encode(dense)
        torch.manual_seed(0)
        latents = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        again = autoencoder._encode_again(latents, counts, torch.Generator().manual_seed(0))
        scores = autoencoder._scores(autoencoder._normalised(dense))
        assert (0.5 * log_variance[0]).exp().min() > 0.1
        torch.testing.assert_close(again.std(0), scores.std(0), rtol=0.08, atol=0)


def test_weights_favour_genes_with_signal():
    counts = simulate()[0]
    weights = gene_weights(counts, np.random.default_rng(0))
    assert weights[:100].mean() > weights[100:].mean() + 0.2


def test_starting_point_explains_cells_it_was_not_fitted_on():
    counts, *_ = simulate()
    train, held_out = counts[:450], torch.from_numpy(counts[450:].toarray())
    autoencoder = CountAutoencoder(200, n_latent=3).eval()
    autoencoder.initialise(train, NO_LABELS[:450], np.random.default_rng(0))
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
    counts, library, scores = sp.csr_matrix(counts), np.full(1000, 10.0), rng.normal(size=(1000, 2))
    _, log_dispersion = dispersions(counts, library, scores, fit_means(counts, library, scores))
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
