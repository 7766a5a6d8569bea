"""Rules side by side on one network and one task: what they reach, and what they cost."""

import copy
from collections.abc import Callable, Mapping
from functools import partial

import pandas as pd
import torch
from torch import nn

from anabranch import optim
from anabranch.data.task import Split, Task
from anabranch.learning.base import Rule, StepReport, Trainer
from anabranch.learning.check import gradient_gap


def compare(
    rules: Mapping[str, Rule],
    make_module: Callable[[], nn.Module],
    task: Task,
    *,
    examples: int,
    rates: tuple[float, float, float] = (3e-4, 1e-3, 3e-3),
    batch_size: int = 64,
    seed: int = 0,
    optimizer: Callable[..., torch.optim.Optimizer] = optim.AdamW,
) -> pd.DataFrame:
    """Train copies of one network by each rule, on the same batches in the same order.

    Arguments:
        make_module: builds the network, once.
        examples: budget of each run, in training samples.
        rates: every rule tries these three learning rates and is judged on test data with the one that is best on
            validation data.
        optimizer: takes a model and ``lr``.

    Returns: one row a rule, best first: the task's metric, the learning rate, and for one step before training the work
        (``forward_units``, ``backward_units``), the memory (``saved_peak``, bytes), the parameters beside the network's
        and the cosine to backpropagation's gradient, where the rule has a gradient.
    """
    torch.manual_seed(seed)
    start = make_module()
    rows = {}
    for name, rule in rules.items():
        runs = [_train(rule, start, task, partial(optimizer, lr=rate), examples, batch_size, seed) for rate in rates]
        marks = [_metric(trainer, task.valid, task) for trainer in runs]
        best = (max if task.metric.higher_is_better else min)(range(len(rates)), key=marks.__getitem__)
        cost = _first_step(rule, start, task, batch_size, seed)
        rows[name] = {
            task.metric.name: _metric(runs[best], task.test, task),
            "lr": rates[best],
            "forward_units": cost.forward_units,
            "backward_units": cost.backward_units,
            "saved_peak": cost.saved_peak,
            "extra_parameters": sum(p.numel() for p in runs[best].extra_parameters().values()),
            "cosine": _cosine(rule, start, task, batch_size),
        }
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.sort_values(task.metric.name, ascending=not task.metric.higher_is_better, kind="stable")


def _train(
    rule: Rule,
    start: nn.Module,
    task: Task,
    make_optimizer: Callable[[object], torch.optim.Optimizer],
    examples: int,
    batch_size: int,
    seed: int,
) -> Trainer:
    torch.manual_seed(seed)
    trainer = rule.bind(copy.deepcopy(start), task.loss, make_optimizer)
    order, left = torch.Generator().manual_seed(seed), examples
    while left > 0:
        for index in torch.randperm(len(task.train), generator=order).split(batch_size):
            trainer.step(task.train.batch(index[:left]))
            left -= len(index)
            if left <= 0:
                break
    return trainer


def _metric(trainer: Trainer, split: Split, task: Task) -> float:
    scores = []
    for index in torch.arange(len(split)).split(256):
        batch = split.batch(index)
        scores.append(task.metric.scores(trainer.predict(batch.inputs, batch.lengths), batch.targets))
    return task.metric.summary(float(torch.cat(scores).mean()))


def _first_step(rule: Rule, start: nn.Module, task: Task, batch_size: int, seed: int) -> StepReport:
    torch.manual_seed(seed)
    trainer = rule.bind(copy.deepcopy(start), task.loss)
    with trainer.metered():
        return trainer.step(task.example(batch_size))


def _cosine(rule: Rule, start: nn.Module, task: Task, batch_size: int) -> float:
    if rule.kind == "local":
        return float("nan")
    return gradient_gap(rule, copy.deepcopy(start), task.example(batch_size), task.loss).cosine
