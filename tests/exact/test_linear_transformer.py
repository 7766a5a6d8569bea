"""Linear transformer (arXiv 2006.16236): three forms of one operator, in linear time, memory and constant state."""

import pytest
import torch

from anabranch.kernels import causal_linear_attention
from anabranch.nn.attention import LinearAttention, elu_plus_one, outer_square
from anabranch.nn.streaming import state_bytes
from anabranch.testing import check_causal, check_streaming


def tokens(batch=2, time=150, dim=12, dtype=torch.float64):
    return torch.randn(batch, time, dim, dtype=dtype, generator=torch.Generator().manual_seed(0))


def attention(dim=12, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return LinearAttention(dim, **{"heads": 3, **options}).to(dtype)


def stepped(mixer, x):
    state, outputs = mixer.initial_state(len(x)), []
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1)


def by_equation_12(mixer, x):
    """Written token by token from the paper, with explicit sums."""
    query, key, value = mixer.read(x, x)
    y = torch.zeros_like(value)
    for i in range(x.shape[1]):
        S = sum(key[:, :, j, :, None] * value[:, :, j, None, :] for j in range(i + 1))
        z = sum(key[:, :, j] for j in range(i + 1))
        norm = (query[:, :, i] * z).sum(-1, keepdim=True) + mixer.eps
        y[:, :, i] = (query[:, :, i, :, None] * S).sum(-2) / norm
    return mixer.project(y)


def test_parallel_form_is_equation_12():
    mixer, x = attention(causal=True), tokens(time=8)
    torch.testing.assert_close(mixer(x), by_equation_12(mixer, x))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("time", [1, 64, 150])
def test_quadratic_chunked_and_step_forms_agree(time, dtype, tolerance):
    mixer, x = attention(causal=True, dtype=dtype), tokens(time=time, dtype=dtype)
    quadratic = mixer.project(mixer.weights(x) @ mixer.values(x))
    torch.testing.assert_close(mixer(x), quadratic, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(stepped(mixer, x), quadratic, rtol=tolerance, atol=tolerance)


def test_without_causality_every_token_reads_all():
    mixer, x = attention(), tokens(time=9)
    torch.testing.assert_close(mixer(x), mixer.project(mixer.weights(x) @ mixer.values(x)))
    torch.testing.assert_close(mixer.weights(x).sum(-1), torch.ones(2, 3, 9, dtype=x.dtype), rtol=1e-5, atol=1e-5)
    causal = attention(causal=True)
    torch.testing.assert_close(causal(x)[:, -1], mixer(x)[:, -1])  # the last token of a causal one reads all, too
    assert (causal(x)[:, :-1] - mixer(x)[:, :-1]).abs().min(-1).values.max() > 1e-3


def test_the_defaults_are_the_papers():
    mixer = LinearAttention(8)
    assert (mixer.eps, mixer.feature_map) == (1e-6, elu_plus_one)


def test_streams_and_is_causal():
    check_streaming(attention(causal=True), tokens(time=20))
    check_causal(attention(causal=True), tokens(time=70))


def test_gradient_of_the_whole_attention():
    for causal in (False, True):
        mixer = attention(causal=causal)
        assert torch.autograd.gradcheck(mixer, (tokens(1, 70).requires_grad_(),), fast_mode=True)


def test_the_gradient_across_chunks_is_that_of_the_full_matrix():
    # gradcheck's fast mode alone allows more than what one chunk hands to another.
    leaves = [torch.rand(150, d, dtype=torch.float64, requires_grad=True) for d in (4, 4, 3)]
    q, k, v = leaves
    scores = (q @ k.T).tril()
    weight = torch.randn(150, 3, dtype=torch.float64)
    wanted = torch.autograd.grad((weight * (scores @ v / (scores.sum(-1, keepdim=True) + 1e-6))).sum(), leaves)
    found = torch.autograd.grad((weight * causal_linear_attention(q, k, v)).sum(), leaves)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_feature_map_of_the_paper():
    x = torch.tensor([-2.0, 0.0, 3.0])
    torch.testing.assert_close(elu_plus_one(x), torch.tensor([torch.e**-2, 1.0, 4.0]))
    assert attention().feature_map is elu_plus_one


@pytest.mark.parametrize("causal", [False, True])
def test_outer_square_is_the_polynomial_kernel_exactly(causal):
    mixer, x = attention(feature_map=outer_square, causal=causal), tokens(time=80)
    query = mixer.split(mixer.query(x))
    key = mixer.split(mixer.key_value(x).chunk(2, -1)[0])
    scores = (query @ key.mT) ** 2
    scores = scores.tril() if causal else scores
    wanted = (scores / (scores.sum(-1, keepdim=True) + mixer.eps)) @ mixer.values(x)
    torch.testing.assert_close(mixer(x), mixer.project(wanted))


def test_state_does_not_grow():
    mixer, sizes = attention(causal=True), set()
    state = mixer.initial_state(1)
    for n in (1, 10, 1000):
        _, state = mixer.chunk(tokens(1, n), state)
        sizes.add(state_bytes(state))
    assert sizes == {8 * 3 * (4 * 4 + 4)}  # three heads, each S (4, 4) and z (4,) in float64


def test_training_memory_is_linear_in_tokens_and_free_of_the_state():
    def kept(time, key):
        q, k, v = (torch.rand(time, d, requires_grad=True) for d in (key, key, 8))
        held = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: held.append(x) or x, lambda x: x):
            causal_linear_attention(q, k, v)
        return sum({x.untyped_storage().data_ptr(): x.numel() for x in held}.values())  # each memory once

    assert kept(2048, 16) == 2 * kept(1024, 16)
    assert kept(1024, 64) - kept(1024, 32) == 2 * 1024 * 32  # only q and k widen: no (key, value) state per token


def test_masked_tokens_do_not_exist():
    x, mask = tokens(time=9), torch.ones(2, 9, dtype=torch.bool)
    mask[:, 6:] = False
    for causal in (False, True):
        mixer = attention(causal=causal)
        torch.testing.assert_close(mixer(x, mask=mask)[:, :6], mixer(x[:, :6]))
    mixer = attention()
    nothing = mixer(x, mask=torch.zeros_like(mask))
    torch.testing.assert_close(nothing, mixer.out.bias.expand_as(nothing))


@pytest.mark.usefixtures("unchecked")
def test_errors():
    with pytest.raises(ValueError, match="multiple of heads"):
        LinearAttention(10, heads=4)
    with pytest.raises(ValueError, match="cannot read a context"):
        attention(causal=True)(tokens(), context=tokens())


def test_the_running_sums_are_float32_in_a_half_precision_model():
    torch.manual_seed(0)
    mixer = LinearAttention(32, heads=4, causal=True)
    x = torch.randn(1, 600, 32)
    wanted = mixer(x)
    rough = mixer.bfloat16()
    at_once, state = rough(x.bfloat16()), rough.initial_state(1)
    assert state["S"].dtype == state["z"].dtype == torch.float32
    steps = []
    for x_t in x.bfloat16().unbind(1):
        y_t, state = rough.step(x_t, state)
        steps.append(y_t)
    error = (torch.stack(steps, 1) - wanted).abs().max()
    assert error < 2 * (at_once - wanted).abs().max() + 1e-3
    joined, _ = rough.chunk(x.bfloat16(), rough.initial_state(1))
    assert (joined - wanted).abs().max() < 2 * (at_once - wanted).abs().max() + 1e-3
