"""Text as bytes: predict each byte from those before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anabranch.data.sources import SOURCES, need
from anabranch.data.task import BITS_PER_BYTE, Task, Windows
from anabranch.errors import InputError

PAST = 128


def bytes_task(
    name: str,
    train: bytes,
    valid: bytes,
    test: bytes,
    *,
    past: int | None = None,
    source: str = "",
    notes: Sequence[str] = (),
    facts: dict[str, Any] | None = None,
) -> Task:
    """Language model on bytes. Training windows start anywhere; the others lie end to end, so each byte counts once."""
    past = PAST if past is None else past
    if past < 1:
        raise InputError(f"expected a past of 1 byte or more; got {past}")
    for part, text in (("training", train), ("validation", valid), ("test", test)):
        if len(text) <= past:
            raise InputError(f"{name}: expected more than {past} bytes of {part} text; got {len(text)}")

    def windows(text: bytes, stride: int) -> Windows:
        return Windows(torch.from_numpy(np.frombuffer(text, np.uint8).copy()), past, stride=stride, shifted=True)

    splits = windows(train, 1), windows(valid, past), windows(test, past)
    return Task(
        name,
        "bytes",
        "continue",
        *splits,
        metric=BITS_PER_BYTE,
        source=source,
        notes=tuple(notes),
        facts={
            "sizes": {part: len(split) for part, split in zip(("train", "valid", "test"), splits, strict=True)},
            "bytes": {"train": len(train), "valid": len(valid), "test": len(test)},
            "past": past,
            **(facts or {}),
        },
    )


def pydoc(past: int | None = None) -> Task:
    """The help texts of Python itself (``help('topics')``), as bytes.

    Source: ``pydoc_data.topics`` of the running CPython (PSF licence). Many topics repeat chapters of longer ones; a
    topic of which more than 30 % stands in longer topics is left out, or the splits would share text. Split: about
    90/5/5 of the bytes, by whole topics, in an order drawn once; a topic goes to the test split if it still fits there,
    else to the validation split, else it trains. The text depends on Python's version: compare only results whose
    facts show the same hash.
    """
    import hashlib
    import platform
    import random

    need("pydoc", "pydoc_data")
    from pydoc_data.topics import topics

    kept, repeats = _without_repeats(topics)
    random.Random(0).shuffle(kept)
    total = sum(len(topics[name].encode()) for name in kept)
    parts: dict[str, list[str]] = {"test": [], "valid": [], "train": []}
    room = {"test": 0.05 * total, "valid": 0.05 * total, "train": float(total)}
    for name in kept:
        size = len(topics[name].encode())
        part = next(part for part in parts if room[part] >= size)
        room[part] -= size
        parts[part].append(name)
    texts = {part: "\n\n".join(topics[name].strip() for name in names).encode() for part, names in parts.items()}
    digest = hashlib.sha256(b"".join(texts.values())).hexdigest()
    return bytes_task(
        "pydoc",
        texts["train"],
        texts["valid"],
        texts["test"],
        past=past,
        source=SOURCES["pydoc"],
        notes=[f"{len(repeats)} of {len(topics)} topics left out, because longer ones repeat them"],
        facts={
            "python": platform.python_version(),
            "sha256": digest,
            "topics": {p: sorted(n) for p, n in parts.items()},
        },
    )


def _without_repeats(topics: dict[str, str]) -> tuple[list[str], list[str]]:
    """Names of the topics that are mostly text of their own, and of the others; longest first."""
    seen: set[str] = set()
    kept, repeats = [], []
    for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
        lines = [line.strip() for line in topics[name].splitlines() if len(line.strip()) > 20]
        known = sum(len(line) for line in lines if line in seen)
        if known > 0.3 * max(1, sum(map(len, lines))):
            repeats.append(name)
        else:
            kept.append(name)
            seen.update(lines)
    return kept, repeats
