"""Memories in a matrix: chunks against the recurrence of their definition, and what they remember."""

import pytest
import torch
from torch.nn.functional import normalize

from anabranch.kernels import gated_delta_rule, gated_delta_step, gated_linear_attention

B, T, K, V = 2, 23, 5, 4


def frames(time=T, seed=0):
    generator = torch.Generator().manual_seed(seed)
    query, key, value, gates = (
        torch.randn(B, 3, time, n, generator=generator, dtype=torch.float64) for n in (K, K, V, 2)
    )
    return query, normalize(key, dim=-1), value, gates[..., 0].sigmoid(), -gates[..., 1].exp()


def by_definition(query, key, value, beta, g, state, overwrite=1):
    read = []
    for t in range(query.shape[-2]):
        k, v, b = key[..., t, :, None], value[..., t, :, None], beta[..., t, None, None]
        kept = torch.eye(K).double() - overwrite * b * k @ k.mT
        state = g[..., t, None, None].exp() * state @ kept + b * v @ k.mT
        read.append((state @ query[..., t, :, None])[..., 0])
    return torch.stack(read, dim=-2), state


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_chunks_are_the_recurrence(chunk):
    given = frames()
    start = torch.randn(B, 3, V, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, right in zip(gated_delta_rule(*given, start, chunk=chunk), by_definition(*given, start), strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 7, 16, 64])
def test_chunks_of_gated_linear_attention_are_the_recurrence_without_the_correction(chunk):
    given = frames()
    start = torch.randn(B, 3, V, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = by_definition(*given, start, overwrite=0)
    for mine, right in zip(gated_linear_attention(*given, start, chunk=chunk), wanted, strict=True):
        torch.testing.assert_close(mine, right, rtol=0, atol=1e-10)
    read, _ = gated_linear_attention(*given, chunk=chunk)
    torch.testing.assert_close(read, by_definition(*given, 0 * start, overwrite=0)[0])


def test_steps_are_the_recurrence():
    given, state = frames(), torch.zeros(B, 3, V, K, dtype=torch.float64)
    read, last = by_definition(*given, state)
    for t in range(T):
        o, state = gated_delta_step(*(x[:, :, t] for x in given), state)
        torch.testing.assert_close(o, read[:, :, t])
    torch.testing.assert_close(state, last)


def test_orthonormal_keys_are_recalled_exactly_and_overwritten_exactly():
    key = torch.linalg.qr(torch.randn(K, K, dtype=torch.float64)).Q
    twice = torch.cat([key, key])
    value = torch.randn(2 * K, V, dtype=torch.float64)
    one, none = torch.ones(2 * K).double(), torch.zeros(2 * K).double()
    _, state = gated_delta_rule(twice, twice, value, one, none, chunk=3)
    torch.testing.assert_close(key @ state.mT, value[K:])
    _, summed = gated_delta_rule(twice[:K], twice[:K], value[:K], one[:K], none[:K])
    torch.testing.assert_close(key @ summed.mT, value[:K])


def test_nothing_is_written_without_beta_and_everything_is_forgotten_at_a_large_decay():
    query, key, value, beta, g = frames()
    read, state = gated_delta_rule(query, key, value, 0 * beta, g)
    assert not read.any() and not state.any()
    read, state = gated_delta_rule(query, key, value, beta, 0 * g - 1e4, chunk=8)
    expected = beta[..., None] * value * (query * key).sum(-1, keepdim=True)
    torch.testing.assert_close(read, expected)


@pytest.mark.parametrize("rule, overwrite", [(gated_delta_rule, 1), (gated_linear_attention, 0)])
@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_a_decay_of_minus_infinity_forgets_everything(rule, overwrite, chunk):
    *given, g = frames()
    g[:, :, [0, 3, 4, 15]] = -torch.inf
    start = torch.randn(B, 3, V, K, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = by_definition(*given, g, start, overwrite)
    g.requires_grad_()
    read, last = rule(*given, g, start, chunk=chunk)
    torch.testing.assert_close((read, last), wanted)
    (slope,) = torch.autograd.grad(read.sum(), g)
    assert slope.isfinite().all()


def test_a_step_in_half_precision_keeps_the_memory_in_float32():
    half = [x[:, :, 0].half() for x in frames()]
    state = torch.randn(B, 3, V, K)
    wanted = gated_delta_step(*(x.float() for x in half), state)
    with torch.autocast("cpu", torch.bfloat16):
        read, after = gated_delta_step(*half, state)
    assert read.dtype == torch.float16 and after.dtype == torch.float32
    torch.testing.assert_close((read.float(), after), wanted, rtol=2e-3, atol=1e-3)
    torch.testing.assert_close(after, wanted[1])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("rule", [gated_delta_rule, gated_linear_attention])
def test_errors_say_what_was_expected(rule):
    query, key, value, beta, g = frames()
    with pytest.raises(ValueError, match="at least 1 frame; got 0"):
        rule(query, key, value, beta, g, chunk=0)
    for wrong in (
        (query, key[:, :, :7], value, beta, g),
        (query, key, torch.cat([value, value], 2), beta, g),
        (query, key, value, beta[:, :1], g),
        (query, key, value, beta, g[..., :1]),
    ):
        with pytest.raises(ValueError, match=r"expected query and key \(\.\.\., time, key\).*; got \(2, 3, 23, 5\)"):
            rule(*wrong)
    with pytest.raises(ValueError, match=r"expected a state \(2, 3, 4, 5\); got \(2, 3, 5, 4\)"):
        rule(query, key, value, beta, g, torch.zeros(B, 3, K, V))


@pytest.mark.parametrize("rule", [gated_delta_rule, gated_linear_attention])
def test_gradients_are_right_also_across_chunks(rule):
    given = tuple(x.requires_grad_() for x in frames(time=5))
    start = torch.randn(B, 3, V, K, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *x: rule(*x, chunk=2), (*given, start), fast_mode=True)


@pytest.mark.parametrize("rule", [gated_delta_rule, gated_linear_attention])
def test_no_frames_leave_the_state(rule):
    start = torch.randn(B, 3, V, K, dtype=torch.float64)
    read, state = rule(*frames(time=0), start)
    assert read.shape == (B, 3, 0, V) and torch.equal(state, start)
