"""From arrays and row numbers to a task: everything scaled with statistics of the training rows only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from anabranch.data.split import Rows
from anabranch.data.task import ACCURACY, Kind, Samples, Task, rmse


def arrays_task(
    name: str,
    kind: Kind,
    inputs: np.ndarray,
    targets: np.ndarray,
    rows: Rows,
    *,
    classes: Sequence[str] = (),
    lengths: np.ndarray | None = None,
    standardise: bool = True,
    source: str = "",
    notes: Sequence[str] = (),
    facts: dict[str, Any] | None = None,
) -> Task:
    """Task whose samples lie along the first axis of ``inputs``.

    Arguments:
        inputs: image ``(samples, channels, height, width)``, sequence ``(samples, time, channels)`` or table
            ``(samples, features)``.
        targets: class numbers when ``classes`` are given, otherwise real numbers, which are standardised too.
        rows: which samples are in which split.
        lengths: frames that exist in each sequence; the others stay zero.
        standardise: whether to bring the inputs to mean 0 and variance 1, by channel or feature.
    """
    inputs = inputs.astype(np.float32)
    if standardise:
        inputs = _standardised(inputs, kind, rows.train, lengths)
    facts = dict(facts or {})
    facts["sizes"] = {part: len(chosen) for part, chosen in rows._asdict().items()}
    if classes:
        goal, metric, targets = "classify", ACCURACY, targets.astype(np.int64)
        facts["class counts"] = {
            label: int(count)
            for label, count in zip(classes, np.bincount(targets, minlength=len(classes)), strict=True)
        }
    else:
        known = targets[rows.train].astype(np.float64)
        mean, scale = float(known.mean()), float(known.std()) or 1.0
        goal, metric, targets = "regress", rmse(scale), ((targets - mean) / scale).astype(np.float32)
        facts["target"] = {"mean": mean, "standard deviation": scale}

    def part(chosen: np.ndarray) -> Samples:
        return Samples(
            torch.from_numpy(inputs[chosen]),
            torch.from_numpy(targets[chosen]),
            None if lengths is None else torch.from_numpy(lengths[chosen].astype(np.int64)),
        )

    return Task(
        name,
        kind,
        goal,
        *map(part, rows),
        metric=metric,
        classes=tuple(classes),
        source=source,
        notes=tuple(notes),
        facts=facts,
    )


def _standardised(inputs: np.ndarray, kind: Kind, train: np.ndarray, lengths: np.ndarray | None) -> np.ndarray:
    axes = {"image": (0, 2, 3), "sequence": (0, 1), "table": (0,)}[kind]
    exists = None
    if lengths is not None:
        exists = (np.arange(inputs.shape[1]) < lengths[:, None])[:, :, None]
    where = True if exists is None else exists[train]
    mean = inputs[train].mean(axes, keepdims=True, where=where, dtype=np.float64)
    scale = inputs[train].std(axes, keepdims=True, where=where, dtype=np.float64)
    scaled = ((inputs - mean) / np.where(scale > 1e-12, scale, 1.0)).astype(np.float32)
    return scaled if exists is None else np.where(exists, scaled, np.float32(0))
