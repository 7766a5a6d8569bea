"""Scalable neural network kernels (arXiv 2310.13225): input and weights meet in a dot product of random features."""

import math
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anabranch.compress import bundle
from anabranch.nn.feedforward import SNNK, Bell, Cosine, ReLUFeatures, ReLUSNNK, Sine, WaveFeatures

DIM = 4


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def short(*shape, length=0.7):
    return length * F.normalize(torch.randn(*shape, dtype=torch.float64), dim=-1)


def estimates(wave, draws, repeats, x, w, b, A=0.0):
    """Independent estimates of ``f(w x + b)``, ``(repeats, out, samples)``."""
    parts = (WaveFeatures(DIM, draws, wave=wave, A=A).double() for _ in range(repeats))
    return torch.stack([part.weights(w, b) @ part(x).mT for part in parts])


@pytest.mark.parametrize("A", [0.0, -0.1])
@pytest.mark.parametrize("wave", [Cosine(), Sine(), Bell()])
def test_the_estimate_has_no_bias(wave, A):
    x, w, b = short(3, DIM), short(2, DIM), torch.tensor([0.3, -1.2]).double()
    found = estimates(wave, 200, 400, x, w, b, A)
    error = (found.mean(0) - wave(w @ x.mT + b[:, None])) / (found.std(0) / 400**0.5)
    assert error.abs().max() < 4
    assert (found.std(0) / 400**0.5).max() < 0.02


def test_the_features_are_the_papers_complex_formula():
    part, x, w = WaveFeatures(DIM, 5, wave=Bell(), A=-0.2).double(), short(3, DIM), short(2, DIM)
    b, A, xi, g = torch.tensor([0.4, -0.5]).double(), -0.2, part.frequencies, part.directions
    s = torch.sqrt(2j * torch.pi * xi)
    c = (1 - 4 * A) ** (DIM / 4)

    def side(v):
        size = A * g.square().sum(1) + (1 - 4 * A) ** 0.5 * s * (v @ g.mT) - s**2 * v.square().sum(1)[:, None] / 2
        return c * torch.exp(size)

    expected = (side(x)[:, None] * (side(w) * torch.exp(2j * torch.pi * xi * b[:, None]))).mean(-1).real
    torch.testing.assert_close(part(x) @ part.weights(w, b).mT, expected, rtol=1e-5, atol=1e-6)


def test_the_error_falls_with_the_root_of_the_draws():
    x, w, b = short(3, DIM), short(2, DIM), torch.zeros(2).double()
    errors = [
        (estimates(Cosine(), draws, 100, x, w, b) - (w @ x.mT).cos()).square().mean().sqrt() for draws in (32, 2048)
    ]
    assert math.log(errors[1] / errors[0]) / math.log(2048 / 32) == pytest.approx(-0.5, abs=0.08)


def test_relu_features_tend_to_the_arc_cosine_kernel():
    x, w = torch.randn(3, DIM, dtype=torch.float64), torch.randn(2, DIM, dtype=torch.float64)
    b = torch.randn(2, dtype=torch.float64)
    part = ReLUFeatures(DIM, 400_000).double()
    long_x, long_w = torch.cat([x, torch.ones(3, 1)], 1), torch.cat([w, b[:, None]], 1)
    lengths = long_w.norm(dim=1)[:, None] * long_x.norm(dim=1)
    t = (long_w @ long_x.mT / lengths).acos()
    expected = lengths * (t.sin() + (torch.pi - t) * t.cos()) / (2 * torch.pi)
    torch.testing.assert_close(part.weights(w, b) @ part(x).mT, expected, rtol=0.02, atol=0.02)


def test_a_layer_starts_as_an_estimate_and_trains_only_its_matrix():
    linear, x = nn.Linear(DIM, 3).double(), short(5, DIM)
    with torch.no_grad():
        linear.weight.copy_(short(3, DIM))
    layer = SNNK(DIM, 3, features=100_000, f=Sine()).double().imitate(linear)
    torch.testing.assert_close(layer(x), linear(x).sin(), rtol=0, atol=0.05)
    assert [name for name, _ in layer.named_parameters()] == ["weight"]


def test_fewer_features_than_inputs_save_weights():
    assert ReLUSNNK(384, 384, features=16).weight.numel() * 24 == 384 * 384
    assert SNNK(384, 10, features=16).weight.shape == (10, 32)


@pytest.mark.parametrize("wave", [Cosine(), Sine(), Bell()])
def test_a_bundled_net_of_waves_is_nearly_the_net(wave):
    net = nn.Sequential(nn.Linear(DIM, 6), wave, nn.Linear(6, 2)).double()
    with torch.no_grad():
        net[0].weight.copy_(short(6, DIM))
    x = short(20, DIM)
    errors = []
    for features in (200, 20_000):
        errors.append(torch.stack([(bundle(net, features=features)(x) - net(x)).norm() for _ in range(5)]).mean())
    assert errors[1] < errors[0] / 5 and errors[1] < 0.05 * net(x).norm()


def test_in_a_bundled_net_the_input_meets_weights_only_in_the_last_matrix():
    make = partial(nn.Sequential, nn.Linear(DIM, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())
    x, nets = short(7, DIM), []
    for last in (nn.Linear(5, 2), nn.Linear(5, 2)):
        torch.manual_seed(1)
        nets.append(bundle(make(last).double(), features=50))
    torch.testing.assert_close(nets[0].lifts(x), nets[1].lifts(x))
    assert [p for p, _ in nets[0].named_parameters()] == ["out.weight", "out.bias"]
    first, second = nets[0].lifts
    features = (second.directions[:, :-1] @ first(x).mT + second.directions[:, -1:]).relu().mT / 50**0.5
    torch.testing.assert_close(nets[0].lifts(x), features)


def test_the_first_layers_weights_merge_into_the_seconds():
    net = nn.Sequential(nn.Linear(DIM, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    both = bundle(net, features=30)
    first, second = both.lifts
    inner = first.weights(net[0].weight, net[0].bias)
    outer = second.weights(net[2].weight @ inner, net[2].bias)
    torch.testing.assert_close(both.out.weight, net[4].weight @ outer)


@pytest.mark.parametrize("penalty", [0.0, 0.1])
def test_solving_makes_the_gradient_zero(penalty):
    net = nn.Sequential(nn.Linear(DIM, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    x, y = torch.randn(40, DIM, dtype=torch.float64), torch.randn(40, 2, dtype=torch.float64)
    bundled = bundle(net, features=20)

    def gradients():
        bundled.zero_grad()
        loss = (bundled(x) - y).square().sum(1).mean() + penalty * bundled.out.weight.square().sum()
        loss.backward()
        return max(float(p.grad.abs().max()) for p in bundled.parameters())

    assert gradients() > 1e-2
    bundled.solve(x, y, penalty=penalty)
    assert gradients() < 1e-8


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_bundled_is_refused():
    with pytest.raises(ValueError, match="expected linear layers with one activation"):
        bundle(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="ReLU, Cosine, Sine or Bell as activations; got Tanh"):
        bundle(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 1)))
    with pytest.raises(ValueError, match=r"y \(samples, 1\); got \(3, 2\) and \(3,\)"):
        bundle(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))).solve(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match="A of at most 0; got 5 and 1"):
        WaveFeatures(2, 5, wave=Cosine(), A=1)


def test_a_layer_or_an_activation_that_is_used_twice_is_bundled_twice():
    first, again, relu = nn.Linear(DIM, 6).double(), nn.Linear(6, 6).double(), nn.ReLU()
    nets = [
        nn.Sequential(first, relu, again, relu, again, relu, again),
        nn.Sequential(first, nn.ReLU(), deepcopy(again), nn.ReLU(), deepcopy(again), nn.ReLU(), deepcopy(again)),
    ]
    outcomes = []
    for net in nets:
        torch.manual_seed(1)
        bundled = bundle(net, features=20)
        assert len(bundled.lifts) == 3
        outcomes.append(bundled(short(5, DIM).new_ones(5, DIM)))
    torch.testing.assert_close(*outcomes)
