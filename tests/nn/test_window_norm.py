import pytest
import torch

from anabranch.nn.norm import WindowNorm


def windows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("centre", ["mean", "last"])
@pytest.mark.parametrize("affine", [False, True])
def test_the_inverse_gives_the_window_back(centre, affine):
    norm = WindowNorm(3, centre=centre, affine=affine).double()
    if affine:
        with torch.no_grad():
            norm.gain.copy_(torch.tensor([0.5, -2.0, 3.0]))
            norm.shift.copy_(torch.tensor([0.1, 0.2, 0.3]))
    x = 100 + 5 * windows(4, 9, 3)
    torch.testing.assert_close(norm.inverse(*norm(x)), x, rtol=1e-13, atol=1e-11)


def test_a_window_becomes_centred_with_unit_population_variance():
    z, _ = WindowNorm(2, epsilon=0.0)(7 + 3 * windows(5, 11, 2))
    torch.testing.assert_close(z.mean(1), torch.zeros(5, 2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(z.var(1, correction=0), torch.ones(5, 2).double())


def test_last_centring_makes_the_last_value_zero():
    z, _ = WindowNorm(2, centre="last")(windows(5, 11, 2))
    torch.testing.assert_close(z[:, -1], torch.zeros(5, 2).double(), rtol=0, atol=0)


@pytest.mark.parametrize("centre", ["mean", "last"])
def test_masked_statistics_are_those_of_the_observed_values_alone(centre):
    norm = WindowNorm(1, centre=centre)
    x = windows(1, 8, 1)
    mask = torch.tensor([1, 0, 1, 1, 0, 1, 1, 0]).bool().view(1, 8, 1)
    spoiled = torch.where(mask, x, torch.nan)
    observed = x[mask].view(1, -1, 1)
    for got, expected in zip(norm.statistics(spoiled, mask), norm.statistics(observed), strict=True):
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("centre", ["mean", "last"])
def test_a_channel_without_observations_is_left_finite(centre):
    norm = WindowNorm(1, centre=centre)
    location, scale = norm.statistics(torch.full((1, 4, 1), torch.nan), torch.zeros(1, 4, 1).bool())
    assert location.item() == 0
    assert 0 < scale.item() < 1


def test_a_constant_window_stays_finite():
    z, _ = WindowNorm(1)(torch.full((1, 5, 1), 1e4))
    torch.testing.assert_close(z, torch.zeros_like(z))


def test_statistics_carry_no_gradient():
    x = windows(2, 5, 1).requires_grad_()
    z, (location, scale) = WindowNorm(1)(x)
    z.sum().backward()
    assert not location.requires_grad
    torch.testing.assert_close(x.grad, (1 / scale).expand_as(x))


@pytest.mark.usefixtures("unchecked")
def test_it_says_which_shape_it_expected():
    with pytest.raises(ValueError, match=r"expected \(batch, time, 3\); got \(2, 5, 4\)"):
        WindowNorm(3)(torch.zeros(2, 5, 4))
    with pytest.raises(ValueError, match="'mean' or 'last'"):
        WindowNorm(3, centre="median")
