import torch

from scdiffusion.networks import EmbeddingConditions, ResidualMLP, drop_conditions


def test_keys_are_dropped_each_on_its_own():
    torch.manual_seed(0)
    dropped = drop_conditions(torch.zeros(20_000, 2, dtype=torch.long), 0.3) == -1
    assert (dropped.float().mean(0) - 0.3).abs().max() < 0.02
    assert abs(float(dropped.all(1).float().mean()) - 0.09) < 0.02
    assert not (drop_conditions(torch.zeros(100, 2, dtype=torch.long), 0.0) == -1).any()


def test_embedding_of_a_missing_condition_is_its_own():
    torch.manual_seed(0)
    encoder = EmbeddingConditions([3, 2], 8)
    codes = torch.tensor([[0, 0], [1, 0], [-1, 0], [-1, -1]])
    embedded = encoder(codes)
    assert len({tuple(row.tolist()) for row in embedded}) == 4
    torch.testing.assert_close(
        embedded[2] - embedded[3], encoder.embeddings[1].weight[0] - encoder.embeddings[1].weight[2]
    )


def test_no_conditions_embed_as_zero():
    assert not EmbeddingConditions([], 8)(torch.empty(4, 0, dtype=torch.long)).any()


def test_denoiser_learns_to_tell_conditions_and_timesteps_apart():
    torch.manual_seed(0)
    denoiser = ResidualMLP(2, EmbeddingConditions([2], 32), n_hidden=32, n_layers=2, dropout=0.0)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    for _ in range(150):
        codes, t = torch.randint(2, (64, 1)), torch.randint(1000, (64,))
        target = torch.cat([codes.float(), t[:, None] / 1000], 1)
        loss = (denoiser(torch.randn(64, 2), t, codes) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_a_cell_is_denoised_by_itself():
    denoiser = ResidualMLP(3, EmbeddingConditions([2], 16), n_hidden=16).eval()
    torch.nn.init.normal_(denoiser.output.weight)
    x, t, codes = torch.randn(10, 3), torch.full((10,), 500), torch.zeros(10, 1, dtype=torch.long)
    torch.testing.assert_close(denoiser(x, t, codes)[:4], denoiser(x[:4], t[:4], codes[:4]))
