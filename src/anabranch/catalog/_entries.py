"""Reading the catalog: one TOML file per family of papers, one for the slots, one for parts that no paper is about."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from typing import Any

from anabranch.errors import unknown


@dataclass(frozen=True)
class Slot:
    """A place in a network that papers disagree about."""

    name: str
    about: str
    contract: str  # import path of the base class or protocol
    skeletons: tuple[str, ...]  # import paths of what has this slot


@dataclass(frozen=True)
class Part:
    """Something that fills a slot, under the short name that people type."""

    slot: str
    name: str
    path: str
    paper: str | None  # slug; None for the field's common knowledge

    def load(self) -> Any:
        """Import the class or factory."""
        return load(self.path)


@dataclass(frozen=True)
class Paper:
    """One paper: what it says, and what of it stands in the library."""

    slug: str
    family: str
    number: int
    title: str
    year: int
    arxiv: str
    summary: str
    keywords: tuple[str, ...]
    parts: tuple[str, ...]  # import paths
    example: str
    fills: dict[str, dict[str, str]]  # slot -> short name -> import path

    @property
    def link(self) -> str:
        return f"https://arxiv.org/abs/{self.arxiv}"


def load(path: str) -> Any:
    """Import ``package.module.name``; the name may be an attribute of a class."""
    names = path.split(".")
    for cut in range(len(names) - 1, 0, -1):
        try:
            found: Any = import_module(".".join(names[:cut]))
        except ModuleNotFoundError as error:
            # Only a missing module of the path itself means that the rest are attributes.
            if error.name and path.startswith(error.name):
                continue
            raise
        for name in names[cut:]:
            found = getattr(found, name)
        return found
    raise ModuleNotFoundError(f"no module on the path {path!r}")


@cache
def _tables() -> dict[str, dict[str, Any]]:
    folder = files("anabranch.catalog")
    return {
        entry.name.removesuffix(".toml"): tomllib.loads(entry.read_text(encoding="utf-8"))
        for entry in sorted(folder.iterdir(), key=lambda entry: entry.name)
        if entry.name.endswith(".toml")
    }


@cache
def papers() -> dict[str, Paper]:
    """All papers by slug, in the order of their numbers."""
    found = [
        Paper(
            slug=slug,
            family=family,
            number=table["number"],
            title=table["title"],
            year=table["year"],
            arxiv=table["arxiv"],
            summary=table["summary"],
            keywords=tuple(table["keywords"]),
            parts=tuple(table["parts"]),
            example=table["example"].strip() + "\n",
            fills=table.get("fills", {}),
        )
        for family, tables in _tables().items()
        if family not in ("slots", "baselines", "synonyms", "groups")
        for slug, table in tables.items()
    ]
    return {paper.slug: paper for paper in sorted(found, key=lambda paper: paper.number)}


def paper(slug: str) -> Paper:
    """One paper by its slug."""
    if slug not in papers():
        raise unknown("paper", slug, papers())
    return papers()[slug]


@cache
def slots() -> dict[str, Slot]:
    """All slots by name."""
    return {
        name: Slot(name, table["about"], table["contract"], tuple(table.get("skeletons", ())))
        for name, table in _tables()["slots"].items()
    }


def slot(name: str) -> Slot:
    """One slot by its name."""
    if name not in slots():
        raise unknown("slot", name, slots())
    return slots()[name]


@cache
def parts(slot_name: str) -> dict[str, Part]:
    """All parts that fill a slot, by short name: first the common baselines, then the papers' in their order."""
    slot(slot_name)
    found = {
        name: Part(slot_name, name, path, None)
        for name, path in _tables().get("baselines", {}).get("fills", {}).get(slot_name, {}).items()
    }
    for entry in papers().values():
        for name, path in entry.fills.get(slot_name, {}).items():
            if name in found:
                raise ValueError(f"two parts of slot {slot_name!r} are called {name!r}: {found[name].path} and {path}")
            found[name] = Part(slot_name, name, path, entry.slug)
    return found


def part(slot_name: str, name: str) -> Part:
    """One part of a slot, by short name."""
    known = parts(slot_name)
    if name not in known:
        raise unknown(slot_name, name, known)
    return known[name]


def groups(slot_name: str) -> dict[str, list[str]]:
    """Names that stand for several parts of a slot together; ``all`` for every one."""
    slot(slot_name)
    return {**_tables()["groups"].get(slot_name, {}), "all": list(parts(slot_name))}


def expand(slot_name: str, names: Iterable[Any]) -> list[Any]:
    """Parts to try in a slot, with the names of groups replaced by their parts, as far as these are not there yet."""
    known, found = groups(slot_name), []
    for name in names:
        if isinstance(name, str) and name in known:
            found += [member for member in known[name] if member not in found]
        else:
            found.append(name)
    return found
