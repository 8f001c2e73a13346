"""Counts of reads, of which each molecule gave many: recognised, and modelled with zeros beside the negative binomial."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

import scdiffusion as scd
from scdiffusion.autoencoders import CountAutoencoder, are_reads
from scdiffusion.autoencoders._components import gene_weights, reads_per_molecule
from scdiffusion.autoencoders._glm import fit_dispersions, fit_means, fit_zero_inflation
from scdiffusion.metrics import log_normalise, random_forest_auc

THETA = 2.0


def molecules(n_cells=500, n_genes=300, seed=0):
    """Of two groups of cells, which half of the genes tell apart."""
    rng = np.random.default_rng(seed)
    group = rng.integers(2, size=n_cells)
    rates = rng.lognormal(-2.5, 0.8, n_genes) * np.exp(1.5 * np.outer(group, np.arange(n_genes) % 4 == 0))
    return sp.csr_matrix(rng.poisson(rates * rng.lognormal(0, 0.3, (n_cells, 1))).astype(np.float32)), group


def read(counts, seed=0):
    """As many reads of each molecule as a gene is long."""
    rng, counts = np.random.default_rng(seed), counts.tocoo()
    length = rng.lognormal(3.5, 0.8, counts.shape[1])
    expected = counts.data * length[counts.col]
    reads = 1 + rng.poisson(rng.gamma(THETA, expected / THETA))
    return sp.csr_matrix((reads.astype(np.float32), (counts.row, counts.col)), shape=counts.shape), length


def test_reads_are_recognised_and_molecules_are_not():
    counts, _ = molecules()
    assert are_reads(read(counts)[0]) and not are_reads(counts)
    assert not are_reads(counts[:, :40]) and not are_reads(counts[:10])  # too little to tell by
    assert not are_reads(sp.csr_matrix(np.random.default_rng(0).poisson(50, (400, 120)).astype(np.float32)))


def test_reads_are_counted_in_molecules():
    counts, _ = molecules()
    reads, length = read(counts)
    detected = np.diff(reads.tocsc().indptr) > 20
    assert np.corrcoef(np.log(reads_per_molecule(reads))[detected], np.log(length)[detected])[0, 1] > 0.95
    assert (reads_per_molecule(counts) == 1).all()


def test_that_a_molecule_gave_many_reads_does_not_make_a_gene_reliable():
    """Halves of a count of reads agree whatever the gene, unless they are halves of its molecules."""
    counts, _ = molecules()
    reads, _ = read(counts)
    assert gene_weights(reads, np.random.default_rng(0)).mean() < 0.5
    assert gene_weights(reads[:, :40], np.random.default_rng(0)).mean() > 0.9  # too few genes to tell by


def test_zeros_and_dispersion_of_a_known_model_are_found():
    """Means, and the odds of a zero, each depend on a regressor of their own."""
    rng = np.random.default_rng(0)
    scores, library = rng.normal(size=(3000, 2)), np.full(3000, 1e4)
    mean = np.exp(3 + 0.5 * scores[:, :1]) * np.ones(60)
    logits = 1.0 + 1.2 * scores[:, 1:] * np.ones(60)
    kept = 1 / (1 + np.exp(logits))
    counts = rng.poisson(rng.gamma(THETA, mean / kept / THETA)) * (rng.random(mean.shape) < kept)
    counts = sp.csr_matrix(counts.astype(np.float32))

    coefficients = fit_means(counts, library, scores)
    assert coefficients[:, 1].mean() == pytest.approx(0.5, abs=0.1)
    assert coefficients[:, 2].mean() == pytest.approx(0.0, abs=0.1)  # of all counts: detected or not
    design = torch.from_numpy(np.column_stack([np.ones(3000), scores])).float()

    def means(genes):
        return torch.exp(design @ coefficients[genes].T + np.log(1e4))

    zeros = fit_zero_inflation(counts, means, scores)
    np.testing.assert_allclose(zeros.mean(0), [1.0, 0.0, 1.2], atol=0.15)
    _, log_dispersion = fit_dispersions(counts, means, lambda genes: design @ zeros[genes].T)
    assert float(log_dispersion.exp().median()) == pytest.approx(THETA, rel=0.2)
    _, all_negative_binomial = fit_dispersions(counts, means)
    assert float(all_negative_binomial.exp().median()) < THETA / 5


def test_library_size_is_what_zeros_leave():
    torch.manual_seed(0)
    autoencoder = CountAutoencoder(50, 3, likelihood="zinb").eval()
    torch.nn.init.normal_(autoencoder.decoder_zero.weight)
    with torch.no_grad():
        parameters = autoencoder.parameters_of(torch.randn(8, 3), torch.full((8,), 1e4))
        torch.testing.assert_close(parameters.mean.sum(1), torch.full((8,), 1e4))
        assert parameters.zero_logits.std() > 0.5


def test_the_default_models_reads_with_zeros_and_its_cells_look_real():
    counts, group = molecules(800)
    reads, _ = read(counts)
    cells = AnnData(reads, {"group": group.astype(str)})
    train, test = cells[:500].copy(), cells[500:].copy()
    scd.SCDiffusion.setup_anndata(train, condition_keys="group")
    auc = {}
    for likelihood in (None, "nb"):
        model = scd.SCDiffusion(train, likelihood=likelihood, n_hidden=64, denoiser_hidden=64, rng=0)
        model.train({"autoencoder": 5, "diffusion": 40}, progress=False, rng=0)
        generated = model.generate(test.n_obs, "observed", rng=0)
        auc[likelihood] = random_forest_auc(log_normalise(test.X), log_normalise(generated.X), rng=0)
    assert model.module.autoencoder.likelihood.has_zero_inflation is False
    assert auc[None] < 0.75 < 0.9 < auc["nb"], auc
