"""MONet (arXiv 2401.17992): products and shifts in the place of activations and attention."""

from functools import partial

import pytest
import torch
from torch import nn

from anabranch.models.vision import MONet
from anabranch.nn.block import PolyBlock
from anabranch.nn.feedforward import MLP, MuLayer
from anabranch.nn.implicit import PolyODE
from anabranch.nn.mixing import MuMixing
from anabranch.nn.mixing.mu import shift
from anabranch.nn.norm import IdentityNorm, LayerNorm

DIM, GRID = 8, (3, 4)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def drawn(module):
    """In float64, with all weights drawn at random and small enough for high powers."""
    with torch.no_grad():
        for p in module.double().parameters():
            p.normal_(std=0.3)
    return module


def image(batch=2):
    return torch.randn(batch, 12, DIM).double()


@torch.no_grad()
def differences(function, order):
    """The largest entry of the finite difference of some order along a random line."""
    x, direction = image(), image()
    values = torch.stack([function(x + step * direction) for step in torch.arange(order + 1).double()])
    for _ in range(order):
        values = values.diff(dim=0)
    return float(values.abs().max())


def without_norms(kind):
    if kind == "layer":
        return drawn(MuLayer(DIM, norm="identity"))
    if kind == "mixer":
        mixer = drawn(MuMixing(DIM, norm="identity"))
        return lambda x: mixer(x, grid=GRID)
    block = drawn(
        PolyBlock(
            DIM,
            mixer=partial(MuMixing, DIM, norm="identity"),
            channel=partial(MuLayer, DIM, norm="identity"),
            norm=partial(IdentityNorm, DIM),
        )
    )
    return lambda x: block(x, grid=GRID)


@pytest.mark.parametrize("kind, degree", [("layer", 2), ("mixer", 2), ("block", 4)])
def test_without_norms_it_is_a_polynomial_of_that_degree(kind, degree):
    function = without_norms(kind)
    scale = differences(function, degree)
    assert scale > 1e-4
    assert differences(function, degree + 1) < 1e-10


def test_with_an_activation_or_a_norm_it_is_none():
    for function in (drawn(MLP(DIM)), drawn(MuLayer(DIM))):
        assert differences(function, 3) > 1e-3


def test_a_layer_is_a_product_of_two_linear_maps_plus_one_of_them():
    layer, x = drawn(MuLayer(DIM, ratio=3)), image()
    a = layer.norm1(x @ layer.first.weight.T + layer.first.bias)
    d = x @ layer.narrow.weight.T + layer.narrow.bias
    b = layer.norm2(d @ layer.widen.weight.T + layer.widen.bias)
    assert d.shape[-1] == 3 * DIM // 8
    torch.testing.assert_close(layer(x), (a + layer.alpha * a * b) @ layer.last.weight.T + layer.last.bias)


def test_the_product_starts_in_full_and_the_first_biases_at_one():
    layer = MuLayer(DIM)
    assert layer.alpha.item() == 1
    assert all((linear.bias == 1).all() for linear in (layer.first, layer.narrow, layer.widen))


def test_a_quarter_of_the_channels_comes_from_each_neighbour():
    x = image().unflatten(1, GRID)
    row, column = torch.arange(3), torch.arange(4)
    moved = shift(x.flatten(1, 2), GRID).unflatten(1, GRID)
    torch.testing.assert_close(moved[..., 0:2], x[:, (row - 1).clamp(min=0)][..., 0:2])
    torch.testing.assert_close(moved[..., 2:4], x[:, (row + 1).clamp(max=2)][..., 2:4])
    torch.testing.assert_close(moved[..., 4:6], x[:, :, (column - 1).clamp(min=0)][..., 4:6])
    torch.testing.assert_close(moved[..., 6:8], x[:, :, (column + 1).clamp(max=3)][..., 6:8])


def test_in_a_line_half_comes_from_each_side():
    x = torch.arange(5.0).view(1, 5, 1).repeat(1, 1, 2)
    assert shift(x, (5,))[0, :, 0].tolist() == [0, 0, 1, 2, 3]
    assert shift(x, (5,))[0, :, 1].tolist() == [1, 2, 3, 4, 4]


def test_the_input_is_not_changed_by_the_shift():
    x = image()
    before = x.clone()
    shift(x, GRID)
    assert x.equal(before)


def test_a_masked_neighbour_is_as_an_edge():
    x, mask = torch.randn(1, 6, 4), torch.tensor([[True, True, True, True, False, False]])
    torch.testing.assert_close(shift(x, (6,), mask)[:, :4], shift(x[:, :4], (4,)))


def test_both_factors_of_a_mixer_are_shifted():
    mixer, x = drawn(MuMixing(DIM)), image()
    layer = mixer.layer
    a, d = shift(layer.first(x), GRID), shift(layer.narrow(x), GRID)
    a, b = layer.norm1(a), layer.norm2(layer.widen(d))
    torch.testing.assert_close(mixer(x, grid=GRID), layer.last(a + layer.alpha * a * b))


def test_a_block_shares_one_norm_between_its_branches():
    block = drawn(
        PolyBlock(DIM, mixer=partial(MuMixing, DIM), channel=partial(MuLayer, DIM), norm=partial(LayerNorm, DIM))
    )
    x = image()
    y = x + block.mixer(block.norm(x), grid=GRID)
    torch.testing.assert_close(block(x, grid=GRID), y + block.channel(block.norm(y)))
    own = [name for name, module in block.named_children() if isinstance(module, LayerNorm)]
    assert own == ["norm"]


@pytest.mark.parametrize(
    "dim, depth, weights",
    [((64, 128, 192, 192), (4, 8, 12, 10), 10_339_436), ((128, 192, 256, 384), (4, 6, 12, 14), 32_880_688)],
    ids=["tiny", "small"],
)
def test_the_published_models_have_as_many_weights_as_published(dim, depth, weights):
    # 10.3 and 32.9 million in table 1
    with torch.device("meta"):
        model = MONet(3, 1000, size=224, dim=dim, depth=depth)
    assert sum(p.numel() for p in model.parameters()) == weights


def test_there_is_no_activation_in_the_tree():
    model = MONet(3, 10, size=16, dim=(8, 12), depth=(1, 1))
    kinds = {type(module) for module in model.modules()}
    assert not [kind for kind in kinds if kind.__module__ == "torch.nn.modules.activation"]
    leaves = {kind for kind in kinds if kind.__module__.startswith("torch.nn")}
    assert leaves <= {nn.Linear, nn.Conv2d, nn.ModuleList, nn.Sequential}


def test_without_norms_the_whole_model_is_a_polynomial():
    model = drawn(MONet(1, 3, size=4, dim=(4,), depth=(1,), patch=(2,), norm="identity"))
    line = [torch.randn(1, 1, 4, 4).double() for _ in range(2)]
    values = torch.stack([model(line[0] + step * line[1]) for step in range(6)])
    for _ in range(5):
        values = values.diff(dim=0)
    assert values.abs().max() < 1e-9


def test_it_takes_images_of_another_size():
    model = MONet(1, 3, size=16, dim=(8, 12), depth=(1, 1))
    assert model(torch.randn(2, 1, 20, 12)).shape == (2, 3)


def test_a_field_is_the_polynomial_that_its_coefficients_say():
    field = drawn(PolyODE(3, hidden=5, rank=2))
    x = torch.randn(4, 3).double()
    linear, quadratic = field.coefficients()
    torch.testing.assert_close(field(x), x @ linear.T + torch.einsum("ijk, bj, bk -> bi", quadratic, x, x))
    torch.testing.assert_close(quadratic, quadratic.mT)


def test_a_field_with_the_weights_of_lotka_and_volterra_has_their_coefficients_and_conserves_their_constant():
    alpha, beta, gamma, delta = 1.5, 1.0, 3.0, 0.8
    field = PolyODE(2, hidden=2, steps=4).double()
    with torch.no_grad():
        # dx/dt = alpha x (1 - beta/alpha y), dy/dt = -gamma y (1 - delta/gamma x)
        field.first.weight.copy_(torch.eye(2))
        field.last.weight.copy_(torch.diag(torch.tensor([alpha, -gamma])))
        field.narrow.weight.copy_(torch.eye(2))
        field.widen.weight.copy_(torch.tensor([[0, -beta / alpha], [-delta / gamma, 0]]))
    linear, quadratic = field.coefficients()
    torch.testing.assert_close(linear, torch.diag(torch.tensor([alpha, -gamma])).double())
    torch.testing.assert_close(2 * quadratic[0, 0, 1], torch.tensor(-beta).double())
    torch.testing.assert_close(2 * quadratic[1, 0, 1], torch.tensor(delta).double())
    states = field.trajectory(torch.tensor([[1.0, 1.0], [3.0, 2.0]]).double(), torch.linspace(0, 4, 81).double())
    assert states.shape == (81, 2, 2)
    x, y = states.unbind(-1)
    constant = delta * x - gamma * x.log() + beta * y - alpha * y.log()
    assert (constant - constant[0]).abs().max() < 1e-4
    assert states.std(0).min() > 0.3


@pytest.mark.usefixtures("unchecked")
def test_options_that_cannot_be_are_refused():
    for options, message in (
        ({"rank": 0}, "dim, hidden and rank must be at least 1; got 2, 16 and 0"),
        ({"steps": 0}, "expected at least 1 step; got 0"),
        ({"method": "foo"}, "method is one of .*; got 'foo'"),
    ):
        with pytest.raises(ValueError, match=message):
            PolyODE(2, **options)
    for part in (MuLayer, MuMixing):
        with pytest.raises(ValueError, match="each token by itself; got GroupNorm"):
            part(DIM, norm="groupnorm")


@pytest.mark.usefixtures("unchecked")
def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match="leave nothing of an image of 3"):
        MONet(1, 3, size=3)
    with pytest.raises(ValueError, match=r"expected \(batch, 1, height, width\)"):
        MONet(1, 3, size=16, dim=(8,), depth=(1,))(torch.randn(2, 3, 16, 16))
