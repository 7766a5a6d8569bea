"""Artificial hippocampus networks (arXiv 2510.07318): what is read exactly, what is remembered, that the state stops
growing, and that a trained model stays what it was while its memory learns."""

from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from anabranch.compress import distill_memory, teach_memory, with_memory
from anabranch.compress.distill_memory import divergence, fitting_windows
from anabranch.compress.trunk import trunk_of
from anabranch.models import LanguageHead, MetaFormer, Network, SinusoidalPositions
from anabranch.models.stems import ByteEmbed
from anabranch.nn.attention import HippocampalAttention, SoftmaxAttention, window_attention
from anabranch.nn.mixing import FlatFeedForward
from anabranch.nn.streaming import state_bytes
from anabranch.testing import check_causal, check_part, check_streaming

D, HEADS, WINDOW, SINKS = 8, 2, 4, 2
KEPT, SIZE = WINDOW + SINKS, D // HEADS
memories = pytest.mark.parametrize("memory", ["gdn", "delta", "mamba2"])


def part(**options):
    torch.manual_seed(0)
    made = HippocampalAttention(D, heads=HEADS, window=WINDOW, sinks=SINKS, **options)
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.5)
    return made.double()


def tokens(time=15, batch=2):
    return torch.randn(batch, time, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def plain(attention):
    """The softmax attention with the same weights."""
    made = SoftmaxAttention(D, heads=HEADS, causal=True).double()
    made.load_state_dict({name: value for name, value in attention.state_dict().items() if name in made.state_dict()})
    return made


def with_gates(attention, **fixed):
    """The same attention, with gates of the given value for every token."""
    attention.gates = lambda x, gates=attention.gates: gates(x)._replace(
        **{name: torch.full_like(gates(x).beta, value) for name, value in fixed.items()}
    )
    return attention


def by_definition(attention, x):
    """Token by token and head by head, from the paper's formulas."""
    query, key, value = attention.read(x, x)
    beta, g, gate = attention.gates(x)
    out = torch.zeros_like(query)
    for b in range(len(x)):
        for h in range(HEADS):
            H = torch.zeros(SIZE, SIZE, dtype=torch.float64)
            for t in range(x.shape[1]):
                s = t - WINDOW
                if s >= SINKS:
                    k, v = F.normalize(key[b, h, s], dim=0), value[b, h, s]
                    overwritten = 0 if attention.memory == "mamba2" else beta[b, h, s] * torch.outer(k, k)
                    H = g[b, h, s].exp() * H @ (torch.eye(SIZE).double() - overwritten)
                    H = H + beta[b, h, s] * torch.outer(v, k)
                seen = [j for j in range(t + 1) if j < SINKS or j > s]
                p = torch.softmax(key[b, h, seen] @ query[b, h, t] * SIZE**-0.5, 0)
                o = H @ F.normalize(query[b, h, t], dim=0)
                o = attention.norm(o) * F.silu(gate[b, h, t]) @ attention.from_memory[h]
                out[b, h, t] = p @ value[b, h, seen] + o
    return attention.project(out)


@memories
def test_it_is_the_papers_formulas(memory):
    attention, x = part(memory=memory), tokens()
    torch.testing.assert_close(attention(x), by_definition(attention, x))


def test_the_three_memories_differ_by_forgetting_and_by_overwriting():
    x = tokens()
    gated = part(memory="gdn")
    for memory in ("delta", "mamba2"):
        other = part(memory=memory)
        other.load_state_dict(gated.state_dict(), strict=False)
        assert not torch.allclose(other(x), gated(x))
    unforgetting = part(memory="delta")
    unforgetting.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(with_gates(gated, log_decay=0.0)(x), unforgetting(x))


def test_while_nothing_has_left_the_window_it_is_full_attention_bit_for_bit():
    attention, x = part(), tokens(KEPT)
    assert torch.equal(attention(x), plain(attention)(x))
    longer = tokens(KEPT + 1)
    torch.testing.assert_close(attention(longer)[:, :KEPT], plain(attention)(longer)[:, :KEPT])
    assert not torch.allclose(attention(longer), plain(attention)(longer))


@memories
def test_without_writing_only_first_and_newest_tokens_are_read(memory):
    attention, x = with_gates(part(memory=memory), beta=0.0), tokens()
    query, key, value = attention.read(x, x)
    t, s = torch.arange(15)[:, None], torch.arange(15)
    seen = (s <= t) & ((s < SINKS) | (s > t - WINDOW))
    expected = attention.project(F.scaled_dot_product_attention(query, key, value, attn_mask=seen))
    torch.testing.assert_close(attention(x), expected)


def test_orthonormal_keys_are_recalled_exactly_if_all_is_written_and_nothing_forgotten():
    attention = with_gates(part(), beta=1.0, log_decay=0.0)
    key, value = torch.linalg.qr(torch.randn(SIZE, SIZE).double()).Q, torch.randn(SIZE, SIZE).double()
    keys = torch.cat([key, torch.randn(WINDOW, SIZE).double()]).expand(1, HEADS, -1, -1)
    values = torch.cat([value, torch.randn(WINDOW, SIZE).double()]).expand(1, HEADS, -1, -1)
    attention.sinks, gates = 0, attention.gates(tokens(SIZE + WINDOW, 1))
    _, H = attention.remember(torch.zeros_like(keys), keys, values, gates)
    torch.testing.assert_close(key @ H[0, 0].mT, value)


def test_the_memory_holds_exactly_what_has_left_the_window_when_a_token_reads():
    attention, x = part(), tokens(KEPT + 3)
    attention.gates = lambda x, gates=attention.gates: gates(x)._replace(read=1 + 0 * gates(x).read)
    query, key, value = attention.read(x, x)

    def remembered(place):
        """Whether each token reads the one at that place from the memory."""
        other = value.clone()
        other[:, :, place] += 1
        changed = attention.remember(query, key, other, attention.gates(x))[0]
        return (changed != attention.remember(query, key, value, attention.gates(x))[0]).any(-1).any(1).any(0)

    for s in range(x.shape[1]):
        reading = torch.arange(x.shape[1]) >= max(s + WINDOW, KEPT)
        assert torch.equal(remembered(s), reading & (s >= SINKS))


@pytest.mark.parametrize("memory, sinks", [("gdn", SINKS), ("delta", SINKS), ("mamba2", 0)])
def test_a_stream_is_the_whole_however_it_is_cut_and_its_state_stops_growing(memory, sinks):
    attention, x = part(memory=memory), tokens(12)
    attention.sinks = sinks
    kept, gates = WINDOW + sinks, 1 if memory == "delta" else 2
    bound = 2 * (2 * kept * D + gates * kept * HEADS + D * SIZE) * 8
    check_streaming(attention, x, bound=bound, cuts=2)
    state, sizes = attention.initial_state(2), []
    for x_t in tokens(20).unbind(1):
        _, state = attention.step(x_t, state)
        sizes.append(state_bytes(state))
    assert sizes[kept - 1 :] == [bound] * (20 - kept + 1) and sizes[0] < bound


@pytest.mark.parametrize("options", [{"window": 3, "sinks": 2}, {"window": 1, "sinks": 0}])
@pytest.mark.parametrize("new", [1, 2, 9, 21])
def test_attention_in_blocks_is_attention_under_a_mask(options, new):
    query, key, value = (torch.randn(2, HEADS, 21, SIZE, dtype=torch.float64) for _ in range(3))
    t, s = torch.arange(21)[:, None], torch.arange(21)
    seen = (s <= t) & ((s < options["sinks"]) | (s > t - options["window"]))
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)[:, :, -new:]
    torch.testing.assert_close(window_attention(query[:, :, -new:], key, value, **options), expected)
    exists = torch.rand(2, 21) < 0.7
    exists[0, 0], exists[1, :6] = True, False  # a row with nothing to read, and one that always has something
    masked = seen & exists[:, None, None]
    weights = (query @ key.mT * SIZE**-0.5).masked_fill(~masked, -torch.inf).softmax(-1).nan_to_num()
    given = window_attention(query[:, :, -new:], key, value, exists=exists, **options)
    torch.testing.assert_close(given, (weights @ value)[:, :, -new:])


def test_around_a_trained_attention_its_weights_stay_as_they_are():
    torch.manual_seed(0)
    attention = SoftmaxAttention(D, heads=HEADS, causal=True).double()
    before = deepcopy(attention.state_dict())
    made = HippocampalAttention.around(attention, window=WINDOW, sinks=SINKS)
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        made(tokens()).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in attention.state_dict().items())
    assert all(p.grad is not None and p.grad.any() for p in made.parameters() if p.requires_grad)
    x = tokens(KEPT)
    assert torch.equal(made(x), attention(x))


def test_padding_is_neither_read_nor_written():
    attention, x = part(), tokens()
    mask = torch.ones(2, 15, dtype=torch.bool)
    mask[:, [0, 3, 4, 9]] = False
    other = torch.where(mask[..., None], x, 7.0)
    torch.testing.assert_close(attention(other, mask=mask)[mask], attention(x, mask=mask)[mask])
    assert attention(x, mask=~mask & mask).isfinite().all()


@memories
def test_it_keeps_the_laws_of_every_part(memory):
    check_part(
        lambda: HippocampalAttention(D, heads=HEADS, window=WINDOW, sinks=SINKS, memory=memory), tokens().float()
    )
    check_causal(part(memory=memory), tokens(9))


@pytest.mark.usefixtures("unchecked")
def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="window >= 1"):
        HippocampalAttention(D, window=0)
    with pytest.raises(ValueError, match="gdn, delta, mamba2"):
        HippocampalAttention(D, memory="lstm")  # pyright: ignore


TIME, WORDS = 32, 11
SKELETONS = {
    "prenorm": {},
    "postnorm, rms, gated, sines for positions": {
        "block": "postnorm",
        "norm": "rmsnorm",
        "channel": "gated-mlp",
        "positions": SinusoidalPositions,
    },
    "macaron, no positions": {"block": "macaron", "positions": None},
}
skeletons = pytest.mark.parametrize("options", SKELETONS.values(), ids=SKELETONS)


def model(positions="learned", **slots):
    torch.manual_seed(0)
    options = {} if positions == "learned" else {"positions": positions}
    stem = ByteEmbed(D, length=TIME, vocabulary=WORDS, **options)
    made = Network(stem, MetaFormer(D, 2, causal=True, **slots), LanguageHead(D, WORDS)).double()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return made


def text(batch=4, time=TIME):
    return torch.randint(WORDS, (batch, time), generator=torch.Generator().manual_seed(1))


@skeletons
def test_distillation_leaves_model_and_base_weights_bit_for_bit_and_the_student_streams_past_its_window(options):
    original = model(**options).train()
    before = deepcopy(original.state_dict())
    student, report = distill_memory(original, [text()], window=8, sinks=2, steps=4, rate=0.1)
    now = original.state_dict()
    assert all(torch.equal(now[name], value) for name, value in before.items())
    assert all(p.requires_grad for p in original.parameters()) and all(m.training for m in original.modules())
    theirs = student.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in before.items())
    owned = {t.untyped_storage().data_ptr() for t in now.values()}
    assert owned.isdisjoint(t.untyped_storage().data_ptr() for t in theirs.values())
    trained = {name for name, p in student.named_parameters() if p.requires_grad}
    assert trained == theirs.keys() - before.keys() and len(report.replaced) == 2
    assert report.parameters == sum(theirs[name].numel() for name in trained)
    assert all(theirs[name].any() for name in trained if name.endswith("from_memory"))

    whole, pieces, state = student(text()), [], student.initial_state(4)
    for word in text().unbind(1):
        y, state = student.step(word, state)
        pieces.append(y)
    torch.testing.assert_close(torch.stack(pieces, 1), whole, rtol=0, atol=1e-9)
    y, state = student.chunk(text()[:, :13], student.initial_state(4))
    torch.testing.assert_close(torch.cat([y, student.chunk(text()[:, 13:], state)[0]], 1), whole, rtol=0, atol=1e-9)
    assert not torch.allclose(whole, original.eval()(text()))  # the window matters here


@pytest.mark.parametrize("memory", ["gdn", "mamba2"])
def test_a_memory_learns_what_its_model_says_with_all_tokens_in_view(memory):
    teacher = model().eval()
    student = with_memory(teacher, partial(HippocampalAttention.around, window=4, sinks=2, memory=memory))
    words = text(2, 16)
    before = divergence(student(words), teacher(words), 4).mean()
    teach_memory(student, teacher, [words], steps=40, rate=0.03)
    assert divergence(student(words), teacher(words), 4).mean() < 0.7 * before


def test_before_it_learns_the_student_has_the_window_and_the_sinks_alone():
    teacher = model().eval()
    student = with_memory(teacher, partial(HippocampalAttention.around, window=8, sinks=2))
    given = student(text())
    torch.testing.assert_close(given[:, :10], teacher(text())[:, :10])
    for attention in teacher.modules():
        if isinstance(attention, SoftmaxAttention):
            cut = partial(window_attention, window=8, sinks=2)
            attention.mix = lambda x, *_, a=attention, cut=cut: a.project(cut(*a.read(x, x)))
    torch.testing.assert_close(teacher(text()), given)


def test_windows_are_drawn_from_the_powers_of_two_from_an_eighth_of_the_length_on():
    assert fitting_windows(512, 4) == [64, 128, 256] and fitting_windows(100, 4) == [16, 32, 64]
    assert fitting_windows(2, 4) == [1] and fitting_windows(9, 4) == [2, 4]  # 8 and 4 sinks would keep everything
    student, report = distill_memory(model(), [text()], window=8, sinks=4, steps=8)
    assert set(report.windows) == {4, 8, 16} and len(report.losses) == 8
    parts = [part for part in student.modules() if isinstance(part, HippocampalAttention)]
    assert all((part.window, part.sinks) == (8, 4) for part in parts)


@pytest.mark.parametrize("memory", ["gdn", "delta"])
def test_the_report_counts_the_bytes_that_streams_hold(memory):
    teacher = model()
    student, report = distill_memory(teacher, [text()], window=8, sinks=2, memory=memory, steps=1)
    assert report.cache_before == 2 * 2 * TIME * D * 8
    gates = 1 if memory == "delta" else 2
    assert report.cache_after == 2 * (2 * 10 * D + gates * 10 * 4 + D * D // 4) * 8
    state = trunk_of(student).chunk(torch.randn(1, 100, D).double(), trunk_of(student).initial_state(1))[1]
    assert state_bytes(state) == report.cache_after and 0 < report.cut < 1
    assert report.seconds.before > 0 and report.seconds.after > 0


def test_an_attention_that_blocks_share_stays_shared_and_other_mixers_stay():
    shared = model()
    blocks = shared.trunk.blocks
    blocks[1].mixer = blocks[0].mixer
    student = with_memory(shared, partial(HippocampalAttention.around, window=8))
    first, second = (block.mixer for block in trunk_of(student).blocks)
    assert first is second and isinstance(first, HippocampalAttention)
    mixed = model(mixer=lambda dim, depth: [SoftmaxAttention(dim, causal=True), HippocampalAttention(dim)][depth])
    report = distill_memory(mixed, [text()], window=8, steps=1).report
    assert report.replaced == ("trunk.stages.0.0.mixer",)


@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_distilled_is_refused():
    with pytest.raises(ValueError, match="at most half the window of 8"):
        distill_memory(model(), [text()], window=8, sinks=5)
    with pytest.raises(ValueError, match="at least 1 step"):
        distill_memory(model(), [text()], window=8, steps=0)
    with pytest.raises(ValueError, match="causal SoftmaxAttention"):
        distill_memory(model(mixer="linear-attention"), [text()], window=8)
    with pytest.raises(ValueError, match="batches that can be begun anew"):
        distill_memory(model(), (batch for batch in [text()]), window=8, steps=2)


def test_the_seed_fixes_the_whole_result():
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        original = model()
        torch.set_rng_state(before)
        found.append(distill_memory(original, [text()], window=8, sinks=2, steps=2, seed=3).report.losses)
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]


def test_what_cannot_be_measured_is_refused_before_anything_is_learned():
    taken = []

    def batches():
        while True:
            taken.append(1)
            yield text()

    still = FlatFeedForward(D, length=TIME, causal=True)
    for mixer, context, match in (
        (partial(SoftmaxAttention, max_len=TIME), TIME, "at most 32 tokens while streaming; got 33"),
        (partial(SoftmaxAttention, max_len=16), None, "at most 16 tokens while streaming; got 32"),
        (
            lambda dim, depth: [SoftmaxAttention(dim, causal=True), still][depth],
            None,
            "all stream; got some with FlatFeed",
        ),
    ):
        taken.clear()
        with pytest.raises(ValueError, match=match):
            distill_memory(model(mixer=mixer), batches(), window=8, sinks=2, steps=7, context=context)
        assert len(taken) <= 1
    held = model(mixer=partial(SoftmaxAttention, max_len=17))
    assert distill_memory(held, batches(), window=8, sinks=2, steps=1, context=16).report.context == 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_memory_in_half_precision_learns_in_float32(dtype):
    original = model().to(dtype)
    single = deepcopy(original).float()
    (student, report), (_, expected) = (
        distill_memory(each, [text()], window=8, sinks=2, steps=12, rate=0.03) for each in (original, single)
    )
    assert report.losses == pytest.approx(expected.losses, rel=0.1) and report.losses[-1] < report.losses[0]
    now = student.state_dict()
    assert all(torch.equal(now[name], value) for name, value in original.state_dict().items())
    assert {p.dtype for p in student.parameters()} == {dtype} and student(text()).isfinite().all()


def test_a_divergence_that_is_not_finite_is_named():
    broken = model()
    broken.head.linear.weight.data.fill_(torch.inf)
    with pytest.raises(FloatingPointError, match=r"got nan at step 0 of the memories trunk.stages.0.0.mixer"):
        distill_memory(broken, [text()], window=8, sinks=2, steps=2)
