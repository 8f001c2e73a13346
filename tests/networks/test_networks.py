import torch

from scdiffusion.networks import Between, Conditions, EmbeddingConditions, ResidualMLP


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


def test_denoiser_learns_to_tell_conditions_and_timesteps_apart():
    torch.manual_seed(0)
    denoiser = ResidualMLP(2, EmbeddingConditions([2], 32), n_hidden=32, n_layers=2, dropout=0.0)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=1e-2)
    for _ in range(150):
        codes, t = torch.randint(2, (64, 1)), torch.randint(1000, (64,))
        target = torch.cat([codes.float(), t[:, None] / 1000], 1)
        loss = (denoiser(torch.randn(64, 2), t, Conditions(codes)) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_a_cell_is_denoised_by_itself():
    denoiser = ResidualMLP(3, EmbeddingConditions([2], 16), n_hidden=16).eval()
    torch.nn.init.normal_(denoiser.output.weight)
    x, t, conditions = torch.randn(10, 3), torch.full((10,), 500), Conditions(torch.zeros(10, 1, dtype=torch.long))
    torch.testing.assert_close(denoiser(x, t, conditions)[:4], denoiser(x[:4], t[:4], conditions[:4]))


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
