"""The dictionary in both directions (arXiv 2205.04602): words and definitions meet in one code."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from anabranch.models.decode import END
from anabranch.models.language import DualDictionary
from anabranch.models.language.dual_dictionary import TERMS, UNSCORED, targets
from anabranch.testing import check_autocast, check_gradients, check_same_seed, check_scales, check_state_dict

TOKENS, WORD, DIM = 11, 5, 8


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model(**options):
    made = DualDictionary(TOKENS, WORD, dim=DIM, depth=1, heads=2, **options).double()
    nn.init.normal_(made.bias)
    return made.eval()


def data():
    tokens = torch.tensor([[3, 5, 2, 7], [4, 9, 0, 0], [6, 1, 8, 0]])
    return torch.randn(3, WORD, dtype=torch.float64), tokens


def test_the_shared_perceptron_learns_from_words_and_from_definitions():
    for term in ("definition_from_word", "word_from_definition"):
        for shared in (True, False):
            part = model(shared=shared)
            part.losses(*data(), terms=(term,))[term].backward()
            reached = [p.grad is not None and bool(p.grad.any()) for p in part.middle.perceptrons[-1].parameters()]
            assert all(reached) == (shared or term == "word_from_definition")


def test_padding_changes_no_code_and_no_loss():
    part, (words, tokens) = model(), data()
    codes = part.code_of_definitions(tokens)
    torch.testing.assert_close(part.code_of_definitions(tokens[1:2, :2])[0], codes[1])
    torch.testing.assert_close(part.code_of_definitions(F.pad(tokens, (0, 3))), codes)
    before, after = part.losses(words, tokens), part.losses(words, F.pad(tokens, (0, 3)))
    for term in TERMS:
        torch.testing.assert_close(after[term], before[term])


def test_the_code_of_a_definition_is_the_papers_sum():
    part, (_, tokens) = model(), data()
    states = part.encoder((DIM**0.5 * part.embedding(tokens[1:2, :2]) + part.positions(2)).double())
    torch.testing.assert_close(
        part.code_of_definitions(tokens)[1:2], part.middle.encode("definition", states.sum(1).relu())
    )


def test_the_terms_are_those_of_the_paper():
    part, (words, tokens) = model(), data()
    w, d = part.code_of_words(words), part.code_of_definitions(tokens)
    found = part.losses(words, tokens)
    assert tuple(found) == TERMS
    torch.testing.assert_close(found["codes"], (w - d).square().mean())
    torch.testing.assert_close(found["word_from_word"], (part.words(w) - words).square().mean())
    torch.testing.assert_close(found["word_from_definition"], (part.words(d) - words).square().mean())
    for term, code in (("definition_from_word", w), ("definition_from_definition", d)):
        chances = part.logits(code, tokens).log_softmax(-1)
        scored = [(0, 4), (1, 2), (2, 3)]  # rows, and the place of their end
        each = [
            0.9 * chances[row, i, target] + 0.1 * chances[row, i].mean()
            for row, end in scored
            for i, target in enumerate([*tokens[row, :end].tolist(), END])
        ]
        torch.testing.assert_close(found[term], -torch.stack(each).mean())


def test_without_the_auxiliary_terms_the_tasks_share_nothing_but_the_embedding_and_s():
    reached = {}
    for term in ("definition_from_word", "word_from_definition"):
        part = model()
        part.losses(*data(), terms=(term,))[term].backward()
        reached[term] = {name for name, p in part.named_parameters() if p.grad is not None and p.grad.any()}
    both = set.intersection(*reached.values())
    assert {".".join(name.split(".")[:2]) for name in both} == {"embedding.weight", "middle.perceptrons"}


def test_one_embedding_reads_writes_and_scores():
    part, (words, tokens) = model(), data()
    hidden = []
    part.decoder.register_forward_hook(lambda module, given, made: hidden.append(made))
    logits = part.logits(part.code_of_words(words), tokens)
    torch.testing.assert_close(logits, hidden[0] @ part.embedding.weight.mT + part.bias)
    assert [name for name, p in part.named_parameters() if TOKENS in p.shape] == ["bias", "embedding.weight"]
    before = part.code_of_definitions(tokens)
    with torch.no_grad():
        part.embedding.weight.add_(torch.randn_like(part.embedding.weight))
    assert not torch.allclose(part.code_of_definitions(tokens), before)
    assert not torch.allclose(part.logits(part.code_of_words(words), tokens), logits)


def test_no_token_is_predicted_from_itself_or_a_later_one():
    part, (words, tokens) = model(), data()
    codes, other = part.code_of_words(words), tokens.clone()
    other[:, 2] = 10
    change = (part.logits(codes, tokens) - part.logits(codes, other)).abs().amax((0, 2))
    assert (change[:3] == 0).all() and (change[3:] > 0).all()


def test_targets_end_once():
    _, tokens = data()
    assert targets(tokens).tolist() == [
        [3, 5, 2, 7, END],
        [4, 9, END, UNSCORED, UNSCORED],
        [6, 1, 8, END, UNSCORED],
    ]


def test_a_beam_of_one_is_greedy_and_a_wider_one_is_at_least_as_likely():
    part, (words, _) = model(), data()

    def greedily(code):
        text = []
        while len(text) < 12:
            token = int(part.logits(code, torch.tensor([text], dtype=torch.long).view(1, -1))[0, -1].argmax())
            if token == END:
                return text
            text.append(token)
        return []

    def chance(code, text):
        tokens = torch.tensor([text], dtype=torch.long).view(1, -1)
        chances = part.logits(code, tokens)[0].log_softmax(-1)
        return sum(float(chances[i, token]) for i, token in enumerate([*text, END]))

    with torch.no_grad():
        part.bias[END] += 3  # so that the texts end
        codes = part.code_of_words(words)
        narrow, wide = part.define(words, width=1, longest=12), part.define(words, width=5, longest=12)
        assert narrow == [greedily(code[None]) for code in codes]
        for code, short, best in zip(codes, narrow, wide, strict=True):
            assert chance(code[None], best) >= chance(code[None], short) - 1e-9


def test_before_training_all_definitions_mean_almost_the_same_word():
    part, (words, tokens) = model(), data()
    for codes in (part.code_of_words(words), part.code_of_definitions(tokens)):
        assert part.words(codes).std(0).max() < 0.05 * codes.std(0).max()


def test_a_word_outside_training_is_defined_by_its_vector_alone():
    part = model()
    unseen = 100 * torch.randn(40, WORD, dtype=torch.float64)
    found = part.define(unseen, longest=8)
    assert found == [part.define(word[None], longest=8)[0] for word in unseen]
    assert len({tuple(text) for text in found}) > 2


class Summed(nn.Module):
    """All terms of the loss, for words with fixed definitions."""

    def __init__(self):
        super().__init__()
        self.model = DualDictionary(TOKENS, WORD, dim=DIM, depth=1, heads=2)

    def forward(self, x):
        return torch.stack([*self.model.losses(x, data()[1]).values()])


def test_it_keeps_the_laws_of_every_part():
    words = data()[0].float()
    for check in (check_gradients, check_state_dict, check_autocast, check_same_seed, check_scales):
        check(Summed, words)


@pytest.mark.usefixtures("unchecked")
def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="multiple of heads and 2 tokens or more; got 6, 4 and 5"):
        DualDictionary(5, 3, dim=6, heads=4)
