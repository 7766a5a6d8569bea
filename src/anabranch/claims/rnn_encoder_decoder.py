"""The probability that an encoder-decoder gives a phrase pair helps a translation system to rank its candidates.

Cho et al. (2014) train a recurrent encoder-decoder on the phrase pairs of an English-French translation system and add
its score to the system's log-linear model: the translations get better, also beside a neural language model.

Here the phrases are names from CLDR (territories, languages, scripts, currencies, time zones, units; English to
French). 60 % of them teach a small phrase-based system and the networks; 20 % choose learning rates and the weights of
the log-linear model; the rest is scored. Each held-out name gets up to 50 candidates from the phrase-based system;
names that the system cannot produce, or has no choice for, are left out, as no re-ranking helps them. The target
language model is the same network, as large and tuned alike, that reads an empty source.
"""

import copy
import random
from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data.phrases import Phrase, cldr_phrases
from anabranch.data.task import Samples
from anabranch.data.translation import Candidate, PhraseSystem, Words
from anabranch.models.phrase import PhraseEncoderDecoder
from anabranch.models.phrase_reranker import LogLinearReranker, ranks

CLAIM = Claim(
    paper="rnn-encoder-decoder",
    statement=(
        "The encoder-decoder's log-probability of a phrase pair, as one more feature, improves the ranking of a "
        "log-linear translation model: by more than a target language model does, and also beside one."
    ),
    rules=(
        Rule("rnn.mrr - base.mrr", ">=", 0.02),
        Rule("rnn.top1 - base.top1", ">=", 0.02),
        Rule("rnn.mrr - lm.mrr", ">=", 0.02),
        Rule("both.mrr - lm.mrr", ">", 0.0),
        Rule("neighbours.trained - neighbours.untrained", ">=", 0.02),
    ),
    seeds=5,
    minutes=3,
    smaller=(
        "128 units, embeddings of 64 and 64 maxima instead of 1000, 100 and 500; 900 pairs of names instead of phrase "
        "tables from 350 million words; Adam with two learning rates, 100 steps and the best of 10 checkpoints instead "
        "of Adadelta for days; ranks of whole names instead of BLEU. Sentences, where a phrase's score is one of many, "
        "are not tested; nor is what much data would give the count-based features."
    ),
)

LISTED, STEPS, BATCH, RATES = 50, 100, 128, (2e-3, 5e-3)
List = tuple[Phrase, list[Candidate], int]


def measure(seed: int) -> Measurements:
    """Rank the same candidates with the system's own features, and with each neural score added."""
    phrases = cldr_phrases("fr")
    random.Random(seed).shuffle(phrases)
    first, second = int(0.6 * len(phrases)), int(0.8 * len(phrases))
    train, dev, test = phrases[:first], phrases[first:second], phrases[second:]
    system = PhraseSystem([(p.source, p.target) for p in train])
    dev_lists, test_lists = candidate_lists(system, dev), candidate_lists(system, test)

    sources, targets = Vocabulary([p.source for p in train]), Vocabulary([p.target for p in train])
    rnn = Scorer(sources, targets, blind=False)
    untrained = rnn.shared_kinds(test)
    scorers = {"lm": Scorer(sources, targets, blind=True), "rnn": rnn}
    measured = {"lists": float(len(test_lists)), "neighbours.untrained": untrained}
    for name, scorer in scorers.items():
        measured[f"{name}.loss"] = scorer.train_best(train, dev, seed)
    measured["neighbours.trained"] = rnn.shared_kinds(test)

    for name, used in {"base": [], "lm": ["lm"], "rnn": ["rnn"], "both": ["lm", "rnn"]}.items():
        added = [scorers[which] for which in used]
        tuned = LogLinearReranker(len(PhraseSystem.features) + len(added))
        tuned.tune(*table(dev_lists, added))
        features, best, exists = table(test_lists, added)
        places = ranks(tuned(features), best, exists).double()
        measured[f"{name}.mrr"] = float((1 / places).mean())
        measured[f"{name}.top1"] = float((places == 1).double().mean())
    return measured


def candidate_lists(system: PhraseSystem, phrases: list[Phrase]) -> list[List]:
    """The candidates of every phrase that has several and the right one among them."""
    found = []
    for phrase in phrases:
        candidates = system.candidates(phrase.source, LISTED)
        said = [candidate.words for candidate in candidates]
        if phrase.target in said and len(said) > 1:
            found.append((phrase, candidates, said.index(phrase.target)))
    return found


def table(lists: list[List], scorers: list["Scorer"]) -> tuple[Tensor, Tensor, Tensor]:
    """Features of all candidates, side by side with the scorers', the right ones, and which candidates exist."""
    longest = max(len(candidates) for _, candidates, _ in lists)
    features = torch.zeros(len(lists), longest, len(PhraseSystem.features) + len(scorers), dtype=torch.float64)
    exists = torch.zeros(len(lists), longest, dtype=torch.bool)
    for row, (phrase, candidates, _) in enumerate(lists):
        own = torch.tensor([candidate.features for candidate in candidates], dtype=torch.float64)
        pairs = [(phrase.source, candidate.words) for candidate in candidates]
        added = [scorer.score(pairs).double()[:, None] for scorer in scorers]
        features[row, : len(candidates)] = torch.cat([own, *added], dim=1)
        exists[row, : len(candidates)] = True
    return features, torch.tensor([best for *_, best in lists]), exists


class Vocabulary:
    """Numbers of words: 0 for the end of a phrase, 1 for words seen less than twice, then the others."""

    def __init__(self, phrases: list[Words]):
        counts = Counter(word for phrase in phrases for word in phrase)
        self.index = {word: i for i, word in enumerate(sorted(w for w, n in counts.items() if n > 1), start=2)}
        self.size = len(self.index) + 2

    def rows(self, phrases: list[Words]) -> Tensor:
        rows = torch.zeros(len(phrases), max(map(len, phrases)), dtype=torch.long)
        for row, phrase in zip(rows, phrases, strict=True):
            row[: len(phrase)] = torch.tensor([self.index.get(word, 1) for word in phrase])
        return rows


class Scorer(nn.Module):
    """The network over words; a blind one reads no source and is a language model of the target."""

    def __init__(self, sources: Vocabulary, targets: Vocabulary, *, blind: bool):
        super().__init__()
        self.sources, self.targets, self.blind = sources, targets, blind
        torch.manual_seed(0)
        self.network = PhraseEncoderDecoder(sources.size, targets.size, dim=128, embed=64, maxout=64)
        self.width = 0

    def rows(self, pairs: list[tuple[Words, Words]]) -> tuple[Tensor, Tensor]:
        sources, targets = zip(*pairs, strict=True)
        source = self.sources.rows(list(sources))
        return source[:, :0] if self.blind else source, self.targets.rows(list(targets))

    @torch.no_grad()
    def score(self, pairs: list[tuple[Words, Words]]) -> Tensor:
        return self.network(*self.rows(pairs))

    def forward(self, rows: Tensor) -> Tensor:
        """Scores of rows that hold a source and a target side by side; cut to the longest there is."""
        source, target = rows[:, : self.width], rows[:, self.width :]
        return self.network(source[:, (source != 0).any(0)], target[:, (target != 0).any(0)])

    def train_best(self, train: list[Phrase], dev: list[Phrase], seed: int) -> float:
        """Train with every learning rate and keep the weights that explain the development set best; its loss."""
        source, target = self.rows([(p.source, p.target) for p in train])
        self.width = source.shape[1]
        samples = Samples(torch.cat([source, target], dim=1), torch.zeros(len(target)))
        held_out = [(p.source, p.target) for p in dev]
        losses: dict[float, dict[str, Tensor]] = {}

        def check(_: nn.Module) -> float:
            loss = -float(self.score(held_out).mean())
            if loss < min(losses, default=float("inf")):
                losses[loss] = copy.deepcopy(self.network.state_dict())
            return loss

        start = copy.deepcopy(self.network.state_dict())
        for rate in RATES:
            self.network.load_state_dict(start)
            optimizer = torch.optim.Adam(self.network.parameters(), lr=rate)
            budget = Budget(steps=STEPS)
            fit(
                self,
                samples,
                loss=lambda scores, _: -scores.mean(),
                optimizer=optimizer,
                budget=budget,
                batch_size=BATCH,
                seed=seed,
                checks=10,
                check=check,
            )
        self.network.load_state_dict(losses[min(losses)])
        return min(losses)

    @torch.no_grad()
    def shared_kinds(self, phrases: list[Phrase]) -> float:
        """Share of phrases whose nearest neighbour, by the angle of their summaries, names the same kind of thing.

        Phrases that the vocabulary cannot tell apart count once, and those of unknown words alone not at all.
        """
        rows = self.sources.rows([p.source for p in phrases])
        distinct = {tuple(row): i for i, row in enumerate(rows.tolist()) if max(row) > 1}
        kinds = [phrases[i].kind for i in distinct.values()]
        c = F.normalize(self.network.encode(rows[list(distinct.values())]), dim=1)
        nearest = (c @ c.t()).fill_diagonal_(-1).argmax(1).tolist()
        return sum(kinds[i] == kind for i, kind in zip(nearest, kinds, strict=True)) / len(kinds)
