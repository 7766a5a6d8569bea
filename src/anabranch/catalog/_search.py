"""Finding papers by words: spelled a little wrong, or other words for the same thing."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from anabranch.catalog._entries import Paper, papers

# How much a word counts by where it stands. Names count less than keywords: they are so short that one common word of
# them ("transformer") already makes them near.
_FIELDS = {"name": 1.5, "title": 2.0, "keywords": 2.0, "summary": 1.0}


def search(words: str, limit: int = 10) -> list[tuple[Paper, float]]:
    """The papers nearest to some words, best first, each with a score above 0 (1 is a perfect match)."""
    if not words.strip() or not papers():
        return []
    vectorizers, matrices = _index()
    query = expand(words)
    scores = np.zeros(len(papers()))
    for field, weight in _FIELDS.items():
        for vectorizer, matrix in zip(vectorizers[field], matrices[field], strict=True):
            scores += weight * (matrix @ vectorizer.transform([query]).T).toarray().ravel()
    scores /= 2 * sum(_FIELDS.values())
    found = list(papers().values())
    order = np.argsort(-scores, kind="stable")[:limit]
    floor = max(0.02, 0.25 * scores[order[0]])
    return [(found[i], float(scores[i])) for i in order if scores[i] >= floor]


def expand(words: str) -> str:
    """Add the other words of every group that one of the query's words belongs to."""
    text = f" {_plain(words)} "
    extra = [" ".join(group) for group in _synonyms() if any(f" {_plain(word)} " in text for word in group)]
    return " ".join([text, *map(_plain, extra)])


def _plain(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text)  # LinearAttention -> Linear Attention
    return " ".join(re.findall(r"[a-z0-9]+", spaced.lower()))


@cache
def _synonyms() -> list[list[str]]:
    text = (files("anabranch.catalog") / "synonyms.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)["groups"]


@cache
def _index() -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = {
        "name": [f"{p.slug} {' '.join(path.rsplit('.', 1)[-1] for path in p.parts)}" for p in papers().values()],
        "title": [p.title for p in papers().values()],
        "keywords": [" ".join([*p.keywords, p.family]) for p in papers().values()],
        "summary": [p.summary for p in papers().values()],
    }
    vectorizers: dict[str, list[Any]] = {}
    matrices: dict[str, list[Any]] = {}
    for field, documents in texts.items():
        # Whole words find what is meant; pieces of words forgive how it is spelled.
        vectorizers[field] = [
            TfidfVectorizer(sublinear_tf=True, token_pattern=r"[a-z0-9]+"),
            TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True),
        ]
        matrices[field] = [v.fit_transform(map(_plain, documents)) for v in vectorizers[field]]
    return vectorizers, matrices
