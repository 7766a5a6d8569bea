"""Running a strategy on a stream, and the numbers that say how it went."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float

from anabranch.continual.strategy import Cost, Strategy
from anabranch.continual.stream import Stream
from anabranch.errors import InputError


@dataclass(frozen=True)
class Results:
    """How a run went; from ``R[i, j]``, the accuracy on the test samples of task j after learning task i.

    Arguments:
        accuracy: the matrix R. A task that is still to come counts, too: before its first samples were seen.
        costs: what had been spent after each task.
        correct, restored: per task and step, if the run was watched: the share of a batch that was predicted correctly
            before learning from it, and how much of its loss the update took away (see ``plasticity``).
    """

    accuracy: Float[np.ndarray, "tasks tasks"]
    costs: tuple[Cost, ...]
    correct: tuple[tuple[float, ...], ...] = ()
    restored: tuple[tuple[float, ...], ...] = ()

    @property
    def acc(self) -> float:
        """Final accuracy, mean over all tasks."""
        return float(self.accuracy[-1].mean())

    @property
    def incremental_acc(self) -> float:
        """Accuracy on the tasks so far, mean over the times at which a task ended."""
        return float(np.mean([row[: i + 1].mean() for i, row in enumerate(self.accuracy)]))

    @property
    def forgetting(self) -> float:
        """How far below its best accuracy a task ends; mean over all tasks but the last."""
        R = self.accuracy
        return float((R[:-1, :-1].max(axis=0) - R[-1, :-1]).mean()) if len(R) > 1 else 0.0

    @property
    def learning_accuracy(self) -> float:
        """Accuracy on each task right after learning it."""
        return float(np.diag(self.accuracy).mean())

    def online_accuracy(self, part: slice = slice(None)) -> float:
        """Accuracy on each batch just before learning from it; mean over the steps of some tasks."""
        return _mean(self.correct[part])

    @property
    def online_first(self) -> float:
        """Online accuracy over the first tenth of the tasks, at least one."""
        return self.online_accuracy(slice(None, self._tenth))

    @property
    def online_last(self) -> float:
        """Online accuracy over the last tenth of the tasks, at least one."""
        return self.online_accuracy(slice(-self._tenth, None))

    @property
    def plasticity(self) -> float:
        """Share of a batch's loss that one update on it takes away, cut to 0..1; mean over the steps."""
        return _mean(self.restored)

    @property
    def cost(self) -> Cost:
        """What was spent in all."""
        return self.costs[-1]

    @property
    def _tenth(self) -> int:
        return max(1, len(self.correct) // 10)


def run(stream: Stream, strategy: Strategy, *, watch: bool | None = None) -> Results:
    """Let a strategy learn a stream, and test it on every task whenever one ends.

    Arguments:
        watch: also measure online accuracy and plasticity, which takes two more predictions a step, not charged to the
            strategy. By default only on online streams.

    Raises:
        InputError: if the strategy must be told where tasks end, and the stream does not tell.
    """
    if stream.scenario == "online" and not strategy.task_free:
        raise InputError(
            f"{type(strategy).__name__} must be told when a task ends, and an online stream does not tell; "
            "use a task-free strategy, or a stream of scenario 'domain' or 'class'"
        )
    if strategy.mixed:
        stream = stream.joint()
    watch = stream.scenario == "online" if watch is None else watch
    boundary = None if strategy.task_free else strategy.boundary  # pyright: ignore[reportAttributeAccessIssue]
    ends = set(stream.ends)
    rows: list[list[float]] = []
    costs: list[Cost] = []
    correct: list[list[float]] = [[]]
    restored: list[list[float]] = [[]]
    for step in stream:
        before = strategy.predict(step.x, step.task) if watch else None
        strategy.observe(step.x, step.y, step.task)
        if before is not None:
            after = strategy.predict(step.x, step.task)
            correct[-1].append(float((before.argmax(-1) == step.y).double().mean()))
            restored[-1].append(
                _restored(float(F.cross_entropy(before, step.y)), float(F.cross_entropy(after, step.y)))
            )
        if step.boundary and boundary is not None:
            boundary()
        if step.t in ends:
            rows.append(_test(stream, strategy))
            costs.append(strategy.cost())
            correct.append([])
            restored.append([])
    seen = [tuple(map(tuple, lists[:-1])) if watch else () for lists in (correct, restored)]
    return Results(np.array(rows), tuple(costs), *seen)


def _test(stream: Stream, strategy: Strategy) -> list[float]:
    row = []
    for number, experience in enumerate(stream.experiences):
        task = number if stream.scenario == "task" else None
        pieces = experience.test.inputs.split(512)
        predicted = torch.cat([strategy.predict(x, task).argmax(-1) for x in pieces])
        row.append(float((predicted == experience.test.targets).double().mean()))
    return row


def _restored(before: float, after: float) -> float:
    if not np.isfinite(after):
        return 0.0
    return float(np.clip(1 - after / max(before, 1e-8), 0, 1))


def _mean(parts: tuple[tuple[float, ...], ...]) -> float:
    values = [value for part in parts for value in part]
    if not values:
        raise ValueError("these numbers were not measured: run with watch=True")
    return float(np.mean(values))
