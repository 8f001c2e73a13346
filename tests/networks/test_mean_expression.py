import pytest
import torch

from scdiffusion.networks import Conditions, MeanExpressionConditions

either = pytest.mark.parametrize("project", [True, False])


def of(codes, values=None, profiles=None):
    return Conditions(torch.tensor(codes), None if values is None else torch.tensor(values), profiles)


def make(project, seed=0, n_continuous=0):
    generator = torch.Generator().manual_seed(0)
    profiles = [3 * torch.rand(4, 60, generator=generator), 3 * torch.rand(2, 60, generator=generator)]
    torch.manual_seed(seed)
    encoder = MeanExpressionConditions(
        [4, 2], n_hidden=16, n_continuous=n_continuous, n_genes=60, project_profiles=project
    )
    encoder.set_profiles(profiles, overall=profiles[0].mean(0))
    return encoder, profiles


@either
def test_keys_add_up_and_left_to_the_model_is_the_mean_of_all(project):
    encoder, profiles = make(project)
    out = encoder(of([[0, 1], [0, -1], [-1, 1], [-1, -1]]))
    torch.testing.assert_close(out[0] + out[3], out[1] + out[2])
    means = {0: encoder.overall, 1: encoder.overall}
    torch.testing.assert_close(encoder(of([[-2, -2]], profiles=means)), encoder(of([[-1, -1]])))
    assert len({tuple(row.tolist()) for row in encoder(of([[i, -1] for i in range(-1, 4)]))}) == 5


@either
def test_a_category_is_no_more_than_its_profile(project):
    encoder, profiles = make(project)
    given = of([[-2, 1], [0, 1]], profiles={0: profiles[0][2]})
    torch.testing.assert_close(encoder(given), encoder(of([[2, 1], [0, 1]])))


def test_projection_keeps_the_distances_of_training_profiles():
    (projected, profiles), (whole, _) = make(True), make(False)
    a, b = (
        torch.cdist(e.inputs_of(profiles[0]) * e.scale, e.inputs_of(profiles[0]) * e.scale) for e in (projected, whole)
    )
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)
    assert projected.inputs_of(profiles[0]).shape == (4, 6)


def test_projection_leaves_out_what_no_training_profile_has():
    encoder, profiles = make(True)
    other = torch.randn(60, generator=torch.Generator().manual_seed(3))
    other -= encoder.components.T @ (encoder.components @ other)
    torch.testing.assert_close(
        encoder.inputs_of(profiles[0] + 10 * other), encoder.inputs_of(profiles[0]), atol=1e-3, rtol=1e-3
    )


@either
def test_inputs_have_unit_mean_square_whatever_the_scale_of_profiles(project):
    encoder, profiles = make(project)
    assert encoder.inputs_of(torch.cat(profiles)).square().mean() == pytest.approx(1.0, rel=1e-4)


@either
def test_profiles_are_part_of_the_state(project):
    encoder, _ = make(project)
    empty = MeanExpressionConditions([4, 2], n_hidden=16, n_genes=60, project_profiles=project)
    empty.load_state_dict(encoder.state_dict())
    conditions = of([[3, 0], [-1, 1]])
    assert torch.equal(empty(conditions), encoder(conditions))


def test_no_conditions_and_one_category():
    encoder = MeanExpressionConditions([], n_hidden=8, n_genes=5)
    encoder.set_profiles([], overall=torch.ones(5))
    assert not encoder(Conditions(torch.empty(3, 0, dtype=torch.long))).any()
    single = MeanExpressionConditions([1], n_hidden=8, n_genes=5)
    single.set_profiles([torch.ones(1, 5)], overall=torch.ones(5))
    assert torch.isfinite(single(of([[0], [-1]]))).all()


@either
def test_a_profile_hidden_is_left_to_the_model(project):
    encoder, profiles = make(project)
    conditions = of([[-2, 1], [-2, -1]], profiles={0: profiles[0][2]})
    assert conditions.asked.tolist() == [[True, True], [True, False]]
    hidden = of([[-1, 1], [-1, -1]])
    torch.testing.assert_close(encoder(conditions.without(0)), encoder(hidden))
    torch.testing.assert_close(encoder(conditions[1:].without(1)), encoder(of([[2, -1]])))
    torch.testing.assert_close(encoder(conditions.dropped(1.0)), encoder(of([[-1, -1], [-1, -1]])))
    torch.testing.assert_close(encoder(conditions.dropped(0.0).to("cpu")), encoder(of([[2, 1], [2, -1]])))


@either
def test_numbers_add_to_profiles(project):
    encoder, profiles = make(project, n_continuous=1)
    request = {"values": [[0.5], [torch.nan]], "profiles": {0: profiles[0][3]}}
    vectors = encoder(of([[-2, 1], [-2, 1]], **request))
    missing = encoder(of([[3, 1]], [[torch.nan]]))
    torch.testing.assert_close(vectors[1:], missing)
    difference = encoder.curves[0](torch.tensor([0.5])) - encoder.curves[0].missing
    torch.testing.assert_close(vectors[:1] - missing, difference)
