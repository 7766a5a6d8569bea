import copy
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from anabranch.errors import InputError
from anabranch.nn.attention import (
    Alignment,
    AlternatingCoAttention,
    Attend,
    AttentionPool,
    HierarchicalPool,
    ParallelCoAttention,
    SoftmaxAttention,
    WeighedRepresentations,
    entmax15,
    sparsemax,
)
from anabranch.nn.attention.distributions import DISTRIBUTIONS, hard
from anabranch.nn.attention.reach import REACHES
from anabranch.nn.attention.scores import SCORES
from anabranch.testing import check_causal, check_gradients, check_padding, check_shapes, check_streaming

DIM, HEADS, TIME = 8, 2, 6
BYTES = 3 * TIME * 2 * DIM * 8  # keys and values of three samples, in float64
COMBINATIONS = list(product(SCORES, DISTRIBUTIONS, REACHES))


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attend(seed: int | None = 0, **options):
    if seed is not None:
        torch.manual_seed(seed)
    return Attend(DIM, heads=HEADS, **({"window": 2, "length": TIME} | options)).double()


def query_key(source=5):
    return randn(2, HEADS, TIME, 4), randn(2, HEADS, source, 4, seed=1)


def score_of(name, **options):
    torch.manual_seed(0)
    return SCORES[name](4, heads=HEADS, **options).double()


# --- Every combination keeps the contract.


PAIRS = [
    *((score, "softmax", "global") for score in SCORES),
    *(
        ("scaled", distribute, reach)
        for distribute, reach in product(DISTRIBUTIONS, REACHES)
        if distribute != "hard" and (distribute, reach) != ("softmax", "global")
    ),
]


@pytest.mark.parametrize(
    "score, distribute, reach, causal",
    [
        pytest.param(*c, causal, marks=[pytest.mark.slow] if causal and c not in PAIRS else [])
        for c, causal in product(COMBINATIONS, (False, True))
    ],
)
def test_every_combination_is_a_token_mixer(score, distribute, reach, causal):
    part, x = attend(score=score, distribute=distribute, reach=reach, causal=causal), randn(3, TIME, DIM)
    y = part(x)
    torch.testing.assert_close(part(x[:1, :5])[0, :1], y[0, :1] if causal else part(x[:, :5])[0, :1])
    torch.testing.assert_close(part.project(part.weights(x) @ part.values(x)), y)
    mask = (torch.arange(TIME) < 4).expand(3, -1)
    torch.testing.assert_close(part(x, mask=mask)[:, :4], part(x[:, :4]))
    future = torch.cat([x[:, :-1], x[:, :1]], 1)
    seen = ~torch.isclose(part(future), y)[:, :-1].all(-1)
    assert causal != bool(seen.any()) or distribute == "hard"
    if causal:
        state, outputs = part.initial_state(3), []
        for frames in (x[:, :3], x[:, 3:4], x[:, 4:]):
            out, state = part.chunk(frames, state)
            outputs.append(out)
        torch.testing.assert_close(torch.cat(outputs, 1), y)
    else:
        context = randn(3, 4, DIM, seed=1)
        torch.testing.assert_close(part(x, context=context, mask=mask[:, :4]), part(x, context=context))
        torch.testing.assert_close(part(x, context=context, mask=mask[:, 1:5]), part(x, context=context[:, :3]))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(part(x[:, order]), y[:, order]) == part.equivariant
    nothing = part(x, mask=torch.zeros(3, TIME, dtype=torch.bool))
    torch.testing.assert_close(nothing, part.out.bias.expand_as(nothing))


SLOW = [c for c in COMBINATIONS if c not in PAIRS and c[1] != "hard"]  # the gradient of hard is an estimate


@pytest.mark.parametrize("score, distribute, reach", PAIRS + [pytest.param(*c, marks=pytest.mark.slow) for c in SLOW])
def test_gradients_are_those_of_the_function(score, distribute, reach):
    check_gradients(partial(attend, None, score=score, distribute=distribute, reach=reach), randn(3, TIME, DIM))


@pytest.mark.parametrize("score, distribute, reach", [p for p in PAIRS if p[0] == "scaled" and "softmax" in p])
def test_shapes_padding_and_streams_are_those_of_every_mixer(score, distribute, reach):
    make = partial(attend, score=score, distribute=distribute, reach=reach)
    x = randn(2, TIME, DIM)
    check_shapes(partial(make, None), x)
    check_padding(make(), x)
    check_causal(make(causal=True), x)
    check_streaming(make(causal=True), x, bound=BYTES, cuts=1)


# --- Scores: each is its formula, and they are related as the survey says.


def test_scores_are_their_formulas():
    query, key = query_key()

    def pairs(formula):
        return torch.stack(
            [
                torch.stack([torch.stack([formula(h, q, k) for k in key[b, h]]) for q in query[b, h]])
                for b, h in product(range(2), range(HEADS))
            ]
        ).view(2, HEADS, TIME, 5)

    phi = partial(lambda x: F.elu(x) + 1)
    parts = {name: score_of(name, length=5) for name in SCORES}
    for part in parts.values():  # biases start at zero, where they could hide
        for parameter in part.parameters():
            torch.nn.init.normal_(parameter)
    p = parts
    formulas = {
        "dot": lambda h, q, k: q @ k,
        "scaled": lambda h, q, k: q @ k / 2,
        "cosine": lambda h, q, k: q @ k / (q.norm() * k.norm()),
        "general": lambda h, q, k: k @ (p["general"].W[h] @ q),
        "biased": lambda h, q, k: k @ (p["biased"].W[h] @ q + p["biased"].b[h, 0]),
        "activated": lambda h, q, k: (k @ (p["activated"].W[h] @ q) + p["activated"].b[h, 0, 0]).tanh(),
        "kernel": lambda h, q, k: phi(q) @ phi(k),
        "concat": lambda h, q, k: (
            p["concat"].v[h, :, 0] @ (p["concat"].W[h].T @ torch.cat([q, k]) + p["concat"].b[h, 0]).tanh()
        ),
        "additive": lambda h, q, k: (
            p["additive"].v[h, :, 0]
            @ (p["additive"].W1[h].T @ q + p["additive"].W2[h].T @ k + p["additive"].b[h, 0]).tanh()
        ),
        "deep": lambda h, q, k: (
            p["deep"].v[h, :, 0]
            @ F.gelu(
                p["deep"].U[h].T @ F.gelu(p["deep"].W[h].T @ torch.cat([q, k]) + p["deep"].b[h, 0])
                + p["deep"].c[h, :, 0, 0]
            )
        ),
        "feature": lambda h, q, k: p["feature"].v[h, :, 0] @ (p["feature"].W[h].T @ k + p["feature"].b[h, 0]).tanh(),
    }
    for name, formula in formulas.items():
        torch.testing.assert_close(parts[name](query, key), pairs(formula), msg=name)
    location = torch.einsum("bhtd,hds->bhts", query, p["location"].W)
    torch.testing.assert_close(parts["location"](query, key), location)
    assert formulas.keys() | {"location"} == SCORES.keys()


def test_general_with_the_identity_is_dot():
    general, query, key = score_of("general"), *query_key()
    general.W.data[:] = torch.eye(4)
    torch.testing.assert_close(general(query, key), score_of("dot")(query, key))


def test_additive_is_concat_with_its_matrix_split():
    concat, additive = score_of("concat"), score_of("additive")
    W1, W2 = concat.W.chunk(2, dim=1)
    additive.load_state_dict({"W1": W1, "W2": W2, "b": concat.b, "v": concat.v})
    torch.testing.assert_close(additive(*query_key()), concat(*query_key()))


def test_location_ignores_the_keys_and_feature_the_queries():
    query, key = query_key()
    location, feature = score_of("location", length=5), score_of("feature")
    torch.testing.assert_close(location(query, key), location(query, 10 * key))
    torch.testing.assert_close(feature(query, key), feature(10 * query, key))


def test_location_reads_as_many_tokens_as_it_has_places_or_fewer():
    part = attend(score="location")
    assert part.longest == TIME and attend().longest is None and not part.fixed_length
    check_padding(part, randn(3, TIME, DIM))
    with pytest.raises(ValueError, match=f"built for {TIME} tokens"):
        part(randn(1, TIME + 1, DIM))


def test_scaled_softmax_everywhere_is_ordinary_attention():
    ours, torchs = attend(), SoftmaxAttention(DIM, heads=HEADS).double()
    torchs.load_state_dict(ours.state_dict())
    x = randn(3, TIME, DIM)
    torch.testing.assert_close(ours(x), torchs(x))


# --- Distributions.


def test_sparsemax_is_the_projection_on_the_simplex():
    scores = 2 * randn(50, 7)
    weights = sparsemax(scores)
    torch.testing.assert_close(weights.sum(-1), torch.ones(50, dtype=torch.float64))
    assert (weights >= 0).all() and (weights == 0).any()
    # The projection is the one point p of the simplex with (z - p) . (q - p) <= 0 for every corner q.
    gap = scores - weights
    assert ((gap.amax(-1) - (gap * weights).sum(-1)) < 1e-12).all()


def test_entmax_solves_its_equation_by_bisection():
    scores = 3 * randn(50, 7)
    low, high = scores.amax(-1, keepdim=True) / 2 - 1, scores.amax(-1, keepdim=True) / 2
    for _ in range(60):
        middle = (low + high) / 2
        small = (scores / 2 - middle).clamp(min=0).square().sum(-1, keepdim=True) < 1
        low, high = torch.where(small, low, middle), torch.where(small, middle, high)
    expected = (scores / 2 - low).clamp(min=0).square()
    torch.testing.assert_close(entmax15(scores), expected, atol=1e-9, rtol=0)
    assert (expected == 0).any()


def test_both_agree_with_the_package_entmax():
    entmax = pytest.importorskip("entmax")
    scores = (3 * randn(20, 9)).requires_grad_()
    probe = randn(20, 9, seed=1)
    for ours, theirs in ((sparsemax, entmax.sparsemax), (entmax15, entmax.entmax15)):
        torch.testing.assert_close(ours(scores), theirs(scores, dim=-1))
        gradients = [torch.autograd.grad((f(scores) * probe).sum(), scores)[0] for f in (ours, theirs)]
        torch.testing.assert_close(*gradients)


def test_sparse_distributions_stay_finite_on_ties_and_on_one_score():
    for f in (sparsemax, entmax15):
        for scores in (torch.zeros(2, 5), torch.tensor([[1e4, 0.0, -1e4]]), torch.zeros(3, 1)):
            scores.requires_grad_()
            weights = f(scores)
            (weights * torch.arange(scores.shape[-1])).sum().backward()
            assert scores.grad is not None and scores.grad.isfinite().all()
            torch.testing.assert_close(weights.sum(-1), torch.ones(len(scores)))
    torch.testing.assert_close(entmax15(torch.zeros(2, 5)), torch.full((2, 5), 0.2))


def test_hard_reads_one_token_and_has_the_gradient_of_softmax():
    scores = randn(4, 6).requires_grad_()
    probe = randn(4, 6, seed=1)
    weights = hard(scores)
    torch.testing.assert_close(weights, F.one_hot(scores.argmax(-1), 6).double())
    (found,) = torch.autograd.grad((weights * probe).sum(), scores)
    (expected,) = torch.autograd.grad((scores.softmax(-1) * probe).sum(), scores)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_is_hidden_gets_no_weight_and_changes_none(name):
    scores = randn(4, 6)
    readable = torch.rand(4, 6, generator=torch.Generator().manual_seed(1)) < 0.6
    readable[0] = False
    weights = DISTRIBUTIONS[name](scores, readable)
    assert not weights[~readable].any()
    row = readable[1]
    torch.testing.assert_close(weights[1, row], DISTRIBUTIONS[name](scores[1:2, row], None)[0])


# --- Reach.


def test_a_window_over_everything_is_global_attention():
    local, everywhere = attend(reach="local-m", window=TIME), attend()
    x = randn(3, TIME, DIM)
    torch.testing.assert_close(local(x), everywhere(x))


def test_monotonic_reach_is_a_band():
    weights = attend(reach="local-m", window=1).weights(randn(3, TIME, DIM))
    places = torch.arange(TIME)
    band = (places[:, None] - places).abs() <= 1
    assert ((weights > 0) == band).all()


def test_predicted_reach_is_a_window_with_a_gaussian_around_the_predicted_place():
    torch.manual_seed(0)
    align = Alignment(4, reach="local-p", window=2, heads=HEADS).double()
    query, key = query_key(source=9)
    reach = align.reach
    centre = 9 * ((query @ reach.W).tanh() @ reach.v).sigmoid()
    distance = torch.arange(9) - centre
    scores = (query @ key.mT / 2).masked_fill(distance.abs() > 2, -torch.inf)
    expected = scores.softmax(-1) * torch.exp(-distance.square() / (2 * 1.0**2))
    torch.testing.assert_close(align(query, key), expected)
    assert (expected == 0).any()


def test_predicted_places_are_exact_in_half_precision():
    torch.manual_seed(0)
    half = Attend(64, reach="local-p").bfloat16()
    whole, x = copy.deepcopy(half).float(), randn(1, 1000, 64).bfloat16()
    wanted = whole.weights(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        cast = whole.weights(x.float())
    for weights in (half.weights(x), cast):
        assert ((weights > 0).sum(-1) - (wanted > 0).sum(-1)).abs().max() <= 1
        seen = wanted.argmax(-1) - weights.argmax(-1)
        assert seen.double().abs().mean() < 1.5


# --- Streaming.


class Largest(TorchDispatchMode):
    """The most elements that a tensor had which was made meanwhile."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor):
            self.elements = max(self.elements, made.numel())
        return made


@pytest.mark.parametrize("make", [Attend, SoftmaxAttention])
@pytest.mark.parametrize("new", [1, 2])
def test_a_streamed_token_costs_no_more_than_what_it_reads(make, new):
    part, held = make(DIM, heads=HEADS, causal=True), 300
    state = {name: torch.randn(1, HEADS, held, DIM // HEADS) for name in ("key", "value")}
    with torch.no_grad(), Largest() as largest:
        part.chunk(torch.randn(1, new, DIM), state)
    assert largest.elements <= (held + new) * DIM


# --- Representations and levels.


@pytest.mark.parametrize("score", [name for name in SCORES if SCORES[name].many])
def test_a_weight_per_feature_with_tied_scores_is_ordinary_attention(score):
    many, one = attend(score=score, representation="per-feature"), attend(score=score)
    x = randn(3, TIME, DIM)
    assert many.weights(x).shape == (3, DIM, TIME, TIME)
    assert many.weights(x)[:, :4].std(1).min() > 0, "untied, every feature has weights of its own"
    state = many.state_dict() | {"align.score.v": one.align.score.v.expand(-1, -1, 4)}
    many.load_state_dict(state)
    one.load_state_dict(state | {"align.score.v": one.align.score.v})
    torch.testing.assert_close(many(x), one(x))


def test_a_weight_per_feature_keeps_the_contract_with_masks_and_a_local_reach():
    x = randn(2, TIME, DIM)
    make = partial(attend, score="additive", representation="per-feature", reach="local-p")
    check_gradients(partial(make, None), x)
    check_padding(make(), x)
    check_streaming(make(causal=True), x, bound=BYTES, cuts=1)


def test_one_sentence_is_a_single_level():
    torch.manual_seed(0)
    two = HierarchicalPool(DIM, sentence=TIME).double()
    one = AttentionPool(DIM).double()
    one.load_state_dict(two.words.state_dict())
    x, mask = randn(3, TIME, DIM), torch.tensor([[True] * 4 + [False] * 2] * 3)
    torch.testing.assert_close(two(x, mask), one(x, mask))
    torch.testing.assert_close(two(x[:, :4]), one(x[:, :4]))


def test_words_make_sentences_and_sentences_a_document():
    torch.manual_seed(0)
    pool = HierarchicalPool(DIM, sentence=3).double()
    x = randn(2, 8, DIM)  # sentences of 3, 3 and 2 words
    sentences = torch.stack([pool.words(part) for part in x.split(3, dim=1)], dim=1)
    torch.testing.assert_close(pool(x), pool.sentences(sentences))


def test_pooled_weights_are_the_formula():
    torch.manual_seed(0)
    pool, x = AttentionPool(DIM).double(), randn(2, 5, DIM)
    score = pool.align.score
    a = ((x @ score.W[0] + score.b[0]).tanh() @ score.v[0])[..., 0].softmax(-1)
    torch.testing.assert_close(pool(x), torch.einsum("bt,btd->bd", a, x))


def test_parallel_coattention_reads_one_matrix_in_both_directions():
    torch.manual_seed(0)
    part, x, y = ParallelCoAttention(DIM).double(), randn(2, 5, DIM), randn(2, 4, DIM, seed=1)
    affinity = torch.einsum("bsd,de,bte->bst", y, part.W.weight, x).tanh()
    of_y, of_x = part(x, y)
    torch.testing.assert_close(of_y, torch.einsum("bst,bsd->btd", affinity.softmax(1), y))
    torch.testing.assert_close(of_x, torch.einsum("bst,btd->bsd", affinity.softmax(2), x))
    cut = part(x, y, mask_x=(torch.arange(5) < 3).expand(2, -1), mask_y=(torch.arange(4) < 2).expand(2, -1))
    torch.testing.assert_close(cut.first[:, :3], part(x[:, :3], y[:, :2]).first)
    torch.testing.assert_close(cut.second[:, :2], part(x[:, :3], y[:, :2]).second)


def test_alternating_coattention_summarises_with_the_summary_before_as_its_guide():
    torch.manual_seed(0)
    part, x, y = AlternatingCoAttention(DIM).double(), randn(2, 5, DIM), randn(2, 4, DIM, seed=1)

    def summary(step, g, tokens):
        s = part.steps[step].score
        a = (((g @ s.W1[0])[:, None] + tokens @ s.W2[0] + s.b[0]).tanh() @ s.v[0]).softmax(1)
        return (a * tokens).sum(1)

    second = summary(1, summary(0, torch.zeros(2, DIM).double(), x), y)
    found = part(x, y)
    torch.testing.assert_close(found.second, second)
    torch.testing.assert_close(found.first, summary(2, second, x))
    mask = (torch.arange(5) < 3).expand(2, -1)
    torch.testing.assert_close(part(x, y, mask_x=mask).first, part(x[:, :3], y).first)


def test_several_embeddings_are_weighed_for_each_token():
    torch.manual_seed(0)
    part, a, b = WeighedRepresentations((3, 5), DIM).double(), randn(2, 4, 3), randn(2, 4, 5, seed=1)
    y = part([a, b])
    side = torch.stack([part.maps[0](a), part.maps[1](b)], dim=2)
    one = part.pool(side[1, 2][None])[0]
    torch.testing.assert_close(y[1, 2], one)
    with pytest.raises(ValueError, match="expected 2 representations"):
        part([a])


# --- What cannot be done is said.


@pytest.mark.usefixtures("unchecked")
def test_unknown_choices_name_the_nearest():
    for options, message in (
        ({"score": "aditive"}, "did you mean 'additive'"),
        ({"distribute": "sparse-max"}, "did you mean 'sparsemax'"),
        ({"reach": "local_m"}, "did you mean 'local-m'"),
        ({"representation": "per feature"}, "did you mean 'per-feature'"),
        ({"score": "dot", "representation": "per-feature"}, "several give: concat, additive, deep, feature"),
        ({"score": "location", "length": None}, "give it the largest length"),
    ):
        with pytest.raises(InputError, match=message):
            attend(**options)
    with pytest.raises(ValueError, match="window must be at least 1"):
        attend(window=0)
    with pytest.raises(ValueError, match="at least 1 token"):
        HierarchicalPool(DIM, sentence=0)


def test_softmax_gives_no_weight_to_what_is_hidden_even_beside_scores_that_overflowed():
    scores = torch.tensor([[-torch.inf, 5.0], [-65500.0, 5.0]], dtype=torch.float16)
    weights = DISTRIBUTIONS["softmax"](scores, torch.tensor([True, False]))
    assert (weights[:, 1] == 0).all()
