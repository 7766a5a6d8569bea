"""Run benchmarks, print their ratios, and keep them in ``benchmarks/results``.

Every other module of this folder that has a function ``run() -> list[dict]`` is a benchmark; its docstring says what it
measures. Rows hold ``case``, and either ``ms`` and ``times faster`` (see :func:`benchmarks.timing.row`) or any figures.
"""

import json
from argparse import ArgumentParser
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from anabranch.claims._evidence import machine, versions

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, Any]:
    """Modules that can be run, by name."""
    names = [module.name for module in iter_modules([str(FOLDER)]) if module.name not in ("__main__", "timing")]
    modules = {name: import_module(f"benchmarks.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "run")}


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with a line per case; a time is followed by how many times faster ours is."""
    columns = list(dict.fromkeys(column for row in rows for column in cells(row)))
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "case" else "right")
    for row in rows:
        line = cells(row)
        table.add_row(*(line.get(column, "") for column in columns))
    Console().print(table)


def cells(row: dict[str, Any]) -> dict[str, str]:
    line = {name: str(value) for name, value in row.items() if name not in ("ms", "times faster", "ours")}
    for name, value in row.get("ms", {}).items():
        ratio = row.get("times faster", {}).get(name)
        line[f"{name}, ms"] = f"{value:.3g}" if ratio is None else f"{value:.3g} ({ratio:.3g}x)"
    return line


def main() -> None:
    found = benchmarks()
    parser = ArgumentParser(prog="python -m benchmarks", description="Run benchmarks, print their ratios, keep them.")
    parser.add_argument("names", nargs="*", metavar="name", help=f"one of {', '.join(found)}; all if none is given")
    parser.add_argument("--threads", type=int, default=2, help="threads that torch may use (default 2)")
    options = parser.parse_args()
    if unknown := set(options.names) - set(found):
        parser.error(f"unknown benchmark {', '.join(sorted(unknown))}; known: {', '.join(found)}")
    torch.set_num_threads(options.threads)
    for name in options.names or found:
        rows = found[name].run()
        what = (found[name].__doc__ or name).strip().splitlines()[0]
        show(f"{name}: {what} Threads: {options.threads}.", rows)
        record = {
            "benchmark": name,
            "what": what,
            "command": f"python -m benchmarks {name}",
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "threads": options.threads,
            "machine": machine(),
            "versions": versions(),
            "rows": rows,
        }
        (FOLDER / "results").mkdir(exist_ok=True)
        (FOLDER / "results" / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
