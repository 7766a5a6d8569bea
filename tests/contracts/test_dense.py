"""Every dense layer keeps the laws of its slot; see :mod:`anabranch.nn.feedforward.base`."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.catalog import parts
from anabranch.models import MLP
from anabranch.testing import check_compile, check_part

LAYERS = parts("dense")
EACH = pytest.mark.parametrize("make", [entry.load() for entry in LAYERS.values()], ids=list(LAYERS))


@EACH
def test_the_laws_of_every_part(make):
    torch.manual_seed(0)
    check_part(partial(make, 5, 3), torch.randn(3, 5))
    check_part(partial(make, 1, 1), torch.randn(2, 1))


@EACH
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_each_position_is_by_itself_whatever_the_leading_axes(make, data):
    shape = data.draw(st.lists(st.integers(1, 3), max_size=3))
    in_dim, out_dim = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    torch.manual_seed(0)
    layer = make(in_dim, out_dim).double().eval()
    x = torch.randn(*shape, in_dim, dtype=torch.float64)
    y = layer(x)
    assert y.shape == (*shape, out_dim)
    one_by_one = torch.stack([layer(row) for row in x.reshape(-1, in_dim)]).reshape(y.shape)
    torch.testing.assert_close(y, one_by_one)


@EACH
def test_it_is_not_linear(make):
    torch.manual_seed(0)
    layer = make(4, 8).double().eval()
    x, z = torch.randn(2, 50, 4, dtype=torch.float64)
    bend = layer(x + z) - layer(x) - layer(z) + layer(torch.zeros_like(x))
    assert bend.abs().max() > 1e-3


@EACH
@pytest.mark.usefixtures("unchecked")
def test_wrong_widths_are_refused_with_what_was_expected(make):
    with pytest.raises(ValueError, match=r"expected \(\.\.\., 4\); got \(2, 5\)"):
        make(4, 3)(torch.randn(2, 5))
    with pytest.raises(ValueError, match="at least 1; got 0 and 3"):
        make(0, 3)


@EACH
def test_the_cost_grows_with_the_layer(make):
    assert 0 < make(4, 8).cost() < make(8, 8).cost() < make(8, 16).cost()


@EACH
def test_it_runs_in_bfloat16(make):
    y = make(4, 3).bfloat16()(torch.randn(2, 4).bfloat16())
    assert y.dtype is torch.bfloat16 and y.isfinite().all()


@EACH
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_compiling_changes_nothing(make):
    torch.manual_seed(0)
    check_compile(partial(make, 5, 3), torch.randn(6, 5))


@EACH
@pytest.mark.parametrize("residual", [False, True])
def test_a_perceptron_of_it_learns(make, residual):
    torch.manual_seed(0)
    model = MLP(2, 1, dim=16, depth=2, dense=make, norm="layernorm", residual=residual)
    x = torch.rand(256, 2) * 2 - 1
    y = x.prod(-1, keepdim=True)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(150):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1 * y.var()


def test_without_hidden_layers_the_skeleton_is_linear():
    model = MLP(3, 2, dim=8, depth=0)
    assert [name for name, _ in model.named_parameters()] == ["readout.weight", "readout.bias"]
    torch.testing.assert_close(model(torch.zeros(4, 3)), model.readout.bias.expand(4, 2))
