"""Poly-encoders (arXiv 1905.01969): candidates are encoded once, and still weigh the context for themselves."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from anabranch.models import MetaFormer
from anabranch.models.language import BiEncoder, CrossEncoder, Encoder, PolyEncoder, Texts, ranks_among
from anabranch.nn.attention import PolyAttention
from anabranch.testing import check_autocast, check_gradients, check_same_seed, check_scales, check_state_dict

DIM = 8
KINDS = ("bi", "poly", "cross")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def texts(count, time=6, lengths=None):
    mask = torch.ones(count, time, dtype=torch.bool)
    if lengths is not None:
        mask = torch.arange(time) < torch.tensor(lengths)[:, None]
    return Texts(torch.randn(count, time, 5, dtype=torch.float64), mask)


def model(kind):
    encoder = Encoder(nn.Linear(5, DIM), MetaFormer(DIM, 1), DIM)
    made = {"bi": BiEncoder, "poly": PolyEncoder, "cross": CrossEncoder}[kind](encoder).double().eval()
    if kind != "cross":  # the encoders start alike; tests want them apart
        for p in made.candidates.parameters():
            nn.init.normal_(p, std=0.3)
    return made


def test_codes_read_the_context_and_candidates_read_the_codes():
    part = PolyAttention(DIM, codes=3).double()
    tokens, candidates = torch.randn(2, 6, DIM).double(), torch.randn(4, DIM).double()
    for context, seen in zip(tokens, part(tokens, candidates), strict=True):
        read = [(context @ code).softmax(0) @ context for code in part.codes]
        for y, found in zip(candidates, seen, strict=True):
            weights = torch.stack([y @ each for each in read]).softmax(0)
            torch.testing.assert_close(found, sum(w * each for w, each in zip(weights, read, strict=True)))


def test_the_score_is_the_dot_product_with_the_context_as_the_candidate_sees_it():
    part, candidates = PolyAttention(DIM, codes=3).double(), torch.randn(2, 4, DIM).double()
    summaries = part.summaries(torch.randn(2, 6, DIM).double())
    seen = part.attend(summaries, candidates)
    torch.testing.assert_close(part.score(summaries, candidates), (seen * candidates).sum(-1))


def test_one_code_is_attention_pooling_that_candidates_do_not_influence():
    part, tokens = PolyAttention(DIM, codes=1).double(), torch.randn(2, 6, DIM).double()
    pooled = (tokens @ part.codes[0]).softmax(1)[:, None] @ tokens
    torch.testing.assert_close(part(tokens, torch.randn(3, DIM).double()), pooled.expand(2, 3, DIM))
    more = PolyAttention(DIM, codes=2).double()(tokens, torch.randn(3, DIM).double())
    assert not torch.allclose(more[:, 0], more[:, 1])


def test_without_codes_candidates_weigh_the_first_tokens_that_exist():
    part, candidates = PolyAttention(DIM, codes=3, learned=False).double(), torch.randn(4, DIM).double()
    assert not list(part.parameters())
    tokens, mask = torch.randn(2, 6, DIM).double(), torch.arange(6) < torch.tensor([[6], [2]])
    for context, first, seen in zip(tokens, (3, 2), part(tokens, candidates, mask), strict=True):
        read = context[:first]
        torch.testing.assert_close(seen, (candidates @ read.mT).softmax(-1) @ read)
    torch.testing.assert_close(part(tokens[:, :2], candidates)[1], part(tokens, candidates, mask)[1])
    scores = part.score(part.summaries(tokens, mask), candidates, part.summarised(mask))
    torch.testing.assert_close(scores, (part(tokens, candidates, mask) * candidates).sum(-1))


def test_a_poly_encoder_without_codes_is_padding_invariant_and_has_fewer_weights():
    encoder = Encoder(nn.Linear(5, DIM), MetaFormer(DIM, 1), DIM)
    first, coded = (PolyEncoder(encoder, codes=3, learned=learned).double().eval() for learned in (False, True))
    sizes = [sum(p.numel() for p in part.parameters()) for part in (first, coded)]
    assert sizes[1] - sizes[0] == 3 * DIM
    contexts, candidates = texts(2, lengths=[6, 2]), texts(3)
    scores = first(contexts, candidates)
    alone = Texts(contexts.tokens[1:, :2], contexts.mask[1:, :2])
    torch.testing.assert_close(first(alone, candidates), scores[1:])


def test_codes_start_between_zero_and_one():
    codes = PolyAttention(50, codes=100).codes
    assert 0 <= codes.min() < 0.01 and 0.99 < codes.max() <= 1


def test_the_order_of_codes_changes_no_score():
    part, candidates = model("poly"), texts(4)
    contexts = texts(2)
    before = part(contexts, candidates)
    with torch.no_grad():
        part.attention.codes.copy_(part.attention.codes.flip(0))
    torch.testing.assert_close(part(contexts, candidates), before)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_candidates_and_of_contexts_permutes_the_scores(kind):
    part, contexts, candidates = model(kind), texts(3), texts(4)
    scores, order = part(contexts, candidates), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(part(contexts, candidates[order]), scores[:, order])
    torch.testing.assert_close(part(contexts[order[1:] % 3], candidates), scores[order[1:] % 3])


@pytest.mark.parametrize("kind", KINDS)
def test_candidates_that_were_encoded_before_get_the_same_scores(kind):
    part, contexts, candidates = model(kind), texts(3), texts(4)
    encoded = part.encode_candidates(candidates)
    for row in range(3):
        one = part.score_encoded(contexts[row : row + 1], encoded[torch.tensor([3, 1])])
        torch.testing.assert_close(one, part(contexts, candidates)[row : row + 1, [3, 1]])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_score(kind):
    part, contexts, candidates = model(kind), texts(2, lengths=[6, 3]), texts(2, lengths=[2, 5])
    scores = part(contexts, candidates)
    other = [Texts(t.tokens.masked_fill(~t.mask[..., None], 50.0), t.mask) for t in (contexts, candidates)]
    torch.testing.assert_close(part(*other), scores)
    torch.testing.assert_close(
        part(
            Texts(contexts.tokens[1:, :3], contexts.mask[1:, :3]),
            Texts(candidates.tokens[:1, :2], candidates.mask[:1, :2]),
        ),
        scores[1:, :1],
    )


def test_the_two_encoders_start_alike_and_learn_apart():
    encoder = Encoder(nn.Linear(5, DIM), MetaFormer(DIM, 1), DIM)
    part = PolyEncoder(encoder, codes=4).double()
    pairs = list(zip(part.contexts.parameters(), part.candidates.parameters(), strict=True))
    assert all(torch.equal(p, q) and p is not q for p, q in pairs)
    part.loss(texts(3), texts(3)).backward()
    assert not torch.equal(pairs[0][0].grad, pairs[0][1].grad)


def test_scoring_encoded_candidates_costs_codes_times_channels_each():
    part = PolyAttention(DIM, codes=16)
    summaries = torch.randn(1, 16, DIM)
    counts = []
    for candidates in (100, 200):
        with FlopCounterMode(display=False) as counter:
            part.score(summaries, torch.randn(candidates, DIM))
        counts.append(counter.get_total_flops() / 2)
    assert counts == [100 * 16 * DIM, 200 * 16 * DIM]


def test_the_loss_is_the_right_candidates_cross_entropy_within_the_batch():
    part, contexts, candidates = model("poly"), texts(3), texts(3)
    expected = -part(contexts, candidates).log_softmax(1).diagonal().mean()
    torch.testing.assert_close(part.loss(contexts, candidates), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_ranks_count_the_candidates_that_score_as_high_as_the_right_one(kind):
    part, contexts, candidates = model(kind), texts(3), texts(6)
    lists = torch.tensor([[0, 1, 2, 3], [5, 4, 3, 0], [2, 2, 1, 0]])
    scores = part(contexts, candidates)
    expected = [int((scores[i, row] >= scores[i, row[0]]).sum()) for i, row in enumerate(lists)]
    assert ranks_among(part, contexts, candidates, lists).tolist() == expected
    assert expected[2] >= 2  # the same text twice: the right one has the last place


class Attended(nn.Module):
    """The contexts as four fixed candidates see them."""

    def __init__(self, **options):
        super().__init__()
        self.part = PolyAttention(DIM, codes=3, **options)
        self.register_buffer("candidates", torch.linspace(-1, 1, 4 * DIM).view(4, DIM))

    def forward(self, x):
        return self.part(x, self.candidates.to(x.dtype))


class Ranked(nn.Module):
    """Scores of three fixed candidates, for contexts without padding."""

    def __init__(self, kind):
        super().__init__()
        self.model = {"bi": BiEncoder, "poly": PolyEncoder, "cross": CrossEncoder}[kind](
            Encoder(nn.Linear(5, DIM), MetaFormer(DIM, 1, mixer="attention"), DIM)
        )
        self.register_buffer("candidates", torch.linspace(-1, 1, 60).view(3, 4, 5))

    def forward(self, x):
        own, others = x, self.candidates.to(x.dtype)
        return self.model(*(Texts(t, torch.ones(t.shape[:2], dtype=torch.bool)) for t in (own, others)))


@pytest.mark.parametrize("learned", [True, False])
def test_poly_attention_keeps_the_laws_of_every_part(learned):
    x = torch.randn(3, 5, DIM)
    for check in (check_gradients, check_state_dict, check_autocast, check_same_seed, check_scales):
        check(lambda: Attended(learned=learned), x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoders_keep_the_laws_of_every_part(kind):
    x = torch.randn(3, 4, 5)
    for check in (check_gradients, check_state_dict, check_autocast, check_same_seed, check_scales):
        check(lambda: Ranked(kind), x)


@pytest.mark.usefixtures("unchecked")
def test_wrong_widths_are_refused():
    with pytest.raises(ValueError, match=r"tokens \(batch, time, 8\); got \(2, 6, 9\)"):
        PolyAttention(DIM).summaries(torch.zeros(2, 6, 9))
    with pytest.raises(ValueError, match="at least 1; got 8 and 0"):
        PolyAttention(DIM, codes=0)
