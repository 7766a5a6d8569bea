"""Efficient transformers (arXiv 2103.14636): new models, each against what its paper says, token by token."""

import pytest
import torch

from anabranch.nn.attention import SoftmaxAttention
from anabranch.nn.attention.efficient import (
    BigBird,
    Compressive,
    DenseSynthesizer,
    Funnel,
    LogSparse,
    Longformer,
    RandomSynthesizer,
    SetInduced,
    SortedBlocks,
    Star,
    TransformerXL,
)
from support.attention import DIM, HEADS, TIME, build, hand_over, softmax_of, tokens

pytestmark = pytest.mark.usefixtures("seeded")


def under(mixer, readable, x):
    """Dense softmax attention under a pattern."""
    query, key, value = SoftmaxAttention.read(mixer, x, x)
    scores = (query @ key.mT * mixer.head_dim**-0.5).masked_fill(~readable, -torch.inf)
    return mixer.project(scores.softmax(-1) @ value)


def test_sorted_blocks_mixes_blocks_by_a_doubly_stochastic_matrix():
    mixer, x = build(SortedBlocks, length=TIME, block=3, iterations=200), tokens()
    query, key, value = mixer.read(x, x)
    blocks = x.unflatten(1, (4, 3))
    permutation = mixer.permutation(blocks, torch.ones(1, 4, 3, dtype=torch.bool))
    for axis in (-1, -2):
        torch.testing.assert_close(permutation.sum(axis), torch.ones(2, HEADS, 4).double())
    mixed = torch.zeros_like(value)
    for q in range(4):
        own = slice(3 * q, 3 * q + 3)
        keys, values = (
            torch.cat(
                [
                    part[:, :, own],
                    sum(permutation[:, :, q, k, None, None] * part[:, :, 3 * k : 3 * k + 3] for k in range(4)),
                ],
                2,
            )
            for part in (key, value)
        )
        mixed[:, :, own] = (query[:, :, own] @ keys.mT * mixer.head_dim**-0.5).softmax(-1) @ values
    torch.testing.assert_close(mixer(x), mixer.project(mixed))


@pytest.mark.parametrize("dilation", [1, 2, 3])
def test_longformer_reads_a_window_and_the_global_tokens(dilation):
    mixer, x = build(Longformer, window=2, dilation=dilation, globals=2), tokens()
    i, j = torch.arange(TIME)[:, None], torch.arange(TIME)
    readable = ((i - j).abs() <= 2 * dilation) & ((i - j) % dilation == 0) | (j < 2)
    torch.testing.assert_close(mixer(x)[:, 2:], under(mixer, readable, x)[:, 2:])
    everything = softmax_of(mixer)
    everything.query, everything.key_value = mixer.global_query, mixer.global_key_value
    torch.testing.assert_close(mixer(x)[:, :2], everything(x)[:, :2])


def test_big_bird_reads_neighbours_the_first_block_and_drawn_ones():
    mixer, x = build(BigBird, length=20, block=2, drawn=2), tokens(20)
    torch.testing.assert_close(mixer(x), under(mixer, mixer.readable(), x))
    blocks = mixer.readable()[::2, ::2]
    assert blocks[0].all()
    for q in range(1, 10):
        always = {0, q - 1, q, q + 1} & set(range(10))
        read = set(blocks[q].nonzero()[:, 0].tolist())
        assert always <= read
        assert len(read - always) == 2
    assert len({tuple(row) for row in blocks.tolist()}) == 10


def test_log_sparse_reads_at_powers_of_two_and_reaches_all_in_few_steps():
    mixer, x = build(LogSparse), tokens(33)
    readable = mixer.readable(33)
    assert readable[32].nonzero()[:, 0].tolist() == [0, 16, 24, 28, 30, 31, 32]
    torch.testing.assert_close(mixer(x), under(mixer, readable, x))
    step = readable.double()
    assert torch.equal(torch.linalg.matrix_power(step, 5) > 0, torch.ones(33, 33, dtype=torch.bool).tril())


def test_star_reads_neighbours_in_a_ring_and_the_hub():
    mixer, x = build(Star), tokens()
    hub = mixer.hub(x.mean(1, keepdim=True), context=x)
    both = torch.cat([x, hub], 1)
    i, j = torch.arange(TIME)[:, None], torch.arange(TIME)
    ring = torch.isin((i - j) % TIME, torch.tensor([0, 1, TIME - 1]))
    query, key, value = SoftmaxAttention.read(mixer, x, both)
    readable = torch.cat([ring, torch.ones(TIME, 1, dtype=torch.bool)], 1)
    scores = (query @ key.mT * mixer.head_dim**-0.5).masked_fill(~readable, -torch.inf)
    torch.testing.assert_close(mixer(x), mixer.project(scores.softmax(-1) @ value))


def test_a_random_synthesizer_ignores_the_tokens_and_a_dense_one_all_but_the_reader():
    x, other = tokens(), tokens().clone()
    other[:, 3] += 1
    random, dense = build(RandomSynthesizer, length=TIME), build(DenseSynthesizer, length=TIME)
    assert torch.equal(random.weights(x), random.weights(other))
    changed = (dense.weights(x) - dense.weights(other)).abs().amax((0, 1, 3))
    assert changed.nonzero().tolist() == [[3]]
    torch.nn.init.zeros_(random.matrix)
    torch.testing.assert_close(random(x), random.out(random.value(x).mean(1, keepdim=True)).expand_as(x))


def test_transformer_xl_scores_by_content_and_distance():
    mixer, x = build(TransformerXL, segment=4), tokens()
    for bias in (mixer.content_bias, mixer.distance_bias):
        torch.nn.init.normal_(bias)
    query, key, value = mixer.read(x, x)
    far, mixed = mixer.distances(), torch.zeros_like(value)
    for i in range(TIME):
        read = range(max(0, i // 4 - 1) * 4, i + 1)
        scores = torch.stack(
            [
                ((query[:, :, i] + mixer.content_bias[:, 0]) * key[:, :, j]).sum(-1)
                + ((query[:, :, i] + mixer.distance_bias[:, 0]) * far[:, i - j]).sum(-1)
                for j in read
            ],
            -1,
        )
        weights = (scores * mixer.head_dim**-0.5).softmax(-1)
        mixed[:, :, i] = (weights[..., None] * value[:, :, read.start : i + 1]).sum(2)
    torch.testing.assert_close(mixer(x), mixer.project(mixed))


def test_what_transformer_xl_holds_while_streaming_stays_within_two_segments():
    mixer, held = build(TransformerXL, segment=4), []
    state = mixer.initial_state(2)
    for x_t in tokens(23).unbind(1):
        _, state = mixer.step(x_t, state)
        held.append(state["key"].shape[2])
    assert max(held) == 7
    assert held[-4:] == [4, 5, 6, 7]


def test_compressive_reads_two_segments_and_squeezed_ones_before():
    mixer, x = build(Compressive, segment=2, rate=2, kept=2), tokens()
    squeezed = mixer.squeeze(x.unflatten(1, (6, 2)).flatten(2))
    query, key, value = mixer.read(x, x)
    _, old_key, old_value = mixer.read(x, squeezed)
    mixed = torch.zeros_like(value)
    for i in range(TIME):
        q = i // 2
        near, old = slice(max(0, q - 1) * 2, i + 1), slice(max(0, q - 3), max(0, q - 1))
        keys = torch.cat([key[:, :, near], old_key[:, :, old]], 2)
        values = torch.cat([value[:, :, near], old_value[:, :, old]], 2)
        weights = (query[:, :, i, None] @ keys.mT * mixer.head_dim**-0.5).softmax(-1)
        mixed[:, :, i] = (weights @ values)[:, :, 0]
    torch.testing.assert_close(mixer(x), mixer.project(mixed))


def test_induced_points_are_all_that_tokens_see_of_each_other():
    mixer, x = SetInduced(DIM, heads=HEADS, points=1).double(), tokens()
    point = mixer.gather(mixer.points.expand(2, -1, -1), context=x)
    torch.testing.assert_close(mixer(x), mixer.spread.project(mixer.spread.values(point).expand(-1, -1, TIME, -1)))
    many = SetInduced(DIM, heads=HEADS, points=5).double()
    cut = many.spread(x, context=many.gather(many.points.expand(2, -1, -1), context=x[:, :6]))
    torch.testing.assert_close(many(x, context=x[:, :6]), cut)


def test_funnel_asks_once_for_every_group():
    mixer, x = build(Funnel, stride=3), tokens()
    y = mixer(x).unflatten(1, (4, 3))
    torch.testing.assert_close(y[:, :, 1:], y[:, :, :1].expand(-1, -1, 2, -1))
    torch.testing.assert_close(y[:, :, 0], softmax_of(mixer)(x.unflatten(1, (4, 3)).mean(2), context=x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_longformer_agrees_with_transformers():
    peers = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    mixer, x = Longformer(DIM, heads=HEADS, window=2, globals=1), tokens().float()
    config = peers.LongformerConfig(hidden_size=DIM, num_attention_heads=HEADS, attention_window=[4])
    peer = peers.LongformerSelfAttention(config, layer_id=0).eval()
    hand_over(mixer, peer)
    hand_over(mixer, peer, "global_", "_global")
    mask = torch.zeros(2, TIME)
    mask[:, 0] = 1e4  # how the peer marks a global token
    facts = {"is_index_masked": mask < 0, "is_index_global_attn": mask > 0, "is_global_attn": True}
    torch.testing.assert_close(mixer(x), peer(x, attention_mask=mask, **facts)[0], rtol=1e-4, atol=1e-5)
