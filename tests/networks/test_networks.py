import pytest
import torch

from scdiffusion.networks import EmbeddingConditions, ResidualMLP, SkipMLP, UNet1d, drop_conditions, fusions

SMALL = {
    "mlp": lambda n, conditions, **kw: ResidualMLP(n, conditions, n_hidden=32, n_layers=2, dropout=0.0, **kw),
    "skip_mlp": lambda n, conditions, **kw: SkipMLP(n, conditions, n_hidden=(32, 32, 16), **kw),
    "unet": lambda n, conditions, **kw: UNet1d(n, conditions, n_hidden=(16, 32), dropout=0.0, **kw),
}
every_denoiser = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)


def fit(denoiser, target_of, n_steps=150, n_features=2):
    """Loss at the end of learning a known target."""
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    losses = []
    for _ in range(n_steps):
        x, codes, t = torch.randn(64, n_features), torch.randint(2, (64, 1)), torch.randint(1000, (64,))
        loss = (denoiser(x, t, codes) - target_of(x, codes, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


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


@every_denoiser
@pytest.mark.parametrize("fusion", list(fusions))
def test_denoiser_learns_to_tell_conditions_and_timesteps_apart(make, fusion):
    torch.manual_seed(0)
    denoiser = make(2, EmbeddingConditions([2], 32), fusion=fusion)
    assert fit(denoiser, lambda x, codes, t: torch.cat([codes.float(), t[:, None] / 1000], 1)) < 0.03


@every_denoiser
def test_denoiser_learns_to_tell_coordinates_apart(make):
    torch.manual_seed(0)
    sign = torch.tensor([1.0, -1.0, -1.0, 1.0, -1.0, 1.0, 1.0])
    assert fit(make(7, EmbeddingConditions([2], 32)), lambda x, codes, t: x * sign, 200, n_features=7) < 0.2


@every_denoiser
def test_a_cell_is_denoised_by_itself(make):
    torch.manual_seed(0)
    denoiser = make(3, EmbeddingConditions([2], 16)).eval()
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t, codes = torch.randn(10, 3), torch.full((10,), 500), torch.zeros(10, 1, dtype=torch.long)
    torch.testing.assert_close(denoiser(x, t, codes)[:4], denoiser(x[:4], t[:4], codes[:4]))


def test_published_skip_mlp():
    """Down 128-512-512-256-128, up 128-256-512-512 with the outputs on the way down added, head 512-1024-128."""
    torch.manual_seed(0)
    denoiser = SkipMLP(128, EmbeddingConditions([], 512)).eval()
    assert sum(p.numel() for p in denoiser.parameters()) == 3_488_384
    assert [tuple(block.linear.weight.shape) for block in [*denoiser.down, *denoiser.up]] == [
        (512, 128), (512, 512), (256, 512), (128, 256), (256, 128), (512, 256), (512, 512),
    ]  # fmt: skip
    x, t, codes = torch.randn(5, 128), torch.tensor([0, 1, 10, 100, 999]), torch.empty(5, 0, dtype=torch.long)
    silu = torch.nn.functional.silu
    first, _, second = denoiser.timestep_encoder.layers
    angles = t[:, None] * denoiser.timestep_encoder.frequencies
    context = silu(second(silu(first(torch.cat([angles.sin(), angles.cos()], 1)))))

    def block(layer, h):
        return silu(layer.norm(layer.linear(h) + layer.context(context)))

    a = block(denoiser.down[0], x)
    b = block(denoiser.down[1], a)
    c = block(denoiser.down[2], b)
    d = block(denoiser.down[3], c)
    h = block(denoiser.up[0], d) + c
    h = block(denoiser.up[1], h) + b
    h = block(denoiser.up[2], h) + a
    torch.testing.assert_close(denoiser(x, t, codes), denoiser.head(h))


@pytest.mark.parametrize("n_features", [1, 5, 8, 31])
def test_unet_takes_latents_of_any_length(n_features):
    denoiser = UNet1d(n_features, EmbeddingConditions([2], 16), n_hidden=(8, 16, 16))
    assert denoiser(torch.randn(3, n_features), torch.zeros(3), torch.zeros(3, 1, dtype=torch.long)).shape[1] == (
        n_features
    )


def test_bad_sizes_say_what_would_do():
    conditions = EmbeddingConditions([2], 24)
    with pytest.raises(ValueError, match=r"e\.g\. \(512, 512, 256, 128\)"):
        SkipMLP(4, conditions, n_hidden=64)
    with pytest.raises(ValueError, match="that 8 divides"):
        UNet1d(4, conditions, n_hidden=(12,))
    with pytest.raises(ValueError, match="condition_hidden that 16 divides"):
        ResidualMLP(4, conditions, fusion="attention")
    with pytest.raises(ValueError, match="Unknown fusion 'sum'"):
        ResidualMLP(4, conditions, fusion="sum")
