"""Every token mixer of the catalog keeps the laws of :class:`anabranch.nn.mixing.TokenMixer`."""

import inspect
import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anabranch import slots
from anabranch.catalog import parts
from anabranch.nn.mixing import TokenMixer
from anabranch.nn.streaming import state_bytes
from anabranch.slots import fill
from anabranch.testing import check_causal, check_compile, check_padding, check_part, check_streaming

DIM, TIME = 8, 6
few = settings(max_examples=8, deadline=None, derandomize=True)


def build(name, causal, time=TIME, dim=DIM, seed: int | None = 0, **facts):
    if seed is not None:  # the law of saved states needs parts that start out different
        torch.manual_seed(seed)
    return fill("mixer", name, dim=dim, causal=causal, length=time, depth=0, **facts)


# A mixer that can be causal is tested in both ways.
VARIANTS = [
    (name, causal) for name in parts("mixer") for causal in (False, True) if build(name, causal).causal == causal
]
IDS = [f"{name}-causal" if causal else name for name, causal in VARIANTS]
each = pytest.mark.parametrize("name, causal", VARIANTS, ids=IDS)


def tokens(batch=3, time=TIME, dim=DIM, seed=0):
    return torch.randn(batch, time, dim, generator=torch.Generator().manual_seed(seed))


@each
def test_it_is_a_mixer_and_keeps_the_laws_of_every_part(name, causal):
    assert isinstance(build(name, causal), TokenMixer)
    torch.manual_seed(0)
    check_part(partial(build, name, causal, seed=None), tokens())


@each
def test_it_takes_one_token_and_any_number_of_samples(name, causal):
    for batch, time in ((1, 1), (2, 1), (1, 7), (0, 7)):
        part, x = build(name, causal, time), tokens(batch, time)
        y = part(x)
        assert y.shape == x.shape
        assert y.isfinite().all()


@each
def test_no_token_at_all_is_an_error(name, causal):
    part = build(name, causal)
    with pytest.raises(ValueError, match=r"expected at least one token; got \(2, 0, 8\)"):
        part(tokens(2, 0))
    if part.cross:
        with pytest.raises(ValueError, match=r"at least one token; got \(2, 6, 8\) and \(2, 0, 8\)"):
            part(tokens(2), context=tokens(2, 0))


@each
@few
@given(seed=st.integers(0, 1000), time=st.integers(1, 9))
def test_tokens_that_do_not_exist_change_nothing(name, causal, seed, time):
    part, x = build(name, causal, time).double().eval(), tokens(time=time, seed=seed).double()
    mask = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(seed)) < 0.6
    other = torch.where(mask[..., None], x, 100 * tokens(time=time, seed=seed + 1).double())
    torch.testing.assert_close(part(x, mask=mask)[mask], part(other, mask=mask)[mask])


@each
def test_padding_behind_a_row_is_as_if_it_were_cut_off(name, causal):
    part = build(name, causal)
    if part.fixed_length:
        pytest.skip("works for one number of tokens only")
    check_padding(part, tokens())


@each
def test_a_row_without_tokens_gives_numbers_and_gradients(name, causal):
    part, x = build(name, causal), tokens().requires_grad_()
    mask = torch.ones(3, TIME, dtype=torch.bool)
    mask[0] = False
    y = part(x, mask=mask)
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad is not None
    assert all(p.grad.isfinite().all() for p in [x, *part.parameters()] if p.grad is not None)


@each
def test_a_mask_of_existing_tokens_is_no_mask(name, causal):
    part, x = build(name, causal).double().eval(), tokens().double()
    torch.testing.assert_close(part(x, mask=torch.ones(3, TIME, dtype=torch.bool)), part(x))


@each
def test_it_sees_the_future_exactly_if_it_is_not_causal(name, causal):
    part, x = build(name, causal).double().eval(), tokens().double()
    if part.causal:
        check_causal(part, x)
        return
    other = x.clone()
    other[:, -1] += tokens()[:, 0]
    assert not torch.allclose(part(x)[:, :-1], part(other)[:, :-1])


@each
def test_it_streams_what_it_computes_for_whole_sequences(name, causal):
    part, most = short(build(name, causal))
    if part.streams:
        # A state that grows with the stream must say up to how many tokens.
        check_streaming(part, tokens(), bound=None if most is None else 3 * most * 2 * DIM * 8)
    elif causal:
        with pytest.raises(NotImplementedError, match="cannot stream"):
            part.initial_state(3)


def short(part):
    """A part made to hold no more than ``TIME`` tokens, where it can be told, and how many it then holds."""
    if vars(part).get("max_len", 0) > TIME:
        part.max_len = TIME
    return part, getattr(part, "max_len", None)


@each
def test_a_state_that_grows_reaches_its_bound_and_no_more(name, causal):
    part, most = short(build(name, causal))
    if not part.streams or most is None:
        return
    state, held = part.initial_state(1), []
    for x_t in tokens(1, 2 * most).unbind(1):
        if len(held) == most:
            try:
                part.step(x_t, state)
            except ValueError as error:
                assert str(most) in str(error)
                break
        _, state = part.step(x_t, state)
        held.append(state_bytes(state) / 4)
    assert most * DIM < max(held) <= most * 2 * DIM


@each
def test_a_permutation_of_the_tokens_permutes_the_output_exactly_if_declared(name, causal):
    part, x = build(name, causal).double().eval(), tokens().double()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(part(x[:, order]), part(x)[:, order]) == part.equivariant


@each
def test_it_works_for_the_numbers_of_tokens_that_it_declares(name, causal):
    part = build(name, causal)
    assert part.longest in (None, TIME)
    for time in (TIME - 1, TIME + 1):
        if part.fixed_length or (part.longest is not None and time > part.longest):
            with pytest.raises(ValueError, match=str(TIME)):
                part(tokens(time=time))
        else:
            assert part(tokens(time=time)).shape == (3, time, DIM)


@pytest.mark.parametrize("name", parts("mixer"))
def test_one_that_can_be_asked_to_be_causal_says_what_it_is(name):
    if "causal" in inspect.signature(slots.find_by_name("mixer", name)).parameters:
        assert [build(name, causal).causal for causal in (False, True)] == [False, True]


@each
def test_training_changes_its_buffers_exactly_if_a_pass_cannot_be_repeated(name, causal):
    part = build(name, causal).train()
    before = {key: buffer.clone() for key, buffer in part.named_buffers()}
    part(tokens())
    assert any(not torch.equal(b, before[key]) for key, b in part.named_buffers()) == (part.no_repeat is not None)


@each
def test_its_fast_form_is_its_mixing_matrix_times_the_values(name, causal):
    part, x = build(name, causal).double().eval(), tokens().double()
    if type(part).weights is TokenMixer.weights:
        with pytest.raises(NotImplementedError, match="no mixing matrix"):
            part.weights(x)
        return
    weights = part.weights(x)
    assert weights.shape[::2] == (3, TIME)
    torch.testing.assert_close(part.project(weights @ part.values(x)), part(x))
    if part.cross:
        context = tokens(time=4, seed=1).double()
        mixed = part.project(part.weights(x, context) @ part.values(context))
        torch.testing.assert_close(mixed, part(x, context=context))


@each
def test_it_reads_another_sequence_exactly_if_declared(name, causal):
    part, x, context = build(name, causal).double().eval(), tokens().double(), tokens(time=4, seed=1).double()
    if not part.cross:
        with pytest.raises(ValueError, match="cannot read a context"):
            part(x, context=context)
        return
    mask = torch.tensor([[True, True, True, False]] * 3)
    y = part(x, context=context, mask=mask)
    assert y.shape == x.shape
    torch.testing.assert_close(y, part(x, context=context[:, :3]))
    torch.testing.assert_close(part(x, context=x), part(x))


@each
def test_it_runs_on_a_grid(name, causal):
    part = build(name, causal, 12, grid=(3, 4))
    x = tokens(time=12)
    assert part(x, grid=(3, 4)).shape == x.shape
    mask = torch.arange(12) != 5
    other = x.clone()
    other[:, 5] = 100
    masks = mask.expand(3, 12)
    torch.testing.assert_close(part(x, grid=(3, 4), mask=masks)[masks], part(other, grid=(3, 4), mask=masks)[masks])


@each
def test_its_cost_covers_and_grows_like_the_multiplications_that_are_counted(name, causal):
    counted, declared = [], []
    for n in (64, 128):
        part = build(name, causal, n, dim=16)
        counter = FlopCounterMode(display=False)
        # Only the plain form of attention is made of operations that the counter knows on every device.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            part(tokens(1, n, 16))
        counted.append(counter.get_total_flops() / 2)
        declared.append(part.cost(n))
    if not any(counted):
        assert name in ("identity", "pool"), "what does not multiply matrices has no counted products"
        return
    assert 0.9 * counted[1] <= declared[1] <= 1.5 * counted[1]
    exponents = [math.log2(c[1] / c[0]) for c in (declared, counted)]
    assert exponents[0] == pytest.approx(exponents[1], abs=0.1)


LONG_SUMS = ["linear-attention", "performer", "flow-attention", "retention", "aaren", "hippocampal"]


@pytest.mark.parametrize("name, causal", [v for v in VARIANTS if v[0] in LONG_SUMS])
def test_float16_holds_what_many_tokens_add_up_to(name, causal):
    """A sum of 2048 products of 64 features is more than float16 can tell from infinity."""
    torch.manual_seed(0)
    part = fill("mixer", name, dim=64, heads=1, causal=causal).eval()
    x = 2 * tokens(1, 2048, 64) + 1  # tokens that have something in common, as they have in a trained model
    with torch.no_grad():
        wanted = part(x)
        size = (wanted - part.out.bias).abs().max()  # where sums overflow, the bias alone is left
        with torch.autocast("cpu", torch.float16):
            cast = part(x)
            streamed = part.chunk(x, part.initial_state(1))[0] if part.streams else cast
        part.half()
        halved = part(x.half())
        pieces = part.chunk(x.half(), part.initial_state(1))[0] if part.streams else halved
    for y in (cast, streamed, halved, pieces):
        assert (y.float() - wanted).abs().max() < 0.01 * size


@pytest.mark.parametrize(
    "name, causal, scale, facts",
    [
        ("performer", False, 10, {}),
        ("performer", True, 10, {}),
        ("flow-attention", False, 300, {}),
        ("flow-attention", True, 300, {}),
        ("retention", True, 30, {"decay": (1.0,)}),
    ],
)
def test_float16_takes_large_tokens(name, causal, scale, facts):
    torch.manual_seed(0)
    part = fill("mixer", name, dim=64, heads=1, causal=causal, **facts).eval()
    x = scale * (tokens(1, 2048, 64) + 0.5)
    with torch.no_grad():
        with torch.autocast("cpu", torch.float16):
            assert part(x).isfinite().all()
        assert part.half()(x.half()).isfinite().all()


@pytest.mark.parametrize("name, causal", [v for v in VARIANTS if v[0] in LONG_SUMS])
def test_float16_takes_tokens_of_zeros(name, causal):
    part = build(name, causal, bias=False).half()
    assert (part(tokens().half() * 0) == 0).all()


@pytest.mark.usefixtures("unchecked")
@each
def test_wrong_shapes_are_refused_with_what_was_expected(name, causal):
    part = build(name, causal)
    for wrong in (torch.zeros(2, TIME, DIM + 1), torch.zeros(TIME, DIM)):
        with pytest.raises(ValueError, match=rf"expected \(batch, time, {DIM}\)"):
            part(wrong)
    with pytest.raises(ValueError, match="one entry a token"):
        part(tokens(), mask=torch.ones(3, TIME + 1, dtype=torch.bool))
    with pytest.raises(ValueError, match="holds 4 tokens"):
        part(tokens(), grid=(2, 2))
    with pytest.raises(ValueError, match="dim must be at least 1"):
        build(name, causal, dim=0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@each
def test_it_compiles(name, causal):
    check_compile(partial(build, name, causal), tokens())
