"""The race itself: equal tuning for every contender, then final runs with several seeds, then the leaderboard."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import anabranch
from anabranch.bench.budget import RaceBudget, parse_budget
from anabranch.bench.checks import check_count, check_options, check_sendable, check_vary, pick_device
from anabranch.bench.contenders import (
    Contender,
    Network,
    chosen_parts,
    default_roster,
    estimators,
    networks,
    reference_parameters,
)
from anabranch.bench.pool import Here, Workers
from anabranch.bench.results import Results, leaderboard
from anabranch.bench.runner import Job, Runner
from anabranch.bench.skeletons import Filler, choose, part_name, usual_batch_size
from anabranch.bench.storage import Result, Store, storage_url
from anabranch.bench.tuning import distributions, settings
from anabranch.data.task import Task
from anabranch.errors import InputError

# The budget of a run where the user does not say. On the built-in tasks the usual contenders then take about ten
# minutes of one processor core altogether.
FEWEST_STEPS, MOST_STEPS, EPOCHS = 200, 400, 20


@dataclass(frozen=True)
class Progress:
    """Where a race stands."""

    done: int
    total: int
    contender: str
    phase: str
    share: float  # of the run under way
    failed: str | None = None


def compare(
    data: Task | str | Path,
    *,
    target: str | None = None,
    time: str | None = None,
    vary: Mapping[str, Sequence[Filler]] | None = None,
    skeleton: str | None = None,
    classical: Sequence[str] | None = None,
    budget: str | None = None,
    trials: int = 4,
    seeds: int = 3,
    parameters: int | None = None,
    workers: int = 1,
    storage: str | None = None,
    name: str | None = None,
    resume: bool = False,
    device: str = "auto",
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
    **options: Any,
) -> Results:
    """Race interchangeable parts on some data, all else held equal.

    Every network gets the same number of parameters (its width is solved for), the same number of tuning trials judged
    on the validation split, the same order of the data and the same budget; the tuned setting then runs once per seed,
    and only those final runs are judged on the test split.

    Arguments:
        data: a task, the name of a built-in one, or a path to a file or folder.
        target, time: columns of a table, as :func:`anabranch.data.load` takes them; so are further ``options``.
        vary: parts to try, by slot: short names, classes, or ``functools.partial`` of them. A roster for the kind of
            data if not given.
        skeleton: the network that has the slots; chosen by the data and the slots if not given.
        classical: names of the classical models that join; all that can do the task if not given.
        budget: ``"300 steps"`` or ``"20 epochs"`` for each run, or ``"2m"`` for the whole race. If not given, 20 epochs
            a run, but 200 steps at least and 400 at most.
        trials: settings that every contender tries.
        seeds: final runs of every contender, at least 3.
        parameters: number of parameters of every network; that of the plain skeleton if not given.
        workers: processes that do runs side by side. Results do not depend on it.
        storage: file or database URL; a file ``<name>.race.db`` in the working folder if not given.
        name: what the race is called; after the data if not given.
        resume: go on with a race that is already in the storage.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"``.
        seed: the final runs use this seed and those after it.

    Returns: the leaderboard and all that was measured.

    Raises:
        InputError: for anything that cannot be done as asked, before anything is written.
    """
    check_options(options, compare)
    check_count("seeds, so that noise can be told from difference", seeds, least=3)
    check_count("trial", trials)
    check_count("worker", workers)
    check_count("as the first seed", seed, least=0)
    if parameters is not None:
        check_count("parameter", parameters)
    limit = parse_budget(budget) if budget is not None else None
    device = pick_device(device)
    task = load_task(data, target=target, time=time, **options)
    check_vary(vary or {})
    if isinstance(classical, str):
        raise InputError(f"expected a list of classical models, [] for none; got {classical!r}")
    varied = vary or default_roster(task)
    body = choose(task, set(varied), skeleton)
    varied = chosen_parts(task, body, varied)
    contenders: list[Contender] = [*networks(body, varied), *estimators(task, classical)]
    batch_size = usual_batch_size(task)
    epoch = max(1, len(task.train) // batch_size)
    limit = limit or parse_budget(f"{min(max(EPOCHS * epoch, FEWEST_STEPS), MOST_STEPS)} steps")
    plans = [settings(contender.space, trials, seed) for contender in contenders]
    runs = sum(len(plan) + seeds for plan in plans)
    runner = Runner(
        task=task,
        contenders=contenders,
        target=parameters or reference_parameters(task, body),
        budget=limit.per_run(runs, epoch),
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    if workers > 1:
        check_sendable(runner)
    name = name or task.name
    race = Race(name, runner, plans, seeds, limit, body.name)
    race.store = Store(storage_url(storage, name), name, race.spec(varied), resume=resume)
    return race.run(workers, on_progress)


def load_task(data: Task | str | Path, **options: Any) -> Task:
    """The task behind a name or a path; a task as it is."""
    from anabranch.data import load

    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(data, Task):
        if given:
            raise InputError(f"a task is complete as it is; got also {', '.join(given)}")
        return data
    return load(data, **given)


class Race:
    """The jobs of a race, their order, and their results."""

    store: Store

    def __init__(
        self,
        name: str,
        runner: Runner,
        plans: list[list[dict[str, Any]]],
        seeds: int,
        budget: RaceBudget,
        skeleton: str,
    ):
        self.name, self.runner, self.plans, self.seeds = name, runner, plans, seeds
        self.budget, self.skeleton = budget, skeleton
        self.results: dict[tuple[int, str], dict[int, Result]] = {}

    @property
    def contenders(self) -> list[Contender]:
        return self.runner.contenders

    def spec(self, varied: Mapping[str, Sequence[Filler]]) -> dict[str, Any]:
        """All that the results depend on, but the machine."""
        return {
            "task": self.runner.task.name,
            "data": fingerprint(self.runner.task),
            "skeleton": self.skeleton,
            "vary": {slot: [part_name(part) for part in parts] for slot, parts in varied.items()},
            "contenders": [contender.name for contender in self.contenders],
            "budget": self.budget.text,
            "trials": max(map(len, self.plans)),
            "seeds": self.seeds,
            "seed": self.runner.seed,
            "parameters": self.runner.target,
            "device": self.runner.device,
            "version": anabranch.__version__,
        }

    def run(self, workers: int, on_progress: Callable[[Progress], None] | None) -> Results:
        """Do what is not done yet."""
        for number, contender in enumerate(self.contenders):
            for phase in ("tune", "final"):
                self.results[number, phase] = self.store.finished(contender.name, phase)
        jobs = [job for number in range(len(self.contenders)) for job in self.open_jobs(number)]
        if jobs:
            with self.store.owned():
                self._work(jobs, workers, on_progress)
        return self.outcome()

    def _work(self, jobs: list[Job], workers: int, on_progress: Callable[[Progress], None] | None) -> None:
        def report(job: Job, share: float, failed: str | None = None) -> None:
            if on_progress is not None:
                name = self.contenders[job.contender].name
                on_progress(Progress(self.done, self.total, name, job.phase, share, failed))

        workers = min(workers, self.total - self.done)
        engine = Here(self.runner, report) if workers == 1 else Workers(self.runner, workers)
        for job, result in engine.work(jobs, self._next):
            contender = self.contenders[job.contender]
            if "failed" in result:
                result = {**result, "setting": job.setting}
            self.store.add(contender.name, job.phase, job.index, job.setting, distributions(contender.space), result)
            self.results[job.contender, job.phase][job.index] = result
            report(job, 1.0, result.get("failed"))

    def _next(self, job: Job, _: Result) -> Iterable[Job]:
        """The final runs of a contender follow when its last setting has been tried."""
        tuned = self.results[job.contender, "tune"]
        ready = job.phase == "tune" and len(tuned) == len(self.plans[job.contender])
        return self.open_jobs(job.contender) if ready else []

    def open_jobs(self, number: int) -> list[Job]:
        """What a contender can do next: settings not tried, or else final runs not done."""
        plan, tuned = self.plans[number], self.results[number, "tune"]
        # With a single setting there is nothing to choose, and so nothing to try.
        if len(plan) > 1 and len(tuned) < len(plan):
            return [Job(number, "tune", i, setting) for i, setting in enumerate(plan) if i not in tuned]
        setting = self.best_setting(number)
        if setting is None:
            return []
        finals = self.results[number, "final"]
        return [Job(number, "final", seed, setting) for seed in range(self.seeds) if seed not in finals]

    def best_setting(self, number: int) -> dict[str, Any] | None:
        """The setting with the best validation; the earliest of equals. None if all failed."""
        if len(self.plans[number]) == 1:
            return self.plans[number][0]
        sign = 1 if self.runner.task.metric.higher_is_better else -1
        good = {i: result for i, result in self.results[number, "tune"].items() if "failed" not in result}
        if not good:
            return None
        return self.plans[number][max(sorted(good), key=lambda i: sign * good[i]["valid"])]

    @property
    def total(self) -> int:
        return sum((len(plan) if len(plan) > 1 else 0) + self.seeds for plan in self.plans)

    @property
    def done(self) -> int:
        return sum(map(len, self.results.values()))

    def outcome(self) -> Results:
        """The leaderboard of what is there."""
        task = self.runner.task
        finals = {c.name: (c.kind, self.results[i, "final"]) for i, c in enumerate(self.contenders)}
        rows = leaderboard(task.metric, finals, self.seeds)
        for row in rows:
            number = next(i for i, c in enumerate(self.contenders) if c.name == row.contender)
            failures = [result["failed"] for result in self.results[number, "tune"].values() if "failed" in result]
            if failures and len(failures) == len(self.plans[number]):
                row.notes.append(f"every setting failed: {failures[0]}")
            elif failures:
                row.notes.append(f"{len(failures)} of {len(self.plans[number])} settings failed: {failures[0]}")
            unequal = {result["unequal"] for result in self.results[number, "final"].values() if "unequal" in result}
            row.notes += sorted(unequal)
        budget = self.runner.budget
        facts = {
            "skeleton": self.skeleton,
            "kind": task.kind,
            "goal": task.goal,
            "source": task.source,
            "samples": {"train": len(task.train), "valid": len(task.valid), "test": len(task.test)},
            "parameters": self.runner.target,
            "budget": self.budget.text,
            "budget_per_run": f"{budget.steps} steps" if budget.steps is not None else f"{budget.seconds:.2f} s",
            "batch_size": self.runner.batch_size,
            "trials": max(map(len, self.plans)),
            "seeds": self.seeds,
            "seed": self.runner.seed,
            "device": self.runner.device,
            "version": anabranch.__version__,
            "torch": torch.__version__,
            "networks": sum(isinstance(contender, Network) for contender in self.contenders),
        }
        return Results(
            race=self.name,
            task=task.name,
            metric=task.metric.name,
            higher_is_better=task.metric.higher_is_better,
            rows=rows,
            facts=facts,
            notes=list(task.notes),
        )


def fingerprint(task: Task) -> str:
    """Hash of a sample of the data, so that a race is not continued on other data."""
    digest = hashlib.sha256(f"{task.kind} {task.goal} {task.classes} {task.metric.name}".encode())
    for split in (task.train, task.valid, task.test):
        count = len(split)
        batch = split.batch(torch.unique(torch.linspace(0, count - 1, min(count, 256)).long()))
        for part in (torch.tensor(count), *batch):
            if part is not None:
                digest.update(part.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
