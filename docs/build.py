"""Build the site: ``python docs/build.py`` writes ``site/`` from the README, the catalog and the evidence."""

import shutil
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from anabranch import catalog, claims
from anabranch.files import write_atomically

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "site"
_STYLE = """body { font: 16px/1.55 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330 }
pre { background: #f5f6f8; padding: .8rem 1rem; overflow-x: auto } code { font-size: .92em } img { max-width: 100% }
table { border-collapse: collapse; display: block; overflow-x: auto } td, th { border-bottom: 1px solid #e3e6ec;
padding: .35rem .6rem; text-align: left; vertical-align: top } a { color: #2b5fb8 }"""


def page(title: str, body: str) -> str:
    """An HTML page around some content."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def paper_page(slug: str) -> str:
    """What a paper says, how to use its parts, and what its experiment found, as Markdown."""
    paper, evidence = catalog.paper(slug), claims.recorded(slug)
    imports = "\n".join("from {} import {}".format(*path.rsplit(".", 1)) for path in paper.parts)
    text = (
        f"[anabranch](../index.html)\n\n# {paper.title} ({paper.year})\n\n[arXiv {paper.arxiv}]({paper.link}), "
        f"family {paper.family}\n\n{paper.summary}\n\n```python\n{imports}\n```\n\n## Example\n\n"
        f"```python\n{paper.example}```\n"
    )
    if evidence is None:
        return text + f"\nNo evidence yet: `anabranch verify {slug}`.\n"
    rules = "\n".join(
        f"| `{rule}` | {rule.mean:.4g} | {rule.interval[0]:.4g} to {rule.interval[1]:.4g} | {rule.outcome} |"
        for rule in evidence.rules
    )
    return f"""{text}
## Evidence: {evidence.finding}

{evidence.statement}

![rules](../evidence/{slug}.svg)

| rule | mean | 95 % interval | outcome |
| --- | --- | --- | --- |
{rules}

*Smaller than in the paper:* {evidence.smaller}

{len(evidence.measurements)} seeds, {evidence.minutes:g} minutes of processor time, {evidence.date},
torch {evidence.versions.get("torch", "?")}. Run it again: `anabranch verify {slug}`.
"""


def build() -> None:
    """Write all pages."""
    markdown = MarkdownIt("commonmark").enable("table")
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree(ROOT / "evidence", SITE / "evidence", ignore=shutil.ignore_patterns(".*"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    listing = "\n".join(f"- [{paper.title}](papers/{slug}.html)" for slug, paper in catalog.papers().items())
    home = readme.replace("CONTRIBUTING.md", "contributing.html") + f"\n## Papers\n\n{listing}\n"
    write_atomically(SITE / "index.html", page("anabranch", markdown.render(home)))
    write_atomically(SITE / "contributing.html", page("Adding a paper", markdown.render(contributing)))
    for slug, paper in catalog.papers().items():
        write_atomically(SITE / "papers" / f"{slug}.html", page(paper.title, markdown.render(paper_page(slug))))


if __name__ == "__main__":
    build()
    print(f"wrote {SITE / 'index.html'}")
