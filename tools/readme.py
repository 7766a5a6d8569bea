"""Write the README's table of papers from the catalog and the evidence: ``python tools/readme.py``."""

import re
from pathlib import Path

from anabranch import catalog, claims
from anabranch.files import write_atomically

README = Path(__file__).resolve().parents[1] / "README.md"
_BETWEEN = re.compile(r"(<!-- papers:[^\n]*-->\n).*?(<!-- /papers -->)", re.DOTALL)


def table() -> str:
    """One row a paper: what it says, what its experiment found."""
    rows = ["| paper | what it is about | verdict | plot |", "| --- | --- | --- | --- |"]
    for paper in catalog.papers().values():
        evidence = claims.recorded(paper.slug)
        verdict = "not run yet" if evidence is None else evidence.finding
        plot = "" if evidence is None else f"[rules](evidence/{paper.slug}.svg)"
        rows.append(f"| [{paper.slug}]({paper.link}) ({paper.year}) | {paper.summary} | {verdict} | {plot} |")
    return "\n".join(rows) + "\n"


def updated(text: str) -> str:
    """The README with the table as it should be."""
    return _BETWEEN.sub(lambda match: f"{match[1]}{table()}{match[2]}", text)


if __name__ == "__main__":
    write_atomically(README, updated(README.read_text(encoding="utf-8")))
