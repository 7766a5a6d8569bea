"""Every pooling of the catalog keeps the laws of :class:`anabranch.nn.pool.Pool`; activations are simple enough."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.catalog import parts
from anabranch.nn.pool import Pool
from anabranch.slots import fill
from anabranch.testing import (
    check_autocast,
    check_compile,
    check_gradients,
    check_part,
    check_same_seed,
    check_scales,
    check_state_dict,
)

DIM, TIME = 8, 5
few = settings(max_examples=8, deadline=None, derandomize=True)
each = pytest.mark.parametrize("name", parts("pooling"))


def build(name, time=TIME, seed: int | None = 0, dim=DIM):
    if seed is not None:  # the law of saved states needs parts that start out different
        torch.manual_seed(seed)
    return fill("pooling", name, dim=dim, length=time)


def tokens(seed=0, time=TIME):
    return torch.randn(3, time, DIM, generator=torch.Generator().manual_seed(seed))


@each
def test_it_is_a_pooling_and_treats_samples_alone(name):
    part, x = build(name).double().eval(), tokens().double()
    assert isinstance(part, Pool)
    y = part(x)
    assert y.shape == (3, part.out_dim)
    torch.testing.assert_close(part(x[:1]), y[:1])
    torch.manual_seed(0)
    # Not the checks of every part, which take the second axis of an output for time.
    for check in (check_autocast, check_gradients, check_same_seed, check_scales, check_state_dict):
        check(partial(build, name, seed=None), tokens())


@each
def test_it_takes_one_token_and_tokens_that_are_not_contiguous(name):
    assert build(name, 1)(tokens(time=1)).shape[0] == 3
    x = tokens()
    strided = x.transpose(0, -1).contiguous().transpose(0, -1)
    assert not strided.is_contiguous()
    torch.testing.assert_close(build(name)(strided), build(name)(x))


@each
@few
@given(seed=st.integers(0, 1000), time=st.integers(1, 7))
def test_tokens_that_do_not_exist_change_nothing(name, seed, time):
    part, x = build(name, time).eval(), tokens(seed, time)
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[0] = False
    other = torch.where(mask[..., None], x, 100 * tokens(seed + 1, time))
    torch.testing.assert_close(part(x, mask), part(other, mask))
    assert not part(x, mask)[0].any(), "a sample without tokens gives zeros"
    torch.testing.assert_close(part(x, torch.ones_like(mask)), part(x))


@each
@pytest.mark.parametrize("padding", [1, 20])
def test_the_amount_of_padding_does_not_matter_in_training_either(name, padding):
    short, long = (build(name, time).double() for time in (TIME, TIME + padding))
    long.load_state_dict(short.state_dict())
    x, lengths = tokens().double(), torch.tensor([[TIME], [2], [1]])
    padded = torch.cat([x, 100 * tokens(1, padding).double()], 1)
    y, z = short(x, torch.arange(TIME) < lengths), long(padded, torch.arange(TIME + padding) < lengths)
    torch.testing.assert_close(z[:, : y.shape[1]], y)
    assert not z[:, y.shape[1] :].any(), "tokens side by side end in zeros"
    for left, right in zip(short.buffers(), long.buffers(), strict=True):
        torch.testing.assert_close(left, right)


@each
def test_a_sample_without_tokens_is_as_if_it_were_left_out_of_a_training_batch(name):
    full, fewer = build(name).double(), build(name).double()
    x, mask = tokens().double(), torch.arange(TIME) < torch.tensor([[TIME], [0], [3]])
    torch.testing.assert_close(full(x, mask)[::2], fewer(x[::2], mask[::2]))
    for left, right in zip(full.buffers(), fewer.buffers(), strict=True):
        torch.testing.assert_close(left, right)


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_it_works_in_half_precision(name, dtype):
    part, half, x = build(name).eval(), build(name).eval().to(dtype), tokens()
    mask = torch.arange(TIME) < torch.tensor([[TIME], [0], [3]])
    for exists in (None, mask):
        y = half(x.to(dtype), exists)
        assert y.dtype == dtype
        torch.testing.assert_close(y.float(), part(x, exists), rtol=0.05, atol=0.05)


@pytest.mark.usefixtures("unchecked")
@each
def test_wrong_shapes_are_refused_with_what_was_expected(name):
    with pytest.raises(ValueError, match=rf"expected \(batch, time, {DIM}\)"):
        build(name)(torch.zeros(2, TIME, DIM + 1))
    with pytest.raises(ValueError, match="one entry a token"):
        build(name)(tokens(), torch.ones(3, TIME + 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        build(name, dim=0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@each
def test_it_compiles(name):
    check_compile(partial(build, name), tokens())


@pytest.mark.parametrize("name", parts("activation"))
def test_an_activation_keeps_the_laws_of_every_part(name):
    check_part(lambda: fill("activation", name, dim=DIM), tokens())
