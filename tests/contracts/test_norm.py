"""Every norm of the catalog keeps the laws of :class:`anabranch.nn.norm.Norm`."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.catalog import parts
from anabranch.slots import fill
from anabranch.testing import check_compile, check_part

DIM = 8
few = settings(max_examples=8, deadline=None, derandomize=True)
each = pytest.mark.parametrize("name", parts("norm"))


def build(name, seed: int | None = 0, dim=DIM):
    if seed is not None:  # the law of saved states needs parts that start out different
        torch.manual_seed(seed)
    return fill("norm", name, dim=dim, length=5, causal=False, depth=0)


def tokens(seed=0, time=5):
    return torch.randn(3, time, DIM, generator=torch.Generator().manual_seed(seed))


@each
def test_it_keeps_the_laws_of_every_part(name):
    torch.manual_seed(0)
    check_part(partial(build, name, seed=None), tokens())


@each
def test_it_treats_each_token_by_itself_exactly_if_declared(name):
    part, x = build(name).double().eval(), tokens().double()
    other = x.clone()
    other[:, 1:] = 3 * other[:, 1:] + 1
    assert torch.allclose(part(x)[:, 0], part(other)[:, 0]) == getattr(part, "tokenwise", True)


@each
@few
@given(seed=st.integers(0, 1000), time=st.integers(1, 7))
def test_tokens_that_do_not_exist_change_nothing(name, seed, time):
    part, x = build(name).double().eval(), tokens(seed, time).double()
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(seed)) < 0.6
    other = torch.where(mask[..., None], x, 100 * tokens(seed + 1, time).double())
    first, second = (part(given, mask=mask) for given in (x, other))
    torch.testing.assert_close(first[mask], second[mask])
    assert first.isfinite().all()
    torch.testing.assert_close(part(x, mask=torch.ones_like(mask)), part(x))


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_works_on_many_tokens_in_half_precision(name, dtype):
    part, x = build(name), tokens(time=10_000)
    mask = torch.arange(10_000) < torch.tensor([[10_000], [7001], [1]])
    half = build(name).to(dtype)
    for exists in (None, mask):
        y = half(x.to(dtype), mask=exists)
        assert y.dtype == dtype
        torch.testing.assert_close(y.float()[mask], part(x, mask=exists)[mask], rtol=0.02, atol=0.02)


@pytest.mark.usefixtures("unchecked")
@each
def test_wrong_widths_are_refused_with_what_was_expected(name):
    with pytest.raises(ValueError, match=rf"expected \(\.\.\., {DIM}\); got \(2, 3, 9\)"):
        build(name)(torch.zeros(2, 3, DIM + 1))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        build(name, dim=0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@each
def test_it_compiles(name):
    check_compile(partial(build, name), tokens())
