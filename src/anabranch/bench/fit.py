"""The training loop that races and claims share: one order of the data per seed, one schedule, one way to score."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.data.task import Split, Task
from anabranch.learning import Backprop, Trainer
from anabranch.learning.base import forward


class Diverged(ArithmeticError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class Budget:
    """What one training run may use: a number of ``steps``, or ``seconds`` of training time."""

    steps: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.seconds is None):
            raise ValueError("a budget is either steps or seconds")

    def spent(self, step: int, seconds: float) -> float:
        """Share of the budget that is used up, 1 at the end."""
        if self.steps is not None:
            return step / self.steps
        return seconds / self.seconds if self.seconds else 1.0


@dataclass
class History:
    """What happened in a run: validation scores along the way, and the time that training itself took."""

    steps: int = 0
    seconds: float = 0.0
    curve: list[tuple[int, float, float]] = field(
        default_factory=list
    )  # step, mean training loss since, validation score


def minibatches(size: int, batch_size: int, seed: int) -> Iterator[Int[Tensor, "batch"]]:
    """Endless shuffled passes over ``size`` samples; the order depends on nothing but the arguments."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(size, generator=generator).split(batch_size):
            if len(index) == batch_size or size < batch_size:
                yield index


def cosine_with_warmup(spent: float, warmup: float = 0.05) -> float:
    """Factor on the learning rate when a share of the budget is spent: a linear rise, then half a cosine down to 0."""
    if spent < warmup:
        return max(spent, 1e-3) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (spent - warmup) / (1 - warmup))))


def fit(
    model: nn.Module,
    train: Split,
    *,
    loss: Callable[[Tensor, Tensor], Float[Tensor, ""]],
    optimizer: torch.optim.Optimizer,
    budget: Budget,
    clip: float | None = 1.0,
    **options: Any,
) -> History:
    """Train a model in place by backpropagation; the options are those of :func:`run`.

    Arguments:
        loss: maps the model's output and the targets to a scalar.
        clip: largest norm of the gradient; None leaves it alone.
    """
    trainer = Backprop().bind(model, loss, lambda _: optimizer, clip=clip)
    return run(trainer, train, budget=budget, **options)


def run(
    trainer: Trainer,
    train: Split,
    *,
    budget: Budget,
    batch_size: int = 64,
    seed: int = 0,
    schedule: Callable[[float], float] = cosine_with_warmup,
    checks: int = 0,
    check: Callable[[nn.Module], float] | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> History:
    """Train a module in place by whatever rule the trainer follows.

    Arguments:
        budget: when to stop.
        seed: fixes the order of the data.
        schedule: factor on every learning rate by the share of the budget that is spent.
        checks: how many times, evenly spread, ``check`` is called on the model in eval mode; its time is not counted.
        on_progress: called at every check with the share of the budget that is spent.

    Raises:
        Diverged: if the loss stops being finite.
    """
    model = trainer.module
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    groups = [group for optimizer in trainer.optimizers for group in optimizer.param_groups]
    rates = [group["lr"] for group in groups]
    history, since, losses = History(), 0, torch.zeros((), device=device)
    next_check = 1 / checks if checks and check else math.inf
    model.train()
    started, paused = time.perf_counter(), 0.0
    for index in minibatches(len(train), batch_size, seed):
        spent = budget.spent(history.steps, time.perf_counter() - started - paused)
        if spent >= 1:
            break
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate * schedule(spent)
        losses += trainer.step(train.batch(index).to(device)).loss
        since, history.steps = since + 1, history.steps + 1
        spent = budget.spent(history.steps, time.perf_counter() - started - paused)
        if spent >= next_check - 1e-9:
            pause = time.perf_counter()
            mean = float(losses) / since
            if not math.isfinite(mean):
                raise Diverged(f"the loss became {mean} within {history.steps} steps")
            assert check is not None
            model.eval()
            history.curve.append((history.steps, mean, check(model)))
            model.train()
            losses, since = torch.zeros_like(losses), 0
            while next_check <= spent + 1e-9:
                next_check += 1 / checks
            if on_progress is not None:
                on_progress(min(spent, 1.0))
            paused += time.perf_counter() - pause
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    history.seconds = time.perf_counter() - started - paused
    if since and not math.isfinite(float(losses)):
        raise Diverged(f"the loss became {float(losses)} within {history.steps} steps")
    for group, rate in zip(groups, rates, strict=True):
        group["lr"] = rate
    model.eval()
    return history


@torch.no_grad()
def predictions(model: nn.Module, split: Split, batch_size: int = 256) -> Iterator[tuple[Tensor, Tensor]]:
    """Outputs and targets of a whole split, in order, a batch at a time."""
    was_training = model.training
    model.eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    for index in torch.arange(len(split)).split(batch_size):
        batch = split.batch(index).to(device)
        yield forward(model, batch), batch.targets
    model.train(was_training)


def scores(model: nn.Module, split: Split, task: Task, batch_size: int = 256) -> Float[Tensor, "samples"]:
    """The metric's score for every sample of a split."""
    return torch.cat(
        [task.metric.scores(output, target).cpu() for output, target in predictions(model, split, batch_size)]
    )


def score(model: nn.Module, split: Split, task: Task, batch_size: int = 256) -> float:
    """The metric on a whole split."""
    return task.metric.summary(float(scores(model, split, task, batch_size).mean()))
