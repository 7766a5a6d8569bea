"""One net for both directions of a dictionary finds words better than a net for that alone (arXiv 2205.04602).

The paper trains a reverse dictionary (from a definition to its word's vector) and a definition writer (from the vector
to the definition) together, joined by a shared perceptron, and finds that both gain over nets for one task.

Here words are single word pieces of the sentence encoder MiniLM, their vectors its input embeddings (brought to mean 0
and variance 1 in each component), and definitions WordNet's. Four nets of the same width see the same batches: one for
each task, the joint one, and a joint one in which words and definitions have perceptrons of their own. The better of
two learning rates counts, by validation losses of the tasks a net has. A reverse dictionary is judged by the rank of
the right word among all 6,500, a writer by BLEU of its likeliest next words and by nats per token. References without
rules: nearest words to the mean of the definition's own word vectors, and the trained sentence encoder itself.

Made smaller: width 64, one layer, 5,000 words, definitions of at most 12 words and less than two passes instead of
width 256, four layers and hundreds of thousands of pairs for many epochs; greedy writing instead of a beam of 6; a
learning rate ten times larger and more. With so little training a net for one task, which has no other to serve, may
have the advantage.
"""

import math
from collections import Counter
from functools import cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.bench.fit import cosine_with_warmup, minibatches
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data.glosses import Pairs, Vocabulary, padded, word_definitions
from anabranch.models.language import DualDictionary, load_minilm, retrieval_ranks, sentence_vectors
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
        Rule("reverse.median_rank / chance.median_rank", "<=", 0.5),
        Rule("frequencies.nats - writer.nats", ">=", 0.3),
    ),
    seeds=3,
    minutes=5,
    smaller="Width 64, one layer, 5,000 words, 220 steps of 32 pairs, greedy writing.",
)

ARMS: dict[str, tuple[tuple[Term, ...], bool]] = {  # terms of the loss, and whether S is shared
    "reverse": (("word_from_definition",), True),
    "writer": (("definition_from_word",), True),
    "joint": (TERMS, True),
    "apart": (TERMS, False),
}
DIM, DEPTH, STEPS, BATCH, RATES, LONGEST = 64, 1, 220, 32, (1e-3, 3e-3), 12


class Part(NamedTuple):
    """Words of one split: their rows among all words, vectors, and definitions."""

    rows: Int[Tensor, "words"]
    words: Float[Tensor, "words word"]
    tokens: Int[Tensor, "words time"]

    def some(self, rows: Tensor) -> "Part":
        return Part(self.rows[rows], self.words[rows], self.tokens[rows])


def measure(seed: int) -> Measurements:
    """Train every net with both rates; judge it on the tasks that it has."""
    pairs, parts, vectors, size = data(seed)
    train, valid, test = parts
    measured = references(pairs, parts, vectors, size)
    for arm, (terms, shared) in ARMS.items():
        runs = [fit_dictionary(train, size, vectors.shape[1], terms, shared, rate, seed) for rate in RATES]
        losses = [validation(model, valid, terms) for model in runs]
        model = runs[losses.index(min(losses))]
        measured[f"{arm}.rate"] = RATES[losses.index(min(losses))]
        with torch.no_grad():
            if "word_from_definition" in terms:
                found = model.words(model.code_of_definitions(test.tokens))
                measured |= {f"{arm}.{key}": v for key, v in ranking(found, vectors, test.rows).items()}
            if "definition_from_word" in terms:
                written = model.define(test.words, width=1, longest=LONGEST + 1)
                measured[f"{arm}.bleu"] = bleu(written, [row[row != 0].tolist() for row in test.tokens])
                term = model.losses(test.words, test.tokens, ("definition_from_word",), smoothing=0.0)
                measured[f"{arm}.nats"] = float(term["definition_from_word"])
    return measured


@cache
def pieces() -> dict[str, Tensor]:
    """The input embeddings of whole words in small letters, of three letters or more."""
    model, known = load_minilm()
    usable = [i for i, piece in enumerate(known.pieces) if piece.isascii() and piece.isalpha() and len(piece) > 2]
    return {known.pieces[i]: model.pieces.weight[i] for i in usable}


def data(seed: int) -> tuple[Pairs, list[Part], Float[Tensor, "all word"], int]:
    """The pairs; the three splits; the vectors of all their words; and the number of different tokens."""
    vectors = pieces()
    pairs = word_definitions(vectors, 5000, 500, 1000, seed=seed)
    vocabulary = Vocabulary([definition for _, definition in pairs.train], least=4)
    every = torch.stack([vectors[word] for split in pairs for word, _ in split])
    known = every[: len(pairs.train)]
    every = (every - known.mean(0)) / known.std(0)
    parts, start = [], 0
    for split in pairs:
        rows = torch.arange(start, start + len(split))
        tokens, _ = padded([vocabulary.encode(definition)[:LONGEST] for _, definition in split], LONGEST)
        parts.append(Part(rows, every[rows], tokens))
        start += len(split)
    return pairs, parts, every, len(vocabulary)


def fit_dictionary(
    train: Part, size: int, word_dim: int, terms: tuple[Term, ...], shared: bool, rate: float, seed: int
) -> DualDictionary:
    torch.manual_seed(seed)
    model = DualDictionary(size, word_dim, dim=DIM, depth=DEPTH, shared=shared)
    optimizer = torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    for step, rows in zip(range(STEPS), minibatches(len(train.rows), BATCH, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_with_warmup(step / STEPS, warmup=0.1)
        batch = train.some(rows)
        optimizer.zero_grad()
        torch.stack(list(model.losses(batch.words, batch.tokens, terms).values())).sum().backward()
        nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def validation(model: DualDictionary, valid: Part, terms: tuple[Term, ...]) -> float:
    """Sum of the losses of the two conversions that a net is for, where it has them."""
    conversions: tuple[Term, ...] = ("word_from_definition", "definition_from_word")
    own = tuple(term for term in conversions if term in terms)
    return float(sum(model.losses(valid.words, valid.tokens, own, smoothing=0.0).values()))


def ranking(found: Tensor, known: Tensor, right: Tensor) -> Measurements:
    ranks = retrieval_ranks(found, known, right).double()
    return {"median_rank": float(ranks.median()), "top10": float((ranks <= 10).double().mean())}


def references(pairs: Pairs, parts: list[Part], vectors: Tensor, size: int) -> Measurements:
    """Chance, frequencies of tokens, the mean of a definition's word vectors, and the trained sentence encoder."""
    train, _, test = parts
    model, known = load_minilm()
    bags = torch.stack([model.pieces.weight[known.encode(text)[1:-1]].mean(0) for _, text in pairs.test])
    raw = torch.stack([pieces()[word] for split in pairs for word, _ in split])
    measured = {f"bag.{key}": v for key, v in ranking(bags - raw.mean(0), raw - raw.mean(0), test.rows).items()}
    few = 250  # the trained encoder takes time
    words = sentence_vectors([word for split in pairs for word, _ in split][-1000:])
    texts = sentence_vectors([text for _, text in pairs.test[:few]], longest=32)
    shares = ranking(texts, words, torch.arange(few))
    measured |= {f"encoder.{key}_of_1000": v for key, v in shares.items()}
    seen, scored = (part[part != UNSCORED] for part in (targets(train.tokens), targets(test.tokens)))
    counts = torch.bincount(seen, minlength=size) + 1.0
    measured["frequencies.nats"] = float(-(counts / counts.sum())[scored].log().mean())
    return measured | {"chance.median_rank": len(vectors) / 2}


def bleu(written: list[list[int]], right: list[list[int]], longest: int = 4) -> float:
    """Share of runs of 1 to 4 tokens that stand in the right text, 0 to 1 (Papineni et al. 2002), over all texts.

    Runs of several tokens are counted once more than they are, found and in all, so that none is without.
    """
    logs = []
    for n in range(1, longest + 1):
        hits = total = 0 if n == 1 else 1
        for ours, theirs in zip(written, right, strict=True):
            known, made = (Counter(zip(*(text[i:] for i in range(n)), strict=False)) for text in (theirs, ours))
            hits += sum(min(count, known[run]) for run, count in made.items())
            total += sum(made.values())
        logs.append(math.log(max(hits, 1e-9) / max(total, 1)))
    ours, theirs = sum(map(len, written)), sum(map(len, right))
    return math.exp(sum(logs) / longest + min(0.0, 1 - theirs / max(ours, 1)))
