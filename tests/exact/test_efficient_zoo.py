"""Efficient transformers (arXiv 2103.14636): the limit in which each mixer is softmax attention, and approximations."""

import copy
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F

from anabranch.nn.attention.efficient import (
    BigBird,
    Chunked,
    Clustered,
    Compressive,
    Funnel,
    Linformer,
    LogSparse,
    Longformer,
    Nystrom,
    Performer,
    PositiveFeatures,
    ProbSparse,
    RandomSynthesizer,
    Reformer,
    Routing,
    SetInduced,
    SortedBlocks,
    TransformerXL,
)
from support.attention import DIM, HEADS, TIME, build, hand_over, softmax_of, tokens

pytestmark = pytest.mark.usefixtures("seeded")


def linformer():
    mixer = build(Linformer, length=TIME, projected=TIME)
    with torch.no_grad():
        mixer.shorten_key.copy_(torch.eye(TIME))
        mixer.shorten_value.copy_(torch.eye(TIME))
    return mixer


def transformer_xl():
    mixer = build(TransformerXL, segment=TIME)
    torch.nn.init.zeros_(mixer.distance.weight)
    return mixer


LIMITS = {
    "linformer": linformer,
    "nystrom": partial(build, Nystrom, landmarks=TIME, iterations=60),
    "clustered": partial(build, Clustered, clusters=TIME),
    "sorted-blocks": partial(build, SortedBlocks, length=TIME, block=TIME),
    "longformer": partial(build, Longformer, window=TIME, globals=0),
    "longformer, dilated": partial(build, Longformer, window=TIME, dilation=1, globals=0),
    "big-bird": partial(build, BigBird, length=TIME, block=2, drawn=TIME),
    "log-sparse": partial(build, LogSparse, local=TIME),
    "transformer-xl": transformer_xl,
    "compressive": partial(build, Compressive, segment=TIME),
    "funnel": partial(build, Funnel, stride=1),
    "prob-sparse": partial(build, ProbSparse, factor=TIME),
    "chunked": partial(build, Chunked, chunk=5),
    "chunked, causal": partial(build, Chunked, chunk=5, causal=True),
}
AWAY = {  # the same mixer, away from its limit
    "linformer": partial(build, Linformer, length=TIME, projected=4),
    "nystrom": partial(build, Nystrom, landmarks=4),
    "clustered": partial(build, Clustered, clusters=4),
    "sorted-blocks": partial(build, SortedBlocks, length=TIME, block=4),
    "longformer": partial(build, Longformer, window=2, globals=0),
    "longformer, dilated": partial(build, Longformer, window=2, dilation=2, globals=0),
    "big-bird": partial(build, BigBird, length=TIME, block=2, drawn=1),
    "log-sparse": partial(build, LogSparse),
    "transformer-xl": partial(build, TransformerXL, segment=3),
    "compressive": partial(build, Compressive, segment=2),
    "funnel": partial(build, Funnel, stride=3),
    "prob-sparse": partial(build, ProbSparse, factor=1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_in_its_limit_it_is_softmax_attention(name):
    mixer, x = LIMITS[name](), tokens()
    wanted = softmax_of(mixer, mixer.causal)(x)
    torch.testing.assert_close(mixer(x), wanted, rtol=1e-7, atol=1e-7)
    if name in AWAY:
        away = AWAY[name]()
        assert (away(x) - softmax_of(away, away.causal)(x)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_many_chunks_are_as_exact_in_half_precision_as_one(kind):
    x, errors = torch.randn(1, 1024, DIM), []
    mixer = Chunked(DIM, heads=HEADS, chunk=16)
    wanted = mixer(x)
    for chunk in (16, 1024):
        mixer.chunk_size = chunk
        errors.append((copy.deepcopy(mixer).to(kind)(x.to(kind)) - wanted).norm())
    assert errors[0] < 1.2 * errors[1]


def test_features_of_the_performer_estimate_the_exponential_without_bias_and_with_error_of_slope_half():
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(2, 30, 4, generator=generator) * 0.3
    wanted = (x * y).sum(-1).exp()

    def error(features, draws=60):
        found = []
        for _ in range(draws):
            phi = PositiveFeatures(4, features)
            found.append((phi(x) * phi(y)).sum(-1))
        found = torch.stack(found)
        return (found - wanted).square().mean().sqrt().item(), (found.mean(0) / wanted - 1).abs().max().item()

    sizes = (4, 16, 64, 256)
    errors = [error(size)[0] for size in sizes]
    slope = (math.log(errors[-1]) - math.log(errors[0])) / math.log(sizes[-1] / sizes[0])
    assert slope == pytest.approx(-0.5, abs=0.1)
    assert error(256, 200)[1] < 0.05


def test_the_performer_approaches_softmax_attention():
    x, errors = tokens() / 2, []
    for features in (4, 4096):
        torch.manual_seed(0)
        mixer = build(Performer, features=features)
        errors.append((mixer(x) - softmax_of(mixer)(x)).abs().max().item())
    assert errors[1] < 0.03 < errors[0]


@pytest.mark.parametrize("scale", [1, 12, 50])
def test_the_performer_reads_keys_of_any_length(scale):
    mixer, x = build(Performer), scale * tokens()
    query, key, value = softmax_of(mixer).read(x, x)
    phi = mixer.feature_map
    query, key = (phi.exponent(part * mixer.head_dim**-0.25) for part in (query, key))
    exists = torch.arange(TIME) % 3 > 0
    for mask in (torch.ones(TIME, dtype=torch.bool), exists):
        log = (query[:, :, :, None] + key[:, :, None]).logsumexp(-1)
        wanted = mixer.project(log.masked_fill(~mask, -torch.inf).softmax(-1) @ value)
        # Hidden tokens with small keys would have by far the largest features.
        hidden = torch.where(mask[:, None], x, 0)
        torch.testing.assert_close(mixer(hidden, mask=mask.expand(2, -1))[:, mask], wanted[:, mask])
    mixer = mixer.float()
    mixer(x.float()).square().sum().backward()
    assert mixer.key_value.weight.grad.abs().max() > 1e-3


def test_directions_of_the_performer_are_orthogonal_within_a_block():
    directions = PositiveFeatures(4, 8).directions[:4]
    gram = directions @ directions.T
    torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=1e-5, atol=1e-5)


def shared_attention(mixer, x, readable):
    """Attention with shared queries and keys: oneself only where there is nothing else to read."""
    query, key, value = mixer.read(x, x)
    readable = readable & ~torch.eye(x.shape[1], dtype=torch.bool)
    readable = readable | (torch.eye(x.shape[1], dtype=torch.bool) & ~readable.any(-1, keepdim=True))
    scores = (query @ key.mT * mixer.head_dim**-0.5).masked_fill(~readable, -torch.inf)
    return scores, value


def test_distances_of_transformer_xl_are_as_exact_in_half_precision_as_its_weights():
    mixer = TransformerXL(64, segment=256).bfloat16()
    wanted = copy.deepcopy(mixer).float().distances()
    assert (mixer.distances() - wanted).norm() < 0.01 * wanted.norm()


def test_reformer_with_one_chunk_is_attention_with_shared_queries_and_keys():
    mixer, x = build(Reformer, chunk=TIME, rounds=3), tokens()
    scores, value = shared_attention(mixer, x, torch.ones(TIME, TIME, dtype=torch.bool))
    torch.testing.assert_close(mixer(x), mixer.project(scores.softmax(-1) @ value))
    torch.testing.assert_close(mixer(x[:, :1]), mixer.project(mixer.values(x[:, :1])))


def test_reformer_reads_by_hash_and_averages_its_rounds():
    """Token by token: a chunk of the sorted order and the one before, rounds weighted by their sums."""
    mixer, x, size = build(Reformer, chunk=3, buckets=4, rounds=2), tokens(10), 3
    _, key, _ = mixer.read(x, x)
    total, summed = 0, 0
    for r in range(2):
        readable = torch.zeros(2, HEADS, 10, 10, dtype=torch.bool)
        for b in range(2):
            for h in range(HEADS):
                along = key[b, h] @ mixer.directions[h, r]
                hashed = torch.cat([along, -along], -1).argmax(-1).tolist()
                order = sorted(range(10), key=lambda i, hashed=hashed: (hashed[i], i))
                chunk = {token: place // size for place, token in enumerate(order)}
                for i in range(10):
                    for j in range(10):
                        readable[b, h, i, j] = chunk[i] - 1 <= chunk[j] <= chunk[i]
        scores, value = shared_attention(mixer, x, readable)
        weights = scores.exp()
        total, summed = total + weights.sum(-1, keepdim=True), summed + weights @ value
    torch.testing.assert_close(mixer(x), mixer.project(summed / total))


def test_routing_with_one_window_for_all_is_attention_with_normalised_queries_and_keys():
    mixer, x = build(Routing, clusters=1, window=TIME), tokens()
    query, key, value = softmax_of(mixer).read(x, x)
    scores = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).mT * mixer.head_dim**0.5
    torch.testing.assert_close(mixer(x), mixer.project(scores.softmax(-1) @ value))


def test_routing_reads_within_clusters():
    mixer, x = build(Routing, clusters=3, window=4), tokens()
    query, key, value = mixer.read(x, x)
    mixed, count = torch.zeros_like(value), torch.zeros(2, HEADS, TIME, 1).double()
    for b in range(2):
        for h in range(HEADS):
            for centre in mixer.centres[h]:
                asks = (query[b, h] @ centre).argsort(descending=True)[:4]
                told = (key[b, h] @ centre).argsort(descending=True)[:4]
                weights = (query[b, h, asks] @ key[b, h, told].T * mixer.head_dim**-0.5).softmax(-1)
                mixed[b, h, asks] += weights @ value[b, h, told]
                count[b, h, asks] += 1
    torch.testing.assert_close(mixer(x), mixer.project(mixed / count.clamp(min=1)))


def test_centres_of_routing_follow_what_is_near_them_only_while_training():
    mixer, x = build(Routing, clusters=2, decay=0.0), tokens()
    before = mixer.centres.clone()
    mixer(x)
    assert torch.equal(mixer.centres, before)
    query, key, _ = mixer.read(x, x)
    near = F.normalize(torch.cat([query, key], 2), dim=-1).transpose(0, 1).flatten(1, 2)
    best = torch.einsum("hkd,hnd->hnk", before, near).argmax(-1)
    mixer.train()(x)
    for h in range(HEADS):
        for k in range(2):
            torch.testing.assert_close(mixer.centres[h, k], near[h, best[h] == k].mean(0))


def test_clusters_share_a_row():
    mixer, x = build(Clustered, clusters=3), tokens()
    for rows in mixer.weights(x).flatten(0, 1):
        assert len(rows.unique(dim=0)) <= 3
    # queries that are far apart are grouped as they lie, and equal ones get their own row exactly
    x = torch.cat([tokens(1) * 3] * 3 + [-tokens(1) * 3] * 3, 1)
    mixer = build(Clustered, clusters=2)
    torch.testing.assert_close(mixer(x), softmax_of(mixer)(x))


def test_prob_sparse_asks_for_the_queries_with_the_largest_measure():
    mixer, x = build(ProbSparse, factor=1.0), tokens()
    few = math.ceil(math.log(TIME))
    query, key, value = mixer.read(x, x)
    sample = key[:, :, [k * TIME // few for k in range(few)]]
    scores = query @ sample.mT
    measure = scores.amax(-1) - scores.mean(-1)
    full, mean = softmax_of(mixer).weights(x) @ value, value.mean(2)
    for b in range(2):
        for h in range(HEADS):
            asked = measure[b, h].argsort(descending=True)[:few].tolist()
            for i in range(TIME):
                wanted = full[b, h, i] if i in asked else mean[b, h]
                found = mixer.weights(x)[b, h, i] @ value[b, h]
                torch.testing.assert_close(found, wanted)


def test_chunked_keeps_no_matrix_for_the_gradient():
    def kept(mixer, n):
        held = {}  # every tensor once, and not freed, lest another takes its place
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t):
            mixer(tokens(n))
        return sum(t.numel() for t in held.values())

    chunked, plain = build(Chunked, chunk=64), build(Funnel, stride=1)
    assert kept(chunked, 256) < 0.2 * kept(plain, 256)
    assert kept(chunked, 512) < 2.2 * kept(chunked, 256)
    x = tokens(30).requires_grad_()
    small = build(Chunked, chunk=7)
    found = torch.autograd.grad(small(x).square().sum(), x)
    torch.testing.assert_close(found, torch.autograd.grad(softmax_of(small)(x).square().sum(), x))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nystrom_agrees_with_transformers():
    peers = pytest.importorskip("transformers.models.nystromformer.modeling_nystromformer")
    mixer, x = Nystrom(DIM, heads=HEADS, landmarks=4), tokens().float()
    sizes = {"hidden_size": DIM, "num_attention_heads": HEADS, "num_landmarks": 4, "segment_means_seq_len": TIME}
    peer = peers.NystromformerSelfAttention(peers.NystromformerConfig(**sizes)).eval()
    peer.conv_kernel_size, peer.init_option = None, "exact"  # no convolution beside; the start of equation 11 by head
    hand_over(mixer, peer)
    torch.testing.assert_close(mixer(x), peer(x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_options_that_make_no_sense_are_refused():
    for make, options in (
        (Linformer, {"length": 4, "projected": 0}),
        (Nystrom, {"landmarks": 0}),
        (Clustered, {"clusters": 0}),
        (Reformer, {"buckets": 3}),
        (Routing, {"window": 0}),
        (SortedBlocks, {"length": 4, "temperature": 0}),
        (Longformer, {"dilation": 0}),
        (BigBird, {"length": 4, "drawn": -1}),
        (LogSparse, {"local": 0}),
        (TransformerXL, {"segment": 0}),
        (Compressive, {"segment": 3, "rate": 2}),
        (SetInduced, {"points": 0}),
        (Funnel, {"stride": 0}),
        (ProbSparse, {"factor": 0}),
        (Chunked, {"chunk": 0}),
        (Performer, {"features": 0}),
        (RandomSynthesizer, {"length": 0}),
    ):
        with pytest.raises(ValueError, match=r"at least 1|>= |positive|even number|multiple|1 cluster"):
            make(DIM, **options)
    for mixer in (Linformer, BigBird, SortedBlocks, RandomSynthesizer):
        with pytest.raises(ValueError, match="built for 5 tokens; got 6"):
            mixer(DIM, length=5)(torch.zeros(1, 6, DIM))
