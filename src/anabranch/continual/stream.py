"""A stream of data whose distribution moves on, and what a learner is told about that."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from anabranch.data.task import Samples

Scenario = Literal["task", "domain", "class", "online"]


class Step(NamedTuple):
    """One batch of a stream.

    ``task`` is the task's number where the scenario tells it, else None. ``boundary`` is True on the last batch of a
    task where the scenario tells that. ``t`` counts the steps from 0.
    """

    x: Tensor
    y: Int[Tensor, "batch"]
    task: int | None
    boundary: bool
    t: int


@dataclass(frozen=True)
class Experience:
    """One task of a stream: what is learned from, what is tested on, and the classes that occur in it."""

    train: Samples
    test: Samples
    classes: tuple[int, ...]


@dataclass(frozen=True)
class Stream:
    """Tasks one after the other, in batches. Iterating again gives the same batches.

    Arguments:
        experiences: the tasks in their order.
        scenario: what the learner is told. ``task``: the task's number, in training and at test. ``domain``: when a
            task ends; the labels stay the same, the inputs change. ``class``: when a task ends; each brings new
            classes, and at test any class seen so far may come. ``online``: nothing; one pass, batches of at most 64.
        batch_size: samples per step; a pass's last batch may be smaller.
        epochs: passes over each task before the next one starts.
        seed: fixes the order of the samples.
        mixed: all tasks' samples shuffled into one order, as many steps as before. Joint training, the usual upper
            bound.
    """

    experiences: tuple[Experience, ...]
    scenario: Scenario
    batch_size: int = 32
    epochs: int = 1
    seed: int = 0
    mixed: bool = False

    def __post_init__(self) -> None:
        if not self.experiences:
            raise ValueError("a stream needs at least one task")
        if self.batch_size < 1 or self.epochs < 1:
            raise ValueError(f"batch_size and epochs must be at least 1; got {self.batch_size} and {self.epochs}")
        if self.scenario == "online" and (self.epochs > 1 or self.batch_size > 64):
            raise ValueError(
                "an online stream is seen once, in batches of at most 64; "
                f"got {self.epochs} epochs and batches of {self.batch_size}"
            )

    @property
    def classes(self) -> int:
        """Number of labels, one more than the highest."""
        return 1 + max(label for experience in self.experiences for label in experience.classes)

    @property
    def heads(self) -> tuple[tuple[int, ...], ...] | None:
        """Each task's classes, for learners that are told the task; None in the other scenarios."""
        return tuple(e.classes for e in self.experiences) if self.scenario == "task" else None

    @property
    def ends(self) -> list[int]:
        """The last step of each task, or of each equal share of a mixed stream."""
        if self.mixed:
            total, parts = len(self._mixed_batches()), len(self.experiences)
            return [(i + 1) * total // parts - 1 for i in range(parts)]
        steps = torch.tensor([-(-len(e.train) // self.batch_size) * self.epochs for e in self.experiences])
        return (steps.cumsum(0) - 1).tolist()

    def joint(self) -> "Stream":
        """The same samples, independent and identically distributed."""
        return replace(self, mixed=True)

    def __iter__(self) -> Iterator[Step]:
        ends = set(self.ends)
        told = self.scenario != "online"
        for t, (number, index) in enumerate(self._mixed_batches() if self.mixed else self._batches()):
            samples = self._pool() if number is None else self.experiences[number].train
            batch = samples.batch(index)
            task = number if self.scenario == "task" else None
            yield Step(batch.inputs, batch.targets, task, told and t in ends, t)

    def _batches(self) -> Iterator[tuple[int | None, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        for number, experience in enumerate(self.experiences):
            for _ in range(self.epochs):
                order = torch.randperm(len(experience.train), generator=generator)
                yield from ((number, index) for index in order.split(self.batch_size))

    def _mixed_batches(self) -> list[tuple[int | None, Tensor]]:
        generator = torch.Generator().manual_seed(self.seed)
        if self.scenario == "task":  # a batch has one task's number, so whole batches are shuffled
            batches = list(self._batches())
            return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        size = sum(len(experience.train) for experience in self.experiences)
        passes = [torch.randperm(size, generator=generator).split(self.batch_size) for _ in range(self.epochs)]
        return [(None, index) for one in passes for index in one]

    def _pool(self) -> Samples:
        inputs = torch.cat([experience.train.inputs for experience in self.experiences])
        return Samples(inputs, torch.cat([experience.train.targets for experience in self.experiences]))
