"""Arrays that are ready: ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ..., in an NPZ file."""

from pathlib import Path

import numpy as np
import pandas as pd

from anabranch.data.arrays import arrays_task
from anabranch.data.columns import LARGEST, listed
from anabranch.data.read import read_npz
from anabranch.data.split import Rows, carved, shuffled, stratified
from anabranch.data.table import table_task
from anabranch.data.target import Answer, Target, read_target
from anabranch.data.task import Kind, Task
from anabranch.errors import InputError

_X = ("x", "data", "inputs", "images")
_Y = ("y", "labels", "targets", "target")


def npz_task(path: Path, goal: Answer | None = None, seed: int = 0) -> Task:
    """Arrays by samples: images ``(n, h, w[, c])``, sequences ``(n, t, c)`` or tables ``(n, f)``.

    Three axes are grey images if the last two are equally long or the values are bytes, otherwise sequences. Four axes
    are images, with the channels last, or first if only that makes 1 to 4 of them. The splits are those of the file
    where it has ``x_test``, with a fifth of the training samples to validate unless it has ``x_valid``; otherwise
    60/20/20, drawn by ``seed``.
    """
    arrays = read_npz(path)
    name = path.name
    parts = [_part(arrays, ending, name) for ending in ("_train", "_valid", "_test")]
    if parts[1] is None:
        parts[1] = _part(arrays, "_val", name)
    whole = _part(arrays, "", name)
    if parts[0] is not None:
        present = [part for part in parts if part is not None]
    elif whole is not None:
        parts, present = [None, None, None], [whole]
    else:
        raise InputError(f"{name}: expected arrays x and y, or x_train, y_train, x_test, y_test; got {listed(arrays)}")
    shapes = {part[0].shape[1:] for part in present} | {part[0].shape[1:] for part in present[:1]}
    if len(shapes) > 1:
        raise InputError(f"{name}: expected samples of one shape; got {' and '.join(map(str, sorted(shapes)))}")
    x, y = (np.concatenate([part[i] for part in present]) for i in (0, 1))
    notes: list[str] = []
    column = pd.Series(y, name="y")
    sizes = [0 if part is None else len(part[0]) for part in parts]
    given = sizes[0] > 0 and sizes[2] > 0
    target = read_target(column, name, goal, notes, least=1 if given else 3)
    rows = _rows(target, sizes, given, seed)
    if x.ndim == 2:
        frame = pd.DataFrame(x, columns=[f"x{i}" for i in range(x.shape[1])]).assign(y=column)
        return table_task(frame, "y", name=name, goal=goal, rows=rows, source=str(path))
    kind, inputs = _shaped(x, notes)
    if not np.isfinite(inputs).all() or float(np.abs(inputs).max()) > LARGEST:
        raise InputError(f"{name}: expected finite numbers; x has some that are missing or infinite")
    return arrays_task(name, kind, inputs, target.values, rows, classes=target.classes, source=str(path), notes=notes)


def _part(arrays: dict[str, np.ndarray], ending: str, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Inputs and targets under one of the names they go by."""
    xs, ys = ([key + ending for key in keys if key + ending in arrays] for keys in (_X, _Y))
    if not xs:
        return None
    if not ys:
        raise InputError(f"{name}: expected targets y{ending} beside {xs[0]}; got {listed(arrays)}")
    x, y = arrays[xs[0]], arrays[ys[0]]
    if x.dtype.kind not in "biuf" or not 2 <= x.ndim <= 4 or 0 in x.shape:
        raise InputError(f"{name}: expected numbers with 2 to 4 axes in {xs[0]}; got {x.dtype} of shape {x.shape}")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != (len(x),) or y.dtype.kind not in "biufUS":
        raise InputError(
            f"{name}: expected one target for each of {len(x)} samples; {ys[0]} is {y.dtype} of shape {y.shape}"
        )
    if y.dtype.kind == "f" and not (np.isfinite(y).all() and float(np.abs(y).max()) <= LARGEST):
        raise InputError(f"{name}: expected finite numbers; {ys[0]} has some that are missing or infinite")
    return x, np.char.decode(y, "latin-1") if y.dtype.kind == "S" else y


def _rows(target: Target, sizes: list[int], given: bool, seed: int) -> Rows:
    count = len(target.values)
    if not given:
        return stratified(target.values, seed) if target.classes else shuffled(count, seed)
    labels = target.values if target.classes else np.zeros(count, np.int64)
    train, valid = np.arange(sizes[0]), np.arange(sizes[0], sizes[0] + sizes[1])
    if not sizes[1]:
        train, valid = carved(labels[: sizes[0]], 0.2, seed)
    return Rows(train, valid, np.arange(count - sizes[2], count))


def _shaped(x: np.ndarray, notes: list[str]) -> tuple[Kind, np.ndarray]:
    """Images with channels first, or sequences as they are."""
    if x.ndim == 4:
        if x.shape[3] > 4 and x.shape[1] <= 4:
            notes.append(f"x of shape {x.shape} taken as images, channels first")
            return "image", x
        notes.append(f"x of shape {x.shape} taken as images, channels last")
        return "image", np.moveaxis(x, 3, 1)
    if x.shape[1] == x.shape[2] or x.dtype == np.uint8:
        notes.append(f"x of shape {x.shape} taken as grey images")
        return "image", x[:, None]
    notes.append(f"x of shape {x.shape} taken as sequences: {x.shape[1]} frames of {x.shape[2]} channels")
    return "sequence", x
