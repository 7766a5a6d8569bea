"""The slot ``compressor``: a trained module in, a cheaper or plainer module out, and what that really saved.

Everything in the report is measured on this machine: bytes of a file that was written, seconds of a run that was timed,
differences between outputs that were computed. Nothing is estimated from bit widths or operation counts.
"""

import io
import time
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from anabranch.spaces import Space


@dataclass(frozen=True)
class Fidelity:
    """How close the converted module stays to the original on given inputs.

    Arguments:
        largest: largest absolute difference of an output.
        relative: norm of the difference over the norm of the original's output.
        agreement: share of positions with the same largest output along the last axis; 1 for a single output.
    """

    largest: float
    relative: float
    agreement: float


class Timing(NamedTuple):
    """Median seconds of one forward pass of the example, measured in turns, and on how many threads."""

    before: float
    after: float
    threads: int


@dataclass(frozen=True)
class Report:
    """What a conversion changed.

    Arguments:
        bytes_before, bytes_after: size of the saved ``state_dict``, as ``torch.save`` writes it.
        seconds: time of a forward pass before and after.
        fidelity: closeness of the outputs on the example.
        details: what else this converter counts, for example leaves of a tree.
    """

    bytes_before: int
    bytes_after: int
    seconds: Timing
    fidelity: Fidelity
    details: dict[str, float] = field(default_factory=dict)

    @property
    def compression(self) -> float:
        """How many times smaller the saved file is."""
        return self.bytes_before / self.bytes_after

    @property
    def speedup(self) -> float:
        """How many times faster a forward pass is."""
        return self.seconds.before / self.seconds.after


class Converted(NamedTuple):
    """A converted module in eval mode, and its report."""

    module: nn.Module
    report: Report


class Converter:
    """Contract of the slot ``compressor``.

    A subclass gives ``transform``. It gets a deep copy, so the original cannot be touched. A method that needs
    training or calibration gets what it needs (data, a loss) in its constructor; ``example`` is for shapes and for the
    report.
    """

    space: ClassVar[Space] = {}
    lossless: ClassVar[bool] = False  # the outputs are meant to stay the same, up to rounding

    def convert(self, module: nn.Module, example: Tensor | tuple[Tensor, ...], *, repeats: int = 15) -> Converted:
        """Convert a module.

        Arguments:
            module: maps a batch to one tensor. Left bit for bit as it was.
            example: a batch of inputs, as large as the timing should be for; a tuple, where the module takes several.
                ``transform`` and ``details`` see the first.
            repeats: timed runs of each module; the median counts.

        Raises:
            ValueError: if the example is empty or the module's output is not one tensor, or what ``transform`` raises
                for modules that it cannot convert.
        """
        inputs = _inputs(example)
        original = deepcopy(module).eval()
        with torch.inference_mode():
            expected = original(*inputs)
        if not isinstance(expected, Tensor):
            raise ValueError(f"expected a module whose output is one tensor; got {type(expected).__name__}")
        converted = self.transform(deepcopy(original), inputs[0]).eval()
        with torch.inference_mode():
            outcome = converted(*inputs)
        if outcome.shape != expected.shape or outcome.dtype != expected.dtype:
            raise RuntimeError(
                f"{type(self).__name__} changed the output from {tuple(expected.shape)} {expected.dtype} "
                f"to {tuple(outcome.shape)} {outcome.dtype}"
            )
        report = Report(
            stored_bytes(original),
            stored_bytes(converted),
            timing(original, converted, example, repeats),
            fidelity(expected, outcome),
            self.details(original, converted, inputs[0]),
        )
        return Converted(converted, report)

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        """The mechanism, on a copy in eval mode that may be changed or thrown away."""
        raise NotImplementedError

    def details(self, before: nn.Module, after: Any, example: Tensor) -> dict[str, float]:
        """Further measured numbers for the report."""
        return {}


def stored_bytes(module: nn.Module) -> int:
    """Bytes that the saved ``state_dict`` takes on disk, with the file's own overhead."""
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return file.getbuffer().nbytes


def fidelity(expected: Tensor, outcome: Tensor) -> Fidelity:
    """Compare two outputs for the same inputs."""
    difference = outcome.double() - expected.double()
    scale = float(expected.double().norm())
    norm = float(difference.norm())
    same = (outcome.argmax(-1) == expected.argmax(-1)).double().mean() if expected.ndim > 1 else 1.0
    return Fidelity(float(difference.abs().max()), norm / scale if scale else norm, float(same))


@torch.inference_mode()
def timing(before: nn.Module, after: nn.Module, example: Tensor | tuple[Tensor, ...], repeats: int) -> Timing:
    """Median seconds of a forward pass of either module; run in turns, so that a busy machine slows down both."""
    inputs = _inputs(example)
    tensors = (*inputs, *before.parameters(), *before.buffers(), *after.parameters(), *after.buffers())
    devices = {tensor.device for tensor in tensors if tensor.device.type not in ("cpu", "meta")}
    seconds: tuple[list[float], list[float]] = ([], [])
    for run in range(repeats + 2):
        for module, times in zip((before, after), seconds, strict=True):
            _wait(devices)
            started = time.perf_counter()
            module(*inputs)
            _wait(devices)
            if run >= 2:  # the first runs fill caches
                times.append(time.perf_counter() - started)
    return Timing(median(seconds[0]), median(seconds[1]), torch.get_num_threads())


def _wait(devices: Iterable[torch.device]) -> None:
    """Until all that was begun on these accelerators is done: a call there returns before its work does."""
    for device in devices:
        torch.accelerator.synchronize(device)


def _inputs(example: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What a module is called with."""
    inputs = example if isinstance(example, tuple) else (example,)
    if not inputs or any(each.ndim < 1 or len(each) < 1 for each in inputs):
        shapes = ", ".join(str(tuple(each.shape)) for each in inputs) or "nothing"
        raise ValueError(f"expected a batch of at least one example input; got shape {shapes}")
    return inputs
