import pytest
import torch

from scdiffusion.networks import (
    Between,
    Conditions,
    EmbeddingConditions,
    NoConditions,
    ResidualMLP,
    SkipMLP,
    UNet1d,
    fusions,
)

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
        loss = (denoiser(x, t, Conditions(codes)) - target_of(x, codes, t)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-5:]) / 5


def test_keys_are_dropped_each_on_its_own():
    torch.manual_seed(0)
    conditions = Conditions(torch.zeros(20_000, 1, dtype=torch.long), torch.zeros(20_000, 1))
    dropped = ~conditions.dropped(0.3).asked
    assert (dropped.float().mean(0) - 0.3).abs().max() < 0.02
    assert abs(float(dropped.all(1).float().mean()) - 0.09) < 0.02
    assert conditions.dropped(0.0).asked.all() and conditions.asked.all()


def test_conditions_are_addressed_by_key_categorical_ones_first():
    conditions = Conditions(torch.tensor([[1, 2], [3, -1]]), torch.tensor([[0.5], [torch.nan]]))
    assert conditions.asked.tolist() == [[True, True, True], [True, False, False]]
    assert conditions.column(1).tolist() == [2, -1] and conditions.column(2)[0] == 0.5
    assert conditions.without(0, 2).asked.tolist() == [[False, True, False], [False, False, False]]
    assert conditions[1:].codes.tolist() == [[3, -1]] and len(conditions[torch.tensor([0, 0, 1])]) == 3
    assert conditions.asked.sum() == 4  # nothing above has changed them


def test_embedding_of_a_missing_condition_is_its_own():
    torch.manual_seed(0)
    encoder = EmbeddingConditions([3, 2], 8)
    embedded = encoder(Conditions(torch.tensor([[0, 0], [1, 0], [-1, 0], [-1, -1]])))
    assert len({tuple(row.tolist()) for row in embedded}) == 4
    torch.testing.assert_close(
        embedded[2] - embedded[3], encoder.embeddings[1].weight[0] - encoder.embeddings[1].weight[2]
    )


def test_no_conditions_embed_as_zero():
    assert not EmbeddingConditions([], 8)(Conditions(torch.empty(4, 0, dtype=torch.long))).any()


def test_numbers_embed_along_a_curve_and_a_missing_one_apart():
    torch.manual_seed(0)
    encoder = EmbeddingConditions([], 8, n_continuous=1)
    values = torch.tensor([[0.0], [0.01], [1.0], [torch.nan], [torch.nan]])
    embedded = encoder(Conditions(torch.empty(5, 0, dtype=torch.long), values))
    assert (embedded[1] - embedded[0]).norm() < 0.05 * (embedded[2] - embedded[0]).norm()
    assert torch.equal(embedded[3], embedded[4]) and torch.equal(embedded[3], encoder.curves[0].missing)
    embedded.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())


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
    x, t, conditions = torch.randn(10, 3), torch.full((10,), 500), Conditions(torch.zeros(10, 1, dtype=torch.long))
    torch.testing.assert_close(denoiser(x, t, conditions)[:4], denoiser(x[:4], t[:4], conditions[:4]))


def test_published_skip_mlp():
    """Down 128-512-512-256-128, up 128-256-512-512 with the outputs on the way down added, head 512-1024-128."""
    torch.manual_seed(0)
    denoiser = SkipMLP(128, NoConditions([2], 512)).eval()
    assert sum(p.numel() for p in denoiser.parameters()) == 3_488_384
    assert [tuple(block.linear.weight.shape) for block in [*denoiser.down, *denoiser.up]] == [
        (512, 128), (512, 512), (256, 512), (128, 256), (256, 128), (512, 256), (512, 512),
    ]  # fmt: skip
    x, t, conditions = torch.randn(5, 128), torch.tensor([0, 1, 10, 100, 999]), Conditions(torch.zeros(5, 1))
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
    torch.testing.assert_close(denoiser(x, t, conditions), denoiser.head(h))


@pytest.mark.parametrize("n_features", [1, 5, 8, 31])
def test_unet_takes_latents_of_any_length(n_features):
    denoiser = UNet1d(n_features, EmbeddingConditions([2], 16), n_hidden=(8, 16, 16))
    conditions = Conditions(torch.zeros(3, 1, dtype=torch.long))
    assert denoiser(torch.randn(3, n_features), torch.zeros(3), conditions).shape == (3, n_features)


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


def test_between_conditions_categories_meet_as_vectors_and_numbers_as_numbers():
    torch.manual_seed(0)
    encoder = EmbeddingConditions([3], 8, n_continuous=1)
    source = Conditions(torch.tensor([[0], [1]]), torch.tensor([[1.0], [torch.nan]]))
    target = Conditions(torch.tensor([[2], [1]]), torch.tensor([[5.0], [torch.nan]]))
    between = Between(source, target, 0.25)
    embedded = encoder(between)
    vectors = encoder.embeddings[0].weight
    expected = 0.75 * vectors[0] + 0.25 * vectors[2] + encoder.curves[0](torch.tensor([2.0]))[0]
    torch.testing.assert_close(embedded[0], expected)
    torch.testing.assert_close(embedded[1], encoder(target)[1])  # what is the same at both ends stays as it is
    torch.testing.assert_close(encoder(between[1:].to("cpu"))[0], embedded[1])
    assert between.asked.tolist() == [[True, True], [True, False]] and len(between) == 2
    left = encoder(between.without(0, 1))
    torch.testing.assert_close(left, encoder(source.without(0, 1)))
    for weight, end in ((0.0, source), (1.0, target)):
        torch.testing.assert_close(encoder(Between(source, target, weight)), encoder(end))


@every_denoiser
@pytest.mark.parametrize("fusion", list(fusions))
def test_cells_that_share_conditions_are_denoised_as_if_each_had_its_own(make, fusion):
    torch.manual_seed(0)
    denoiser = make(3, EmbeddingConditions([2, 3], 16, n_continuous=1), fusion=fusion).eval()
    for p in denoiser.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t, cell = torch.randn(20, 3), torch.full((20,), 500), torch.arange(20)
    values = torch.where(cell % 3 == 0, torch.nan, 1.0)[:, None]
    conditions = Conditions(torch.stack([cell % 2, torch.full_like(cell, -1)], 1), values)
    grouped = conditions.grouped()
    assert len(grouped.groups[0]) == 4
    for keys in [(), (0,), (0, 1, 2)]:
        apart = denoiser(x, t, conditions.without(*keys))
        torch.testing.assert_close(denoiser(x, t, grouped.without(*keys)), apart)
    one = Conditions(torch.zeros(20, 2, dtype=torch.long), torch.zeros(20, 1))
    torch.testing.assert_close(denoiser(x, t, one.grouped()), denoiser(x, t, one))


def test_only_conditions_that_cells_share_are_grouped():
    conditions = Conditions(torch.zeros(6, 1, dtype=torch.long), torch.arange(6.0)[:, None])
    assert conditions.grouped().groups is None
    assert Conditions(torch.zeros(6, 0)).grouped().groups[0].shape == (1,)
    assert conditions.grouped()[:3].groups is None
