"""MemN2N: hops, tying, and what the encodings of time and place are for."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anabranch.data.babi import PEOPLE, PLACES, WORDS, BabiLike
from anabranch.models.language import MemN2N
from anabranch.models.language.memn2n import remembered, with_empty_lines
from anabranch.nn.memory import MemoryHops
from anabranch.testing import check_autocast, check_gradients, check_same_seed, check_state_dict

V, D, J = 12, 8, 4


def model(**options):
    torch.manual_seed(0)
    return MemN2N(V, dim=D, **options).double().eval()


def lines(batch=3, sentences=5):
    made = torch.randint(1, V, (batch, 1 + sentences, J), generator=torch.Generator().manual_seed(1))
    made[:, ::2, -1] = 0  # sentences of different lengths
    return made


def embedded(matrix, line):
    """``Σ_j l_j ∘ (row of word j)``, straight from the paper's formula."""
    words = [word for word in line.tolist() if word]
    total = torch.zeros(D, dtype=torch.float64)
    for j, word in enumerate(words, 1):
        for k in range(1, D + 1):
            share = (1 - j / len(words)) - (k / D) * (1 - 2 * j / len(words))
            total[k - 1] += share * matrix[word - 1, k - 1]
    return total


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_adjacent_hops_own_one_matrix_more_than_there_are_hops(hops):
    net = model(hops=hops, memories=10)
    assert net.embedding.shape == (V - 1, hops + 1, D) and net.recency.shape == (10, hops + 1, D)
    assert sum(p.numel() for p in net.parameters()) == (hops + 1) * D * (V - 1 + 10)


def test_adjacent_hops_are_the_papers_equations():
    net, x = model(hops=3), lines()
    E, T = net.embedding.detach(), net.recency.detach()
    logits, weights = net.read(x)
    for b in range(len(x)):
        u = embedded(E[:, 0], x[b, 0])  # B = A of the first hop
        for k in range(3):
            m = torch.stack([embedded(E[:, k], line) + T[i, k] for i, line in enumerate(x[b, 1:])])
            c = torch.stack([embedded(E[:, k + 1], line) + T[i, k + 1] for i, line in enumerate(x[b, 1:])])
            p = torch.softmax(m @ u, 0)
            torch.testing.assert_close(weights[b, k], p)
            u = u + p @ c
        torch.testing.assert_close(logits[b], F.pad(E[:, 3] @ u, (1, 0)))  # W = the last C


def test_recurrent_hops_are_the_papers_equations():
    net, x = model(hops=4, recurrent=True), lines()
    assert net.embedding.shape[1] == 4 and net.recency.shape[1] == 2, "A, C, B and W whatever the hops"
    (A, C, B, W), (TA, TC) = net.embedding.detach().unbind(1), net.recency.detach().unbind(1)
    H = net.hops.map.weight
    logits = net(x)
    for b in range(len(x)):
        u = embedded(B, x[b, 0])
        m = torch.stack([embedded(A, line) + TA[i] for i, line in enumerate(x[b, 1:])])
        c = torch.stack([embedded(C, line) + TC[i] for i, line in enumerate(x[b, 1:])])
        for _ in range(4):
            u = H @ u + torch.softmax(m @ u, 0) @ c
        torch.testing.assert_close(logits[b], F.pad(W @ u, (1, 0)))


def test_one_hop_without_softmax_is_the_closed_form():
    net, x = model(hops=1, ordered=False), lines()
    net.hops.linear = True
    E, T = F.pad(net.embedding, (0, 0, 0, 0, 1, 0)), net.recency
    u = E[x[:, 0], 0].sum(1)
    m = E[x[:, 1:], 0].sum(2) + T[:5, 0]
    c = E[x[:, 1:], 1].sum(2) + T[:5, 1]
    expected = (u + torch.einsum("bd,bmd,bme->be", u, m, c)) @ E[:, 1].T
    torch.testing.assert_close(net(x), expected)


def test_only_recency_tells_the_order_of_the_sentences():
    net, x = model(), lines()
    shuffled = torch.cat([x[:, :1], x[:, 1:].flip(1)], dim=1)
    assert not torch.allclose(net(shuffled), net(x))
    torch.nn.init.zeros_(net.recency)
    torch.testing.assert_close(net(shuffled), net(x))


def test_only_position_encoding_tells_the_order_of_the_words():
    x = torch.randint(1, V, (3, 6, J), generator=torch.Generator().manual_seed(2))
    bag, ordered = model(ordered=False), model()
    torch.testing.assert_close(bag(x.flip(2)), bag(x))
    assert not torch.allclose(ordered(x.flip(2)), ordered(x))


def test_embeddings_set_by_hand_find_the_one_supporting_fact():
    stories = BabiLike(1, 100, seed=3)
    person = {WORDS.index(name): i for i, name in enumerate(PEOPLE)}
    place = {WORDS.index(name): i for i, name in enumerate(PLACES)}
    asks, goes = len(PEOPLE) + len(PLACES), len(PEOPLE) + len(PLACES) + 1
    net = MemN2N(len(WORDS), dim=goes + 1, hops=1, memories=12, ordered=False).double().eval()
    with torch.no_grad():
        net.embedding.zero_()
        net.recency.zero_()
        for word, i in person.items():
            net.embedding[word - 1, 0, i] = 30  # A matches persons, and they outweigh everything
        for word, i in place.items():
            net.embedding[word - 1, 1, len(PEOPLE) + i] = 1  # C and W know places
        net.embedding[WORDS.index("where") - 1, 0, asks] = 1
        net.embedding[WORDS.index("went") - 1, 0, asks] = 600  # sentences that tell of a place
        net.recency[:, 0, asks] = -40 * torch.arange(12)  # the newer the better
    logits, weights = net.read(stories.inputs)
    assert (logits.argmax(1) == stories.targets).all()
    torch.testing.assert_close(weights[:, 0], F.one_hot(stories.supports[:, 0], 12).double(), rtol=0, atol=1e-9)


def test_empty_lines_behind_the_oldest_sentence_change_nothing():
    net, x = model(), lines()
    torch.testing.assert_close(net(F.pad(x, (0, 0, 0, 4))), net(x))
    with_gap = F.pad(x, (0, 0, 0, 1))
    with_gap[:, 3:] = with_gap[:, 2:-1].clone()
    with_gap[:, 2] = 0
    assert not torch.allclose(net(with_gap), net(x)), "an empty memory among the sentences makes the others older"
    torch.testing.assert_close(remembered(with_gap[:, 1:]), torch.ones(3, 6, dtype=torch.bool))


def test_a_story_that_is_empty_leaves_the_question_as_it_was():
    net, x = model(), lines()
    x[:, 1:] = 0
    question = torch.stack([embedded(net.embedding[:, 0], line) for line in x[:, 0]])
    torch.testing.assert_close(net(x), F.pad(question @ net.embedding[:, -1].T, (1, 0)))


def test_sentences_beyond_the_memory_are_forgotten():
    net, x = model(memories=3), lines()
    torch.testing.assert_close(net(x), net(x[:, :4]))


def test_empty_memories_come_in_at_random_while_training_and_keep_the_order():
    story = lines(batch=200, sentences=10)[:, 1:]
    torch.manual_seed(0)
    made = with_empty_lines(story, 0.2)
    assert made.shape == (200, 12, J)
    for before, after in zip(story, made, strict=True):
        torch.testing.assert_close(after[(after != 0).any(1)], before)
    empty = (made == 0).all(2).double().mean(0)
    assert (empty > 0.05).all() and (empty < 0.35).all(), "everywhere alike"
    net = model().train()
    assert not torch.allclose(net(lines()), net(lines()))
    quiet = model(empty=0.0).train()
    torch.testing.assert_close(quiet(lines()), quiet(lines()))


def test_no_word_has_no_embedding_and_learns_none():
    net, x = model(), lines()
    logits = net(x)
    torch.testing.assert_close(logits[:, 0], torch.zeros(3, dtype=torch.float64), rtol=0, atol=0)
    assert len(net.embedding) == V - 1


def test_hops_read_what_exists_and_gradients_are_right():
    torch.manual_seed(0)
    hops = MemoryHops(4, hops=2, mapped=True).double()
    u, m, c = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in [(3, 4), *[(2, 3, 5, 4)] * 2])
    mask = torch.rand(3, 5) < 0.6
    mask[0] = False
    out, weights = hops.read(u, m, c, mask)
    assert not weights[~mask[:, None].expand_as(weights)].any()
    torch.testing.assert_close(weights[1:].sum(-1), torch.ones(2, 2, dtype=torch.float64))
    torch.testing.assert_close(out[0], hops.map(hops.map(u[0])), msg="nothing to read")
    assert torch.autograd.gradcheck(lambda *given: hops(*given, mask), (u, m, c), fast_mode=True)
    net, x = model(), lines()
    assert torch.autograd.gradcheck(lambda *_: net(x), tuple(net.parameters()), fast_mode=True)


class Answered(nn.Module):
    """Answers about fixed stories, the logits of each times a given vector."""

    def __init__(self, **options):
        super().__init__()
        self.model = MemN2N(V, dim=D, **options)

    def forward(self, x):
        return self.model(lines()) * x


@pytest.mark.parametrize("recurrent", [False, True])
def test_it_keeps_the_laws_of_every_part(recurrent):
    check_state_dict(lambda: MemN2N(V, dim=D, recurrent=recurrent), lines())
    for check in (check_gradients, check_autocast, check_same_seed):
        check(lambda: Answered(recurrent=recurrent), torch.randn(3, V))


def test_a_few_steps_learn_one_fact():
    torch.manual_seed(0)
    stories = BabiLike(1, 300, sentences=4, seed=1)
    net = MemN2N(len(WORDS), hops=1)
    optimizer = torch.optim.Adam(net.parameters(), 2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(net(stories.inputs), stories.targets).backward()
        optimizer.step()
    fresh = BabiLike(1, 300, sentences=4, seed=2)
    assert (net.eval()(fresh.inputs).argmax(1) == fresh.targets).double().mean() > 0.9


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_are_refused_with_what_was_expected():
    with pytest.raises(ValueError, match="1 \\+ sentences"):
        model()(torch.ones(3, 1, J, dtype=torch.long))
    hops, x = MemoryHops(4, hops=2), torch.zeros(2, 3, 5, 4)
    with pytest.raises(ValueError, match=r"expected keys and values \(2, batch, memories, 4\)"):
        hops(torch.zeros(3, 4), x[:1], x[:1])
    with pytest.raises(ValueError, match="expected a question"):
        hops(torch.zeros(2, 4), x, x)
    with pytest.raises(ValueError, match="one entry a memory"):
        hops(torch.zeros(3, 4), x, x, torch.ones(3, 4, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the compiler's own, about itself
@pytest.mark.usefixtures("unchecked")
def test_it_compiles():
    net, x = model(), lines()
    torch.testing.assert_close(torch.compile(net)(x), net(x))
