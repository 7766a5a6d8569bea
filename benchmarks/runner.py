"""The race's training loop against a bare loop that does the same steps on the same batches.

The last column is what a race's validations and keeping the best weights add to a run; a race does not count them as training.
"""

from functools import partial
from typing import Any

import torch
from torch import nn

from anabranch import data, optim
from anabranch.bench.contenders import Network
from anabranch.bench.fit import Budget, cosine_with_warmup, minibatches
from anabranch.bench.fit import run as train
from anabranch.bench.runner import Best, validations
from anabranch.bench.skeletons import Size
from anabranch.data import Task
from anabranch.learning import Backprop
from benchmarks.timing import seconds

STEPS = 60


def run() -> list[dict[str, Any]]:
    """One row a task: what the runner costs beyond a bare loop."""
    rows = []
    for name, skeleton in (("digits", "metaformer"), ("wine", "mlp"), ("pydoc", "metaformer")):
        task = data.load(name)
        batch_size = 16 if name == "pydoc" else min(64, len(task.train) // 8)
        checks = validations(Budget(steps=STEPS), batch_size, len(task.valid))
        model = Network("plain", skeleton, {}).build(task, {}, Size(48))
        ways = {
            "bare loop": partial(bare, model, task, batch_size),
            "runner": partial(raced, model, task, batch_size, checks=0),
            "runner with validations": partial(raced, model, task, batch_size, checks=checks),
        }
        found = seconds(ways, rounds=9, limit=150)
        rows.append(
            {
                "case": f"{name}, {skeleton}, {STEPS} steps of {batch_size}",
                "ms a step": round(1e3 * found["bare loop"] / STEPS, 3),
                "overhead": f"{found['runner'] / found['bare loop'] - 1:+.1%}",
                "with validations": f"{found['runner with validations'] / found['bare loop'] - 1:+.1%}",
            }
        )
    return rows


def bare(model: nn.Module, task: Task, batch_size: int) -> None:
    """What one would write by hand: the same schedule, clipping and optimizer."""
    optimizer = optim.AdamW(model, lr=1e-3)
    model.train()
    batches = minibatches(len(task.train), batch_size, 0)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * cosine_with_warmup(step / STEPS)
        batch = task.train.batch(next(batches))
        loss = task.loss(model(batch.inputs), batch.targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()


def raced(model: nn.Module, task: Task, batch_size: int, checks: int) -> None:
    """The same by the race's loop."""
    trainer = Backprop().bind(model, task.loss, partial(optim.AdamW, lr=1e-3), clip=1.0)

    @torch.no_grad()
    def valid() -> float:
        index = torch.arange(len(task.valid))
        scores = [
            task.metric.scores(trainer.predict(batch.inputs), batch.targets)
            for batch in map(task.valid.batch, index.split(4 * batch_size))
        ]
        return float(torch.cat(scores).mean())

    kept = Best(trainer, valid, task.metric.higher_is_better)
    train(trainer, task.train, budget=Budget(steps=STEPS), batch_size=batch_size, checks=checks, check=kept.check)
