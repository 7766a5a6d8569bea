"""The command ``verify``: run a paper's experiment and record what came out."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from anabranch.claims import Evidence


def verify(
    slugs: Annotated[list[str] | None, typer.Argument(metavar="[SLUG]...", help="The papers to verify.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="Every paper that has a claim.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Seeds to run side by side, one thread each.")] = 1,
    draft: Annotated[bool, typer.Option("--draft", help="Judge, but record nothing.")] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to, instead of evidence/.")] = None,
) -> None:
    """Run the experiment behind a paper's claim and record the verdict as evidence/SLUG.json."""
    from rich.console import Console

    from anabranch import claims
    from anabranch.errors import InputError

    if bool(slugs) == all_:
        raise InputError("expected the name of at least one paper, or --all")
    console = Console()
    for slug in claims.claims() if all_ else slugs or []:
        claim = claims.claim(slug)
        console.print(f"[bold]{slug}[/bold]: {claim.statement}", highlight=False)
        console.print(f"{claim.seeds} seeds, about {claim.minutes:g} minutes of processor time", highlight=False)

        def progress(seed: int, seconds: float) -> None:
            console.print(f"  seed {seed} done in {seconds:.0f} s", highlight=False)

        evidence = claims.verify(slug, jobs=jobs, draft=draft, folder=out, on_seed=progress)
        print_evidence(console, evidence)


def print_evidence(console: "Console", evidence: "Evidence") -> None:
    """A table of the rules, and of what was measured."""
    import numpy as np
    from rich.table import Table

    from anabranch.claims._plot import strip
    from anabranch.cli._catalog import VERDICT_STYLE

    rules = Table(box=None, pad_edge=False, title="Decision rules", title_justify="left")
    rules.add_column("rule", min_width=34, overflow="fold")  # the strip below it must not be broken
    for column in ("mean", "95 % interval", "outcome"):
        rules.add_column(column, overflow="fold")
    for rule in evidence.rules:
        interval = f"{rule.interval[0]:.4g} to {rule.interval[1]:.4g}"
        rules.add_row(f"{rule}\n[dim]{strip(rule)}[/dim]", f"{rule.mean:.4g}", interval, rule.outcome)
    measured = Table(box=None, pad_edge=False, title="Measured (mean over seeds, smallest, largest)")
    measured.title_justify = "left"
    for column in ("quantity", "mean", "min", "max"):
        measured.add_column(column, justify="left" if column == "quantity" else "right")
    for name in evidence.measurements[0]:
        values = np.array([seed[name] for seed in evidence.measurements if name in seed])
        measured.add_row(name, f"{values.mean():.4g}", f"{values.min():.4g}", f"{values.max():.4g}")
    console.print(measured)
    console.print(rules)
    style = VERDICT_STYLE[evidence.verdict]
    when = f"{len(evidence.measurements)} seeds, {evidence.minutes:g} minutes of processor time, {evidence.date}"
    console.print(f"verdict: [bold {style}]{evidence.finding}[/]  ({when})", highlight=False)
