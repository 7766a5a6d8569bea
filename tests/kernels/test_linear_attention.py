"""Causal linear attention: the chunked form and its gradient are those of the full masked matrix."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.kernels import causal_linear_attention, causal_linear_sums, retention
from anabranch.kernels._linear_attention_torch import products as chunked


def draw(*shape, dtype=torch.float64, seed=0):
    return torch.rand(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def inputs(*batch, time, key=5, value=3, dtype=torch.float64):
    return [draw(*batch, time, d, dtype=dtype, seed=i) for i, d in enumerate((key, key, value))]


def by_the_matrix(q, k, v):
    scores = (q @ k.mT).tril()
    return scores @ v, scores.sum(-1)


def gradients(outputs, leaves):
    generator = torch.Generator().manual_seed(7)
    loss = sum((y * torch.randn(y.shape, dtype=y.dtype, generator=generator)).sum() for y in outputs)
    return torch.autograd.grad(loss, leaves)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(1, 3), max_size=2))
def test_sums_and_gradients_are_those_of_the_masked_matrix(time, key, value, batch):
    leaves = inputs(*batch, time=time, key=key, value=value)
    got, wanted = causal_linear_sums(*leaves), by_the_matrix(*leaves)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradients(got, leaves), gradients(wanted, leaves))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 200), st.integers(1, 9), st.integers(1, 40), st.booleans(), st.booleans())
def test_the_compiled_loop_is_the_chunked_form(time, key, value, forgets, reverse):
    q, k, v = (x.detach() for x in inputs(3, time=time, key=key, value=value))
    decay = torch.tensor([0.5, 0.9, 1.0], dtype=torch.float64) if forgets else None
    fast = torch.ops.anabranch.causal_products(q, k, v, decay, reverse)
    torch.testing.assert_close(fast, chunked(q, k, v, decay, reverse))


@pytest.mark.parametrize("size", [(1, 600, 300), (2, 3, 4100)])
def test_sums_larger_than_the_cache_are_worked_on_in_blocks(size):
    time, key, value = size
    leaves = inputs(1, time=time, key=key, value=value)
    torch.testing.assert_close(causal_linear_sums(*leaves), by_the_matrix(*leaves))


def test_the_operator_keeps_the_laws_of_operators():
    q, k, v = inputs(3, time=9)
    torch.library.opcheck(torch.ops.anabranch.causal_products, (q.detach(), k.detach(), v.detach(), None, False))


@pytest.mark.parametrize("time", [1, 63, 64, 65, 129])
def test_chunk_borders(time):
    leaves = inputs(2, 2, time=time)
    numerator, denominator = by_the_matrix(*leaves)
    torch.testing.assert_close(causal_linear_attention(*leaves, eps=1e-3), numerator / (denominator[..., None] + 1e-3))


@pytest.mark.parametrize("time", [4, 67])
def test_first_and_second_derivatives(time):
    leaves = inputs(time=time, key=2, value=2)
    assert torch.autograd.gradcheck(causal_linear_sums, leaves, fast_mode=time > 10)
    assert torch.autograd.gradgradcheck(causal_linear_sums, leaves, fast_mode=time > 10)


def test_a_huge_later_token_does_not_touch_an_earlier_one():
    q, k, v = (x.detach().float() for x in inputs(1, time=200))
    before, _ = causal_linear_sums(q, k, v)
    k[:, 130:], v[:, 130:] = 1e12, 1e12
    after, _ = causal_linear_sums(q, k, v)
    assert torch.equal(before[:, :130], after[:, :130])


def test_training_keeps_the_inputs_alone():
    leaves, kept = inputs(2, time=512, key=32, value=16, dtype=torch.float32), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        causal_linear_sums(*leaves)
    assert {x.untyped_storage().data_ptr() for x in kept} == {x.untyped_storage().data_ptr() for x in leaves}


def test_half_precision_is_summed_in_float32():
    q, k, v = (torch.ones(4000, 1, dtype=torch.bfloat16) for _ in range(3))
    numerator, denominator = causal_linear_sums(q, k, v)
    assert numerator[-1] == denominator[-1] == torch.tensor(4000.0, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        numerator, _ = causal_linear_sums(q.float(), k.float(), v.float())
    assert numerator.dtype == torch.float32
    assert numerator[-1] == 4000


def test_a_denominator_beyond_float16_is_divided_by_before_it_is_rounded():
    q = k = torch.ones(2048, 64, dtype=torch.float16)
    v = torch.linspace(0, 1, 2048, dtype=torch.float16)[:, None]
    y = causal_linear_attention(q, k, v)
    assert y.dtype == torch.float16 and torch.finfo(y.dtype).max < 2048 * 64
    torch.testing.assert_close(y, (v.double().cumsum(0) / torch.arange(1, 2049)[:, None]).half())


@pytest.mark.parametrize("time", [0, 1, 5])
def test_no_rows_are_no_trouble(time):
    q, v = torch.ones(0, 3, time, 4), torch.ones(0, 3, time, 2)
    for y in (causal_linear_attention(q, q, v), retention(q, q, v, torch.full((3,), 0.5))):
        assert y.shape == v.shape


def test_functional_transforms():
    q, k, v = (x.detach() for x in inputs(4, time=70))

    def loss(q, k, v):
        return causal_linear_attention(q, k, v).pow(2).sum()

    torch.testing.assert_close(
        torch.vmap(torch.func.grad(loss))(q, k, v),
        torch.stack([torch.func.grad(loss)(*each) for each in zip(q, k, v, strict=True)]),
    )


@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_was_expected():
    with pytest.raises(ValueError, match=r"expected q and k .* got \(4, 3\), \(5, 3\)"):
        causal_linear_sums(torch.ones(4, 3), torch.ones(5, 3), torch.ones(5, 2))
    for decay in ([0.5, 1.5], [0.0, 1.0], [-0.5, 1.0], [float("nan"), 1.0]):
        with pytest.raises(ValueError, match="expected decays above 0 and at most 1; got"):
            retention(*(torch.ones(2, 4, 3) for _ in range(3)), torch.tensor(decay))


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile warns about torch
def test_compiles_in_one_graph():
    leaves = inputs(2, time=100, dtype=torch.float32)
    # A function of this test alone: code shared with other tests may have met the limit of recompilations.
    compiled = torch.compile(lambda *x: causal_linear_sums(*x), fullgraph=True)
    got, wanted = compiled(*leaves), by_the_matrix(*leaves)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(gradients(got, leaves), gradients(wanted, leaves), rtol=1e-4, atol=1e-3)
