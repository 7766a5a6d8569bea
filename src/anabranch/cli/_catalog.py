"""Looking things up: the commands ``list``, ``search``, ``show`` and ``slots``."""

from typing import Annotated

import typer

VERDICT_STYLE = {"holds": "green", "holds in part": "yellow", "does not hold here": "red"}


def list_papers(
    family: Annotated[str | None, typer.Option(help="Only this family of papers, for example mixing.")] = None,
    slot: Annotated[str | None, typer.Option(help="Only papers with a part for this slot, for example mixer.")] = None,
) -> None:
    """List the papers, with the verdict of each one's experiment."""
    from rich.console import Console
    from rich.table import Table

    from anabranch import catalog
    from anabranch.errors import unknown

    found = list(catalog.papers().values())
    if family is not None:
        families = {paper.family for paper in found}
        if family not in families:
            raise unknown("family", family, families)
        found = [paper for paper in found if paper.family == family]
    if slot is not None:
        catalog.slot(slot)
        found = [paper for paper in found if slot in paper.fills]
    table = Table(box=None, pad_edge=False)
    for column in ("paper", "family", "year", "title", "verdict"):
        table.add_column(column, overflow="fold")
    for paper in found:
        table.add_row(paper.slug, paper.family, str(paper.year), paper.title, _verdict(paper.slug))
    Console().print(table)


def search(
    words: Annotated[list[str], typer.Argument(help="What you look for, in your own words.")],
    limit: Annotated[int, typer.Option(min=1, help="At most this many.")] = 10,
) -> None:
    """Find papers by words; spelling and choice of words need not be exact."""
    from rich.console import Console

    from anabranch import catalog
    from anabranch.errors import InputError

    found = catalog.search(" ".join(words), limit)
    if not found:
        raise InputError(f"expected words that some paper is about; nothing is near {' '.join(words)!r}")
    console = Console()
    for paper, score in found:
        console.print(f"[bold]{paper.slug}[/bold]  {score:.2f}  {paper.title} ({paper.year})", highlight=False)
        console.print(f"    {paper.summary}", highlight=False, markup=False)


def show(slug: Annotated[str, typer.Argument(help="The paper, as `anabranch list` names it.")]) -> None:
    """Show one paper: what it says, how to import its parts, an example, and what its experiment found."""
    from rich.console import Console
    from rich.syntax import Syntax

    from anabranch import catalog, claims
    from anabranch.claims._evidence import evidence_folder
    from anabranch.cli._verify import print_evidence

    paper = catalog.paper(slug)
    console = Console()
    console.print(f"[bold]{paper.title}[/bold] ({paper.year})  {paper.link}", highlight=False)
    console.print(paper.summary, highlight=False, markup=False)
    console.print("\n[bold]Parts[/bold]")
    for path in paper.parts:
        module, _, name = path.rpartition(".")
        console.print(f"    from {module} import {name}", highlight=False, markup=False)
    for slot, names in paper.fills.items():
        console.print(f"    slot {slot}: {', '.join(names)}", highlight=False, markup=False)
    console.print("\n[bold]Example[/bold]")
    highlighted = Syntax("", "python", background_color="default").highlight(paper.example)
    console.print(highlighted, soft_wrap=True, end="")  # to be copied, so lines are neither cut nor broken
    evidence = claims.recorded(slug)
    if evidence is None:
        console.print(f"No evidence is recorded yet: anabranch verify {slug}", highlight=False)
        return
    print_evidence(console, evidence)
    for reason in claims.stale(evidence):
        console.print(f"[yellow]stale: {reason}[/yellow]", highlight=False)
    console.print(f"plot: {evidence_folder() / f'{slug}.svg'}", highlight=False, soft_wrap=True)


def slots() -> None:
    """List the slots and the parts that fill each."""
    from rich.console import Console

    from anabranch import catalog

    console = Console()
    for slot in catalog.slots().values():
        console.print(f"[bold]{slot.name}[/bold]  {slot.about}", highlight=False)
        names = ", ".join(catalog.parts(slot.name)) or "(none yet)"
        console.print(f"    {names}", highlight=False, markup=False)
        for group, members in catalog.groups(slot.name).items():
            if group != "all":
                console.print(f"    {group} = {', '.join(members)}", highlight=False, markup=False)


def _verdict(slug: str) -> str:
    from anabranch import claims

    evidence = claims.recorded(slug)
    return "not run yet" if evidence is None else f"[{VERDICT_STYLE[evidence.verdict]}]{evidence.finding}[/]"
