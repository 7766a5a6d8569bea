"""Streams made from one dataset: its classes in turn, or itself under one change after another.

Class orders, permutations and sample orders come from ``seed`` alone. Tune on streams of other seeds than the reported
ones, and with ``part="valid"``, which leaves the test samples unseen.
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from anabranch.continual.stream import Experience, Scenario, Stream
from anabranch.data.task import Samples, Split, Task

Part = Literal["valid", "test"]


def split(
    data: Task,
    *,
    classes_per_task: int = 2,
    scenario: Literal["task", "domain", "class"] = "class",
    seed: int = 0,
    part: Part = "test",
    **options: Any,
) -> Stream:
    """A few classes at a time, in an order drawn from the seed.

    Arguments:
        data: a classification task. Classes that do not fill a last task are left out.
        scenario: ``task`` and ``class`` keep the labels; ``domain`` numbers them anew within each task.
        part: which samples the learner is tested on.
        options: ``batch_size`` and ``epochs`` of the stream.
    """
    _check(data, part)
    if not 1 <= classes_per_task <= len(data.classes):
        raise ValueError(f"classes_per_task must lie between 1 and {len(data.classes)}; got {classes_per_task}")
    order = torch.randperm(len(data.classes), generator=torch.Generator().manual_seed(seed)).tolist()
    train, test = _whole(data.train), _whole(getattr(data, part))
    experiences = []
    for first in range(0, len(order) - classes_per_task + 1, classes_per_task):
        chosen = order[first : first + classes_per_task]
        numbers = {label: i if scenario == "domain" else label for i, label in enumerate(chosen)}
        parts = [_only(samples, numbers) for samples in (train, test)]
        experiences.append(Experience(*parts, classes=tuple(sorted(numbers.values()))))
    return Stream(tuple(experiences), scenario, seed=seed, **options)


def permuted(
    data: Task, *, tasks: int = 5, scenario: Scenario = "domain", seed: int = 0, part: Part = "test", **options: Any
) -> Stream:
    """The same samples under a new fixed permutation of their input values for each task; the first one, too."""
    _check(data, part)
    generator = torch.Generator().manual_seed(seed)
    train, test = _whole(data.train), _whole(getattr(data, part))
    classes = tuple(range(len(data.classes)))
    experiences = []
    for _ in range(tasks):
        order = torch.randperm(train.inputs[0].numel(), generator=generator)
        parts = [Samples(s.inputs.flatten(1)[:, order].reshape(s.inputs.shape), s.targets) for s in (train, test)]
        experiences.append(Experience(*parts, classes=classes))
    return Stream(tuple(experiences), scenario, seed=seed, **options)


def rotated(
    data: Task,
    *,
    tasks: int = 5,
    degrees: float = 20.0,
    scenario: Scenario = "domain",
    seed: int = 0,
    part: Part = "test",
    **options: Any,
) -> Stream:
    """The same images, turned by ``degrees`` more (counter-clockwise) for each task; the first task is not turned."""
    _check(data, part)
    if data.kind != "image":
        raise ValueError(f"only images can be rotated; {data.name} is of kind {data.kind}")
    train, test = _whole(data.train), _whole(getattr(data, part))
    classes = tuple(range(len(data.classes)))
    experiences = []
    for i in range(tasks):
        parts = [Samples(_turn(s.inputs, i * degrees), s.targets) for s in (train, test)]
        experiences.append(Experience(*parts, classes=classes))
    return Stream(tuple(experiences), scenario, seed=seed, **options)


def label_permuted(
    data: Task, *, every: int = 400, tasks: int = 20, seed: int = 0, part: Part = "test", batch_size: int = 1
) -> Stream:
    """An online stream: samples drawn at random, and the labels given new meanings after every ``every`` samples."""
    _check(data, part)
    generator = torch.Generator().manual_seed(seed)
    train, test = _whole(data.train), _whole(getattr(data, part))
    classes = tuple(range(len(data.classes)))
    experiences = []
    for _ in range(tasks):
        meaning = torch.randperm(len(classes), generator=generator)
        drawn = torch.randint(len(train), (every,), generator=generator)
        learned = Samples(train.inputs[drawn], meaning[train.targets[drawn]])
        experiences.append(Experience(learned, Samples(test.inputs, meaning[test.targets]), classes))
    return Stream(tuple(experiences), "online", batch_size=batch_size, seed=seed)


def _check(data: Task, part: str) -> None:
    if data.goal != "classify":
        raise ValueError(f"expected a task of classification; {data.name} asks to {data.goal}")
    if part not in ("valid", "test"):
        raise ValueError(f"part is 'valid' or 'test'; got {part!r}")


def _whole(samples: Split) -> Samples:
    batch = samples.batch(torch.arange(len(samples)))
    return Samples(batch.inputs, batch.targets)


def _only(samples: Samples, numbers: dict[int, int]) -> Samples:
    keep = torch.isin(samples.targets, torch.tensor(list(numbers)))
    targets = samples.targets[keep].clone().apply_(lambda label: numbers[label])
    return Samples(samples.inputs[keep], targets)


def _turn(images: Tensor, degrees: float) -> Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    matrix = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).reshape(2, 2)
    if degrees == 0:
        return images
    theta = F.pad(matrix, (0, 1)).expand(len(images), 2, 3).to(images)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)
