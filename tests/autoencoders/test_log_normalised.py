import numpy as np
import pytest
import scanpy as sc
import torch

import scdiffusion as scd
from scdiffusion.autoencoders import (
    CountAutoencoder,
    LinearAutoencoder,
    MeanParameters,
    SCimilarityAutoencoder,
    SquaredError,
)

SMALL = {
    "scimilarity": lambda **kw: SCimilarityAutoencoder(765, 8, (32, 32), **kw),
    "linear": lambda **kw: LinearAutoencoder(765, 8, 32, **kw),
}
every_autoencoder = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)


@pytest.fixture(scope="module")
def counts():
    return torch.from_numpy(scd.datasets.pbmc68k_reduced().layers["counts"].toarray())


def fit(autoencoder, counts, n_steps, lr=3e-3):
    """Train on the first 500 cells; loss of the others before and after, and the last of training."""
    optimizer = torch.optim.AdamW([p for p in autoencoder.parameters() if p.requires_grad], lr=lr)

    def held_out():
        with torch.no_grad():
            autoencoder.eval()
            return float(autoencoder.loss(counts[500:], autoencoder.encode(counts[500:])[0]).mean())

    before = held_out()
    for _ in range(n_steps):
        autoencoder.train()
        x = counts[torch.randint(500, (128,))]
        loss = autoencoder.loss(x, autoencoder.encode(x)[0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return before, held_out()


def test_published_sizes():
    """43 million parameters on Tabula Muris, whose 18,996 genes the public code has as its default."""
    with torch.device("meta"):
        autoencoder = SCimilarityAutoencoder(18_996)
    assert sum(p.numel() for p in autoencoder.parameters()) == 43_397_818
    layers = {name: tuple(p.shape) for name, p in autoencoder.encoder.named_parameters() if p.ndim == 2}
    assert list(layers.values()) == [(1024, 18_996), (1024, 1024), (1024, 1024), (128, 1024)]
    assert list(layers) == ["network.0.1.weight", "network.1.1.weight", "network.2.1.weight", "network.3.weight"]


@every_autoencoder
def test_counts_and_log_normalised_expression_are_one_input(make, counts):
    torch.manual_seed(0)
    of_counts = make().eval()
    torch.manual_seed(0)
    of_logs = make(values="log-normalised").eval()
    adata = scd.datasets.pbmc68k_reduced()
    adata.X = adata.layers["counts"].copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    logs = torch.from_numpy(adata.X.toarray())
    torch.testing.assert_close(of_counts.encode(counts)[0], of_logs.encode(logs)[0], atol=1e-5, rtol=1e-4)
    latents = torch.randn(700, 8)
    torch.testing.assert_close(of_counts.loss(counts, latents), of_logs.loss(logs, latents), atol=1e-5, rtol=1e-4)


@every_autoencoder
def test_reconstructs_cells_it_was_not_trained_on(make, counts):
    torch.manual_seed(0)
    autoencoder = make()
    before, after = fit(autoencoder, counts, 250)
    x = autoencoder.normalise(counts)
    means_alone = float((x[500:] - x[:500].mean(0)).square().mean())
    assert after < 0.95 * means_alone < before


@every_autoencoder
def test_encodes_and_decodes_each_cell_by_itself(make, counts):
    torch.manual_seed(0)
    autoencoder = make()
    fit(autoencoder, counts, 5)
    autoencoder.eval()
    with torch.no_grad():
        latents, log_variance = autoencoder.encode(counts)
        torch.testing.assert_close(autoencoder.encode(counts[:3])[0], latents[:3])
        decoded = autoencoder.parameters_of(latents, None).mean
        torch.testing.assert_close(autoencoder.parameters_of(latents[:3], None).mean, decoded[:3])
    assert not log_variance.exp().any()  # no posterior: latents are not drawn
    assert decoded.min() >= 0


def test_latents_lie_on_the_unit_sphere(counts):
    latents = SCimilarityAutoencoder(765, 128, (64,)).eval().encode(counts)[0]
    torch.testing.assert_close(latents.norm(dim=1), torch.ones(700))
    assert latents.square().mean().sqrt().item() == pytest.approx(0.088, abs=0.001)


def test_squared_error_of_sparse_entries_is_that_of_the_whole():
    torch.manual_seed(0)
    x, output = torch.randn(6, 40).clamp(min=0), torch.randn(6, 40)
    rows, columns = x.nonzero(as_tuple=True)
    scored = SquaredError().log_prob(rows, columns, x[rows, columns], MeanParameters(output))
    torch.testing.assert_close(scored, -(x - output).square().mean(1))


def test_drawn_cells_are_the_non_negative_mean():
    output = torch.randn(6, 40)
    rows, columns, values = SquaredError().draw(MeanParameters(output))
    drawn = torch.zeros_like(output).index_put_((rows, columns), values)
    assert torch.equal(drawn, output.clamp(min=0))
    assert ((rows * 40 + columns).diff() > 0).all()


def test_frozen_layers_stay_as_they_are_and_the_others_learn(counts):
    torch.manual_seed(0)
    autoencoder = SCimilarityAutoencoder(765, 8, (32, 32), freeze_hidden=True)
    before = {name: tensor.clone() for name, tensor in autoencoder.state_dict().items()}
    fit(autoencoder, counts, 3)
    changed = {name for name, tensor in autoencoder.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name.rsplit(".", 2)[0] for name in changed} == {"encoder.network.0", "decoder.network"}
    assert {"decoder.network.2.weight", "decoder.network.2.bias", "encoder.network.0.1.weight"} <= changed
    assert not any(name.startswith(("encoder.network.1", "decoder.network.0", "decoder.network.1")) for name in changed)


def test_bad_settings_say_what_there_is():
    with pytest.raises(ValueError, match="models counts, but log-normalised expression was registered"):
        CountAutoencoder(10, values="log-normalised")
    with pytest.raises(ValueError, match=r"e\.g\. \(1024, 1024\)"):
        SCimilarityAutoencoder(10, n_hidden=64)


def test_library_size_is_without_meaning():
    latents = torch.randn(4, 8)
    for make in SMALL.values():
        autoencoder = make().eval()
        small, large = (autoencoder.parameters_of(latents, torch.full((4,), n)).mean for n in (10.0, 1e5))
        assert torch.equal(small, large)
        assert np.isfinite(small.detach().numpy()).all()
