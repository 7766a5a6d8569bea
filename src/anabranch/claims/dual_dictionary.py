"""One net for both directions of a dictionary finds words better than a net for that alone (arXiv 2205.04602).

The paper trains a reverse dictionary (from a definition to its word's vector) and a definition writer (from the vector
to the definition) together, joined by a shared perceptron, and finds that both gain over nets for one task.

Here words are single word pieces of the sentence encoder MiniLM, their vectors the leading 128 principal components
of its input embeddings, and definitions WordNet's, all senses. Four nets of the same width see the same batches: one
for each task, the joint one, and a joint one in which words and definitions have perceptrons of their own. Two more
are plain transformers for one task, the paper's baselines: without perceptrons, linear maps in their place. The better
of two learning rates counts, by validation losses of the tasks a net has. A reverse dictionary is judged by the rank
of the right word among all, about 10,900; a writer by BLEU of what a beam of 6 finds, where any sense of the word is
right and unknown words are never written, and by nats per token. References without rules: a constant vector; nearest
words to the mean of the definition's own word vectors; ridge regression from their sum; the trained sentence encoder.

Made smaller: width 64, one layer, definitions of at most 10 words, of which the 2,500 commonest are known, and less
than one and a half passes over 25,000 pairs, instead of width 256, four layers, and hundreds of thousands of pairs for many
epochs at a tenth of the learning rate. In so short a training no net reads a definition more than twice, so that none
has dropout; and the embedding of tokens starts, in all nets alike, from the same word vectors, as is usual where
pairs are few. With so little training a net for one task, which has no other to serve, may have the advantage.

What pilots with the nets for one task settled, before any joint net was run: with the start of the paper, when the
output layer is as large as any other, the reverse dictionary became no better than a constant vector with every rate,
batch and dropout that was tried. Definitions foretell about 6 % of a word vector's variance, and while the net
unlearned a start 50 times larger, its code fell silent. With an output layer that starts at a hundredth of the size
it learns (all nets here start so). Pilots settled this start, the vectors, numbers of steps and pairs, and the rates.

What was seen after the run, with one other seed and the larger rate, and changed nothing: the joint nets fail at the
words because their codes fall silent again. The loss that draws the codes of a word and its definition together is
first met by codes that are all alike: their variance ends at 0.001, and the median rank near that of a constant
vector. Without that loss the variance is 3 and the median rank 830; with only the two tasks, 690, as of the net for
words alone (670). With the paper's larger start it is the same. The paper's many epochs may leave that state; 500
steps do not.

BLEU is a weak witness here, and the margin of 0.005 is about as large as all that a net gains by reading the word. With
another seed, the larger rate and the likeliest token each time, the writer's definitions got 0.0155, and 0.0096 when
each was held against the definitions of another word drawn at random. Nats tell more: 3.86 a token with the word's own
vector, 4.21 with another word's, 4.19 with none.
"""

from functools import cache
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.bench.fit import cosine_with_warmup, minibatches
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data.glosses import UNKNOWN, Pairs, Vocabulary, padded, word_definitions, words
from anabranch.metrics import bleu, retrieval_ranks
from anabranch.models.language import DualDictionary, load_minilm, sentence_vectors
from anabranch.models.language.dual_dictionary import TERMS, UNSCORED, Term, targets

CLAIM = Claim(
    paper="dual-dictionary",
    statement="Trained together and joined by a shared perceptron, the reverse dictionary ranks words better than a "
    "net for that alone, and the definitions written are no worse.",
    rules=(
        Rule("joint.median_rank / reverse.median_rank", "<", 1.0),
        Rule("joint.top10 - reverse.top10", ">", 0.0),
        Rule("joint.bleu - writer.bleu", ">=", -0.005),
        Rule("joint.median_rank / apart.median_rank", "<", 1.0),
        Rule("joint.median_rank / plain_reverse.median_rank", "<", 1.0),
        Rule("joint.bleu - plain_writer.bleu", ">=", -0.005),
        Rule("reverse.median_rank / chance.median_rank", "<=", 0.5),
        Rule("frequencies.nats - writer.nats", ">=", 0.3),
    ),
    seeds=3,
    minutes=12,
    smaller="Width 64, one layer, no dropout, 25,000 pairs of at most 10 words, 500 steps of 64; tokens start from "
    "word vectors. Pilots of the nets for one task settled sizes, steps, rates and the output layer's small start.",
)

CONVERSIONS: tuple[Term, ...] = ("word_from_definition", "definition_from_word")
Wiring = Literal["shared", "apart", "plain"]
ARMS: dict[str, tuple[tuple[Term, ...], Wiring]] = {
    "reverse": (("word_from_definition",), "shared"),
    "writer": (("definition_from_word",), "shared"),
    "plain_reverse": (("word_from_definition",), "plain"),
    "plain_writer": (("definition_from_word",), "plain"),
    "joint": (TERMS, "shared"),
    "apart": (TERMS, "apart"),
}
WORD, DIM, DEPTH, STEPS, BATCH, RATES = 128, 64, 1, 500, 64, (1e-3, 3e-3)
LONGEST, LEAST, VALID, TEST, BEAM = 10, 8, 500, 1000, 6


class Part(NamedTuple):
    """Pairs of one split: their words' rows among all words, and vectors, and the definitions."""

    rows: Int[Tensor, "pairs"]
    words: Float[Tensor, "pairs word"]
    tokens: Int[Tensor, "pairs time"]

    def some(self, rows: Tensor) -> "Part":
        return Part(self.rows[rows], self.words[rows], self.tokens[rows])


class Data(NamedTuple):
    """What a seed drew; ``tokens`` has a vector for each number of the vocabulary, brought to mean 0 and variance 1."""

    pairs: Pairs
    known: list[str]
    vectors: Float[Tensor, "all word"]
    vocabulary: Vocabulary
    tokens: Float[Tensor, "vocabulary 384"]
    train: Part
    valid: Part
    test: Part


def measure(seed: int) -> Measurements:
    """Train every net with both rates; judge it on the tasks that it has."""
    drawn = data(seed)
    measured = references(drawn)
    for arm, (terms, wiring) in ARMS.items():
        runs = [fit_dictionary(drawn, terms, wiring, rate, seed) for rate in RATES]
        losses = [validation(model, drawn.valid, terms) for model in runs]
        best = losses.index(min(losses))
        measured[f"{arm}.rate"] = RATES[best]
        measured |= {f"{arm}.{key}": value for key, value in judged(runs[best], drawn, terms).items()}
    return measured


@cache
def pieces() -> dict[str, Tensor]:
    """The input embeddings of whole words in small letters, of three letters or more."""
    model, known = load_minilm()
    usable = [i for i, piece in enumerate(known.pieces) if piece.isascii() and piece.isalpha() and len(piece) > 2]
    return {known.pieces[i]: model.pieces.weight[i] for i in usable}


def data(seed: int) -> Data:
    """Pairs, words' vectors and tokens; means, variances and components are those of the words in training."""
    vectors = pieces()
    pairs = word_definitions(vectors, VALID, TEST, longest=LONGEST, seed=seed)
    known = sorted({word for split in pairs for word, _ in split})
    row = {word: i for i, word in enumerate(known)}
    seen = sorted({row[word] for word, _ in pairs.train})
    every = torch.stack([vectors[word] for word in known])
    every = standard(every, every[seen])
    every = every @ components(every[seen], WORD)
    every = every / every[seen].std()
    vocabulary = Vocabulary([definition for _, definition in pairs.train], least=LEAST)
    model, cut = load_minilm()
    tokens = torch.stack([model.pieces.weight[cut.encode(word)[1:-1]].mean(0) for word in vocabulary.numbers])
    tokens = torch.cat([torch.zeros(2, tokens.shape[1]), standard(tokens, tokens)])
    parts = []
    for split in pairs:
        rows = torch.tensor([row[word] for word, _ in split])
        numbers, _ = padded([vocabulary.encode(definition) for _, definition in split], LONGEST)
        parts.append(Part(rows, every[rows], numbers))
    return Data(pairs, known, every, vocabulary, tokens, *parts)


def standard(x: Float[Tensor, "rows dim"], seen: Float[Tensor, "seen dim"]) -> Float[Tensor, "rows dim"]:
    return (x - seen.mean(0)) / seen.std(0)


def components(x: Float[Tensor, "rows dim"], count: int) -> Float[Tensor, "dim count"]:
    """The leading principal directions of rows whose mean is 0."""
    return torch.linalg.svd(x, full_matrices=False).Vh[:count].mT


def fit_dictionary(drawn: Data, terms: tuple[Term, ...], wiring: Wiring, rate: float, seed: int) -> DualDictionary:
    torch.manual_seed(seed)
    model = DualDictionary(
        len(drawn.vocabulary), WORD, dim=DIM, depth=DEPTH, shared=wiring != "apart", dropout=0.0, inner_dropout=0.0
    )
    if wiring == "plain":
        make_plain(model)
    start = drawn.tokens @ components(drawn.tokens[2:], DIM)
    with torch.no_grad():
        model.embedding.weight.copy_(start / start[2:].std() * DIM**-0.5)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step, rows in zip(range(STEPS), minibatches(len(drawn.train.rows), BATCH, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_with_warmup(step / STEPS, warmup=0.1)
        batch = drawn.train.some(rows)
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch.words, batch.tokens, terms).values())).sum().backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
    return model.eval()


def make_plain(model: DualDictionary) -> None:
    """The paper's baseline: a word's vector through a linear map before the decoder, or out of the encoder's sum."""
    into, out = nn.Linear(WORD, DIM), nn.Linear(DIM, WORD)
    nn.init.xavier_uniform_(into.weight)
    nn.init.xavier_uniform_(out.weight, gain=0.01)
    model.middle.perceptrons[0] = nn.Identity()
    model.middle.encoders.update({"word": into, "definition": nn.Identity()})
    model.middle.decoders.update({"word": out, "definition": nn.Identity()})


@torch.no_grad()
def validation(model: DualDictionary, valid: Part, terms: tuple[Term, ...]) -> float:
    """Sum of the losses of the two conversions that a net is for, where it has them."""
    own: tuple[Term, ...] = tuple(term for term in CONVERSIONS if term in terms)
    return float(sum(model.losses(valid.words, valid.tokens, own, smoothing=0.0).values()))


@torch.no_grad()
def judged(model: DualDictionary, drawn: Data, terms: tuple[Term, ...]) -> Measurements:
    """How well a net does on the test words what it is for."""
    measured, test = {}, drawn.test
    if "word_from_definition" in terms:
        found = model.words(model.code_of_definitions(test.tokens))
        measured |= ranking(found, drawn.vectors, test.rows)
    if "definition_from_word" in terms:
        term = model.losses(test.words, test.tokens, ("definition_from_word",), smoothing=0.0)
        measured["nats"] = float(term["definition_from_word"])
        model.bias[UNKNOWN] = -torch.inf
        texts = dict(zip(drawn.vocabulary.numbers.values(), drawn.vocabulary.numbers, strict=True))
        senses: dict[str, list[list[str]]] = {}
        for word, definition in drawn.pairs.test:
            senses.setdefault(word, []).append(words(definition))
        rows = torch.tensor([drawn.known.index(word) for word in senses])
        written = model.define(drawn.vectors[rows], width=BEAM, longest=LONGEST + 1)
        measured["bleu"] = bleu([[texts[number] for number in text] for text in written], list(senses.values()))
    return measured


def ranking(found: Tensor, known: Tensor, right: Tensor) -> Measurements:
    ranks = retrieval_ranks(found, known, right).double()
    return {"median_rank": float(ranks.median()), "top10": float((ranks <= 10).double().mean())}


def references(drawn: Data) -> Measurements:
    """What needs no net: chance, a constant, frequencies of tokens, regression from words, the sentence encoder."""
    train, test = drawn.train, drawn.test
    measured = {"chance.median_rank": len(drawn.known) / 2}
    constant = train.words.mean(0).expand(len(test.rows), -1)
    measured["constant.median_rank"] = ranking(constant, drawn.vectors, test.rows)["median_rank"]
    every = torch.stack([pieces()[word] for word in drawn.known])
    model, cut = load_minilm()
    bags = torch.stack([model.pieces.weight[cut.encode(text)[1:-1]].mean(0) for _, text in drawn.pairs.test])
    found = ranking(bags - every.mean(0), every - every.mean(0), test.rows)
    measured |= {f"bag.{key}": value for key, value in found.items()}
    before, after = drawn.tokens[train.tokens].sum(1), drawn.tokens[test.tokens].sum(1)
    solved = torch.linalg.solve(before.mT @ before + 300 * torch.eye(before.shape[1]), before.mT @ train.words)
    found = ranking(after @ solved, drawn.vectors, test.rows)
    measured |= {f"ridge.{key}": value for key, value in found.items()}
    few = torch.randperm(len(test.rows), generator=torch.Generator().manual_seed(0))[:250]  # the encoder takes time
    listed = sorted({word for word, _ in drawn.pairs.test})
    asked = [drawn.pairs.test[row] for row in few.tolist()]
    right = torch.tensor([listed.index(word) for word, _ in asked])
    found = ranking(sentence_vectors([text for _, text in asked], longest=32), sentence_vectors(listed), right)
    measured |= {f"encoder.{key}_of_1000": value for key, value in found.items()}
    seen, scored = (part[part != UNSCORED] for part in (targets(train.tokens), targets(test.tokens)))
    counts = torch.bincount(seen, minlength=len(drawn.vocabulary)) + 1.0
    return measured | {"frequencies.nats": float(-(counts / counts.sum())[scored].log().mean())}
