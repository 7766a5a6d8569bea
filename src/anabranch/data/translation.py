"""A small phrase-based translation system: it draws up the lists of candidates that a neural score is to re-rank.

Word alignment by IBM model 1 (Brown et al. 1993), phrase pairs that agree with the alignment (Koehn et al. 2003), and a
beam search over all ways to cover the source with phrases, in any order.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from math import log

import numpy as np

Words = tuple[str, ...]
Pair = tuple[Words, Words]

NONE = ""  # the source word of what translates nothing


def lexical_table(pairs: Iterable[Pair], rounds: int = 10) -> dict[tuple[str, str], float]:
    """``p(t | s)`` of IBM model 1 for every source and target word that ever stood in the same pair.

    Each target word is the translation of one source word, or of none, all equally likely; the probabilities are
    re-estimated from expected counts.
    """
    index: dict[tuple[str, str], int] = {}
    entries = []  # one for every source word that a target word may be the translation of
    for number, (given, t) in enumerate((given, t) for given, made in pairs for t in made):
        entries += [(index.setdefault((s, t), len(index)), number) for s in (NONE, *given)]
    cell, owner = np.array(entries).T
    known: dict[str, int] = {}
    row = np.array([known.setdefault(s, len(known)) for s, _ in index])
    p = np.ones(len(index))
    for _ in range(rounds):
        share = p[cell] / np.bincount(owner, p[cell])[owner]
        counts = np.bincount(cell, share)
        p = counts / np.bincount(row, counts)[row]
    return dict(zip(index, p.tolist(), strict=True))


def lexical_weight(table: dict[tuple[str, str], float], source: Words, target: Words, floor: float = 1e-5) -> float:
    """``log p(target | source)`` of IBM model 1, with a least probability for every word."""
    given = (NONE, *source)
    return sum(log(floor + sum(table.get((s, t), 0.0) for s in given) / len(given)) for t in target)


def phrase_pairs(source: Words, target: Words, links: set[tuple[int, int]], longest: int) -> Iterable[Pair]:
    """All pairs of runs of words that have a link between them, and none from inside to outside."""
    for start, end in product(range(len(source)), range(1, len(source) + 1)):
        if not 0 < end - start <= longest:
            continue
        inside = [j for i, j in links if start <= i < end]
        if not inside:
            continue
        low, high = min(inside), max(inside)
        if any(low <= j <= high and not start <= i < end for i, j in links):
            continue
        linked = {j for _, j in links}
        # Words without links may go with either neighbour.
        first = low
        while True:
            last = high
            while True:
                if last - first < longest + 2:
                    yield source[start:end], target[first : last + 1]
                last += 1
                if last == len(target) or last in linked:
                    break
            first -= 1
            if first < 0 or first in linked:
                break


@dataclass(frozen=True)
class Candidate:
    """A translation and what the system says of it, in the order of ``PhraseSystem.features``."""

    words: Words
    features: tuple[float, ...]


class PhraseSystem:
    """Translate short phrases by pieces learned from pairs of phrases.

    Arguments:
        pairs: source and target phrases to learn from.
        longest: words in the longest piece of a source.
        options: translations that are kept for each piece.
        beam: unfinished translations that are kept for each number of source words done.
    """

    features = ("phrases", "phrases back", "words", "words back", "pieces", "moves", "length", "frequency")

    def __init__(self, pairs: list[Pair], *, longest: int = 4, options: int = 10, beam: int = 100):
        self.longest, self.beam = longest, beam
        self.forwards = lexical_table(pairs)
        self.backwards = lexical_table((target, source) for source, target in pairs)
        counts = Counter(
            pair
            for source, target in pairs
            for pair in set(phrase_pairs(source, target, self.align(source, target), longest))
        )
        by_source, by_target = Counter[Words](), Counter[Words]()
        for (source, target), count in counts.items():
            by_source[source] += count
            by_target[target] += count
        table = defaultdict(list)
        for (source, target), count in counts.items():
            table[source].append((target, log(count / by_source[source]), log(count / by_target[target])))
        self.table = {
            source: sorted(found, key=lambda option: (-option[1] - option[2], option[0]))[:options]
            for source, found in table.items()
        }
        self.frequency = Counter(word for _, target in pairs for word in target)

    def align(self, source: Words, target: Words) -> set[tuple[int, int]]:
        """Links ``(source index, target index)``: those of both directions, and those of one beside such a link."""
        there = {
            (max(range(len(source)), key=lambda i, t=t: self.forwards[source[i], t]), j)
            for j, t in enumerate(target)
            if max(self.forwards[s, t] for s in source) > self.forwards[NONE, t]
        }
        back = {
            (i, max(range(len(target)), key=lambda j, s=s: self.backwards[target[j], s]))
            for i, s in enumerate(source)
            if max(self.backwards[t, s] for t in target) > self.backwards[NONE, s]
        }
        links = there & back
        while True:
            taken_i, taken_j = {i for i, _ in links}, {j for _, j in links}
            more = {
                (i, j)
                for i, j in (there | back) - links
                if (i not in taken_i or j not in taken_j) and any(abs(i - a) <= 1 and abs(j - b) <= 1 for a, b in links)
            }
            if not more:
                return links
            links = links | more

    def pieces(self, source: Words) -> list[tuple[int, int, Words, float, float]]:
        """All ways to translate a run of the source; a word that was never seen is copied."""
        found = []
        for start, end in product(range(len(source)), range(1, len(source) + 1)):
            if 0 < end - start <= self.longest:
                run = source[start:end]
                unseen = [(run, 0.0, 0.0)] if len(run) == 1 and run not in self.table else []
                found += [(start, end, *option) for option in self.table.get(run, unseen)]
        return found

    def candidates(self, source: Words, size: int) -> list[Candidate]:
        """The ``size`` best different translations, by the sum of the phrase scores less one for each move."""
        stacks: list[dict[tuple[frozenset[int], Words], tuple[float, ...]]] = [{} for _ in range(len(source) + 1)]
        # A state is what is done and said; its scores: total, phrases, phrases back, pieces, moves, where it stopped.
        stacks[0][frozenset(), ()] = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        pieces = self.pieces(source)
        for done in range(len(source)):
            best = sorted(stacks[done].items(), key=lambda item: (-item[1][0], item[0][1]))[: self.beam]
            for (covered, said), (total, there, back, count, moves, last) in best:
                for start, end, words, p, q in pieces:
                    run = frozenset(range(start, end))
                    if covered & run:
                        continue
                    move = abs(start - last)
                    state = (covered | run, said + words)
                    score = (total + p + q - move, there + p, back + q, count + 1, moves + move, float(end))
                    stack = stacks[len(state[0])]
                    if state not in stack or stack[state][0] < score[0]:
                        stack[state] = score
        finished = sorted(stacks[-1].items(), key=lambda item: (-item[1][0], item[0][1]))[:size]
        return [Candidate(said, self.describe(source, said, score)) for (_, said), score in finished]

    def describe(self, source: Words, target: Words, score: tuple[float, ...]) -> tuple[float, ...]:
        _, there, back, pieces, moves, _ = score
        frequency = sum(log(1 + self.frequency[word]) for word in target) / len(target)
        lexical = lexical_weight(self.forwards, source, target), lexical_weight(self.backwards, target, source)
        return there, back, *lexical, pieces, moves, float(len(target)), frequency
