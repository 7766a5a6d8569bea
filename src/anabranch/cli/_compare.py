"""The command ``compare``: a fair race on built-in or own data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from anabranch.bench import Progress, Results, Row


def compare(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A built-in task (digits, pydoc, weather, ...), or a path: CSV, TSV, Parquet or NPZ file, "
            "folder of images by class, or text file.",
        ),
    ],
    target: Annotated[str | None, typer.Option(help="Column of a table to predict.")] = None,
    time: Annotated[str | None, typer.Option(help="Column of a table with the time: forecast the others.")] = None,
    horizon: Annotated[int | None, typer.Option(min=1, help="Steps to forecast.")] = None,
    past: Annotated[int | None, typer.Option(min=1, help="Steps (or bytes of a text) to read.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SLOT=A,B,...",
            help="Parts to try in a slot, or groups of parts such as mixer=efficient, or mixer=all for all that can "
            "stand there; may be repeated. See `anabranch slots`.",
        ),
    ] = None,
    skeleton: Annotated[str | None, typer.Option(help="Network that has the slots, if not the usual one.")] = None,
    classical: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Classical models that join; 'none' for none. All by default.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="'300 steps' or '20 epochs' for each run, or '2m' for the whole race."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, help="Settings that every contender tries.")] = 4,
    seeds: Annotated[int, typer.Option(help="Final runs of every contender, at least 3.")] = 3,
    parameters: Annotated[int | None, typer.Option(min=1, help="Parameters of every network.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Local processes that do runs side by side.")] = 1,
    storage: Annotated[str | None, typer.Option(help="SQLite file or database URL that keeps the runs.")] = None,
    name: Annotated[str | None, typer.Option(help="What the race is called; after the data by default.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a race that is in the storage.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="First seed of the final runs.")] = 0,
    report: Annotated[Path | None, typer.Option(help="HTML report; NAME.race.html by default.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything measured as JSON instead.")] = False,
) -> None:
    """Race interchangeable parts on your data: equal size, equal tuning, equal budget, at least three seeds."""
    from rich.console import Console

    from anabranch.bench.race import compare as run
    from anabranch.bench.race import load_task
    from anabranch.bench.report import write_report
    from anabranch.errors import InputError
    from anabranch.files import check_writable

    parts = parse_vary(vary or [])
    task = load_task(data, target=target, time=time, horizon=horizon, past=past)
    name = name or task.name
    report = report or Path(f"{name}.race.html")
    if report.exists() and not resume:
        raise InputError(f"{report} exists already: add --resume to go on with that race, or choose another --report")
    if not report.resolve().parent.is_dir():
        raise InputError(f"expected a folder for the report; {report.resolve().parent} does not exist")
    check_writable(report)
    chosen = None if classical is None else [] if classical == "none" else classical.split(",")
    console = Console(stderr=as_json)
    with live(console) as on_progress:
        results = run(
            task,
            vary=parts or None,
            skeleton=skeleton,
            classical=chosen,
            budget=budget,
            trials=trials,
            seeds=seeds,
            parameters=parameters,
            workers=workers,
            storage=storage,
            name=name,
            resume=resume,
            device=device,
            seed=seed,
            on_progress=on_progress,
        )
    write_report(results, report)
    if as_json:
        import json

        print(json.dumps(results.to_json(), indent=1))
    else:
        print_leaderboard(console, results)
    console.print(f"report: {report}", highlight=False, soft_wrap=True)


def parse_vary(entries: list[str]) -> dict[str, list[str]]:
    """Read ``SLOT=a,b,c`` options."""
    from anabranch.errors import InputError

    found: dict[str, list[str]] = {}
    for entry in entries:
        slot, equals, names = entry.partition("=")
        parts = [name.strip() for name in names.split(",") if name.strip()]
        slot = slot.strip()
        if not equals or not slot or not parts:
            raise InputError(f"expected --vary SLOT=a,b,c such as --vary mixer=attention,pool; got {entry!r}")
        if slot in found:
            raise InputError(f"expected each slot once; --vary {slot}=... comes twice (list the parts together)")
        found[slot] = parts
    return found


class live:  # noqa: N801  a context manager that reads as a verb
    """A progress bar that follows a race."""

    def __init__(self, console: "Console"):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self.console = console
        self.line = self.bar.add_task("starting", total=None)

    def __enter__(self) -> "live":
        self.bar.start()
        return self

    def __exit__(self, kind: object, *exception: object) -> None:
        self.bar.stop()
        if kind is KeyboardInterrupt and self.bar.tasks[0].total is not None:
            self.console.print("finished runs are kept: the same command with --resume goes on", highlight=False)

    def __call__(self, progress: "Progress") -> None:
        doing = {"tune": "tuning", "final": "final run of"}[progress.phase]
        share = f" {progress.share:.0%}" if progress.share < 1 else ""
        self.bar.update(
            self.line, total=progress.total, completed=progress.done, description=f"{doing} {progress.contender}{share}"
        )
        if progress.failed:
            self.console.print(f"[yellow]{progress.contender}: {progress.failed}[/yellow]", highlight=False)


def print_leaderboard(console: "Console", results: "Results") -> None:
    """The leaderboard, and how to read it."""
    from rich.table import Table

    from anabranch.data.columns import plural

    facts = results.facts
    if results.notes:
        console.print("[bold]Data[/bold]")
        for note in results.notes:
            console.print(f"  {note}", highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, title=f"{results.task}: {results.metric}", title_justify="left")
    table.add_column("contender", no_wrap=True)
    costs = {
        "parameters": lambda row: short(row.parameters),
        "train s": lambda row: short(row.train_seconds),
        "ms": lambda row: short(row.latency_ms),
        "FLOPs": lambda row: short(row.flops),
        "peak MB": lambda row: short(row.peak_mb),
    }
    if console.width < 100:  # the report has them all
        costs = {"parameters": costs["parameters"]}
    for column in (results.metric, "95 % interval", "behind", *costs):
        table.add_column(column, justify="right", no_wrap=True)
    for row in results.rows:
        if row.metric is None or row.interval is None:
            table.add_row(row.contender, "failed", style="dim")
            continue
        interval = f"{row.interval[0]:.4g} to {row.interval[1]:.4g}"
        cells = [f"{row.metric:.4g}", interval, behind(row), *(cost(row) for cost in costs.values())]
        table.add_row(row.contender, *cells, style="bold" if row is results.leader else None)
    console.print(table)
    for row in results.rows:
        for note in row.notes:
            console.print(f"[yellow]{row.contender}: {note}[/yellow]", highlight=False)
    console.print(results.verdict(), highlight=False)
    console.print(
        f"Each network: about {short(facts['parameters'])} parameters, {plural(facts['trials'], 'tuning trial')}, "
        f"{facts['budget_per_run']} a run, {facts['seeds']} seeds; skeleton {facts['skeleton']}, {facts['device']}.",
        highlight=False,
    )


def behind(row: "Row") -> str:
    """How much worse than the leader."""
    if row.behind is None:
        return "leads"
    return "tied" if row.tied else f"{row.behind[0]:.2g} to {row.behind[1]:.2g}"


def short(number: float | None) -> str:
    """A count as people read it: 85.3k."""
    if number is None:
        return ""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{unit}"
    return f"{number:.3g}"
