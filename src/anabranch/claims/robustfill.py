"""A network that writes programs beats one that writes outputs, and unchecked, a typo hurts it less than a search
(RobustFill, arXiv 1703.07469).

Four pairs of strings are given, and a hidden program of up to three expressions; a task is solved if all six unseen
inputs of it get their right outputs. Synthesis writes a program: without attention, or with the paper's attention C,
each by beam search, and for C also by the beam search that runs partial programs and drops what disagrees with the
pairs (DP). Induction writes the six outputs itself, with the same attention. The enumerator tries all programs, the
shortest first, and needs no network. Tasks are fresh random programs on real English words and numbers. A fifth of all
programs, whatever their length, is held out: tests have none but these, training has none of them. There are few
programs of one expression, so that what share of the tests they make up differs between seeds. All networks have as
many units and see the same tasks in the same order for as many steps; each tries the same learning rates in short runs
and takes the one with the lower validation loss. For the typos one character of one observed output is replaced; the
networks never saw a typo in training. Only the search without the check, ``c.typo``, can bear one: the check by DP
drops whatever disagrees with a pair, the right program too, and so solves none of the tasks with a typo
(``c_dp.typo``). Who wants both has to run both.

Made smaller: six of the paper's eleven operators without nesting, strings of at most 16 characters, thousands of
training tasks instead of hundreds of millions, a beam of 10 instead of up to 1000. So few programs are an easy prey for
the enumerator, which in the paper's language has no chance: that it solves clean tasks here says nothing.
"""

from collections.abc import Callable
from functools import cache, partial
from random import Random
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Samples
from anabranch.data.g2p import english_words
from anabranch.data.programs import (
    Program,
    StringDSL,
    StringPrograms,
    StringTask,
    enumerate_programs,
    text_rows,
    typo,
)
from anabranch.models.language import RobustFill, RobustFillInduction
from anabranch.models.seq2seq import before_end, up_to_end

DSL = StringDSL(
    operators=("SubStr", "GetToken", "ToCase", "GetUpto", "GetFrom", "ConstStr"),
    types=("Word", "Number"),
    delimiters=",-. ",
    characters=",-. ",
    positions=3,
    indices=2,
    compose=False,
)
Net = TypeVar("Net", RobustFill, RobustFillInduction)
OBSERVED, PAIRS, WIDTH, LENGTH = 4, 10, 16, 10  # LENGTH: words of a program, with the end
TRAIN, VALID, TEST, HELD_OUT, BATCH, DIM, EMBED = 6_400, 300, 500, 0.2, 32, 64, 32
STEPS, TRIAL, RATES = 200, 40, (6e-3, 1.2e-2)

CLAIM = Claim(
    paper="robustfill",
    statement=(
        "Synthesis with attention beats synthesis without, checking partial programs while searching beats both, and "
        "all beat writing the outputs at once; one typo ruins an enumerating search but not the network without the check."
    ),
    rules=(
        Rule("c_dp.all - c.all", ">=", 0.02),
        Rule("c.all - none.all", ">=", 0.05),
        Rule("c_dp.all - induction.all", ">=", 0.05),
        Rule("(c_dp.all - induction.all) - (c_dp.pair - induction.pair)", ">", 0.0),
        Rule("enumerator.typo", "<=", 0.1),
        Rule("(enumerator.all - enumerator.typo) - (c.all - c.typo)", ">=", 0.2),
        # The baseline learns: a program that fits no pair gets none right.
        Rule("none.pair", ">=", 0.15, check=True),
    ),
    seeds=3,
    minutes=8,
    smaller=(
        "A language of six operators, strings of 16 characters, 64 units, 200 steps of 32 tasks, a beam of 10 (steps and "
        "rates settled by pilots of the network without attention). With so little training the networks are far below "
        "the paper's figures."
    ),
)


def measure(seed: int) -> Measurements:
    """Train the three networks, and score everything on the same held-out tasks, with and without a typo."""
    words = short_words()
    source = partial(StringPrograms, DSL, fields=2, expressions=3, longest=WIDTH)
    test = some(source(words[1000:], seed=2 * seed, pairs=PAIRS), TEST, seed, held_out=True)
    known = source(words[:1000], seed=2 * seed + 1, pairs=OBSERVED + 1)
    drawn = some(known, TRAIN + VALID, seed, held_out=False)
    train, valid = samples(drawn[:TRAIN]), samples(drawn[TRAIN:])

    (none_rate, none), (c_rate, c) = (best_of_rates(build, train, valid, seed) for build in (plain, attentive))
    induction_rate, induction = best_of_rates(inductive, train, valid, seed)
    measured: Measurements = {"none.rate": none_rate, "c.rate": c_rate, "induction.rate": induction_rate}
    for name, model in {"none": none, "c": c, "induction": induction}.items():
        measured[f"{name}.parameters"] = float(sum(p.numel() for p in model.parameters()))

    random = Random(seed)
    spoiled = [spoil(task, random) for task in test]
    searches = {
        "none": lambda task: none.solve(DSL, *seen(task), check=False, longest=LENGTH),
        "c": lambda task: c.solve(DSL, *seen(task), check=False, longest=LENGTH),
        "c_dp": lambda task: c.solve(DSL, *seen(task), longest=LENGTH),
        "enumerator": lambda task: enumerate_programs(DSL, *seen(task), expressions=3),
    }
    for name, search in searches.items():
        measured |= report(name, [answers(search(task), task) for task in test], test)
        if name != "none":
            made = [answers(search(task), task) for task in spoiled]
            measured[f"{name}.typo"] = report(name, made, test)[f"{name}.all"]
    written = [induction.answer(*seen(task), task.inputs[OBSERVED:], longest=WIDTH + 1) for task in test]
    return measured | report("induction", written, test)


@cache
def short_words() -> list[str]:
    return [word for word in english_words() if len(word) <= 5][:2000]


def some(source: StringPrograms, count: int, seed: int, *, held_out: bool) -> list[StringTask]:
    """The next tasks whose programs are held out, or are not; that is drawn for each program by seed."""
    tasks: list[StringTask] = []
    while len(tasks) < count:
        task = source.task()
        if (Random(f"{seed} {DSL.write(task.program)}").random() < HELD_OUT) == held_out:
            tasks.append(task)
    return tasks


def seen(task: StringTask) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The observed pairs."""
    return task.inputs[:OBSERVED], task.outputs[:OBSERVED]


def spoil(task: StringTask, random: Random) -> StringTask:
    """The task with a typo in one observed output."""
    outputs, which = list(task.outputs), random.randrange(OBSERVED)
    outputs[which] = typo(outputs[which], random)
    return StringTask(task.program, task.inputs, tuple(outputs))


def answers(program: Program | None, task: StringTask) -> list[str | None]:
    """What a program gives for the unseen inputs."""
    return [None if program is None else DSL.run(program, text) for text in task.inputs[OBSERVED:]]


def report(name: str, made: list[list[str | None]] | list[list[str]], test: list[StringTask]) -> Measurements:
    """Share of tasks with all unseen outputs right, and of unseen outputs that are right."""
    right = torch.tensor(
        [
            [a == b for a, b in zip(row, task.outputs[OBSERVED:], strict=True)]
            for row, task in zip(made, test, strict=True)
        ]
    )
    return {f"{name}.all": float(right.all(1).double().mean()), f"{name}.pair": float(right.double().mean())}


def samples(tasks: list[StringTask]) -> Samples:
    """Each task as one row: five inputs, five outputs, the program."""
    rows = []
    for task in tasks:
        numbers = DSL.numbers(task.program)
        program = torch.tensor([*numbers, *[0] * (LENGTH - len(numbers))])
        rows.append(torch.cat([text_rows(part, WIDTH).flatten() for part in (task.inputs, task.outputs)] + [program]))
    return Samples(torch.stack(rows), torch.zeros(len(rows)))


def plain() -> RobustFill:
    return RobustFill(len(DSL.vocabulary), dim=DIM, embed=EMBED, attention="none")


def attentive() -> RobustFill:
    return RobustFill(len(DSL.vocabulary), dim=DIM, embed=EMBED, attention="C")


def inductive() -> RobustFillInduction:
    return RobustFillInduction(dim=DIM, embed=EMBED, attention="C")


def best_of_rates(build: Callable[[], Net], train: Samples, valid: Samples, seed: int) -> tuple[float, Net]:
    """The rate that did best in a short run, and the network trained in full with it."""
    with_rate = {rate: held_out_loss(learn(build, train, rate, TRIAL, seed), valid) for rate in RATES}
    best = min(with_rate, key=lambda rate: with_rate[rate])
    return best, learn(build, train, best, STEPS, seed)


def learn(build: Callable[[], Net], train: Samples, rate: float, steps: int, seed: int) -> Net:
    torch.manual_seed(seed)
    model = build()
    fit(
        Loss(model),
        train,
        loss=lambda loss, _: loss,
        optimizer=torch.optim.Adam(model.parameters(), rate, fused=True),
        budget=Budget(steps=steps),
        batch_size=BATCH,
        seed=seed,
    )
    return model


@torch.no_grad()
def held_out_loss(model: RobustFill | RobustFillInduction, valid: Samples) -> float:
    return float(Loss(model)(valid.inputs))


class Loss(nn.Module):
    """The cross-entropy of programs given four pairs, or of the fifth output given four pairs and the fifth input."""

    def __init__(self, model: RobustFill | RobustFillInduction):
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        pairs, program = rows[:, :-LENGTH].view(len(rows), 2, OBSERVED + 1, WIDTH), rows[:, -LENGTH:]
        inputs, outputs = (cut(part) for part in pairs.unbind(1))
        known = inputs[:, :OBSERVED], outputs[:, :OBSERVED]
        if isinstance(self.model, RobustFill):
            target = cut(program, 1)
            logits = self.model(*known, target)
        else:
            target = cut(F.pad(outputs[:, OBSERVED], (0, 1)), 1)
            logits = self.model(*known, inputs[:, OBSERVED], target)
        counted = up_to_end(target)
        losses = F.cross_entropy(logits.transpose(1, 2), target, reduction="none")
        return (losses * counted).sum() / counted.sum()


def cut(rows: Tensor, more: int = 0) -> Tensor:
    """Rows up to the end of the longest."""
    longest = before_end(rows.flatten(0, -2)).sum(1).max()
    return rows[..., : int(longest) + more]
