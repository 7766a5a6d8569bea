"""Which rows train, validate and test: 60/20/20, drawn once by a seed."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int


class Rows(NamedTuple):
    """Row numbers of the three splits; no row is in two of them."""

    train: Int[np.ndarray, "train"]
    valid: Int[np.ndarray, "valid"]
    test: Int[np.ndarray, "test"]


def shuffled(count: int, seed: int) -> Rows:
    """60/20/20 of ``count`` rows, which must be at least 3, in random order."""
    order = np.random.default_rng(seed).permutation(count)
    held = max(1, round(0.2 * count))
    return Rows(order[2 * held :], order[held : 2 * held], order[:held])


def stratified(labels: Int[np.ndarray, "samples"], seed: int) -> Rows:
    """60/20/20 of every class by itself; each class must have 3 rows or more, so that every split has it."""
    generator = np.random.default_rng(seed)
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held = max(1, round(0.2 * len(rows)))
        for part, chosen in zip(parts, (rows[2 * held :], rows[held : 2 * held], rows[:held]), strict=True):
            part.append(chosen)
    return Rows(*(generator.permutation(np.concatenate(part)) for part in parts))


def carved(labels: Int[np.ndarray, "samples"], share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a training split and of the validation rows carved from it, ``share`` of every class."""
    generator = np.random.default_rng(seed)
    train, valid = [], []
    for label in np.unique(labels):
        rows = generator.permutation(np.flatnonzero(labels == label))
        held = max(1, round(share * len(rows)))
        valid.append(rows[:held])
        train.append(rows[held:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(valid))
