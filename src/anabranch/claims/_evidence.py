"""Evidence: what a run of a claim measured, with all that is needed to doubt it."""

import ast
import hashlib
import inspect
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from anabranch.claims._claim import Claim, Outcome, Verdict
from anabranch.errors import InputError, unknown
from anabranch.files import write_atomically

FORMAT = 1
PACKAGES = ("anabranch", "torch", "numpy", "scikit-learn", "scipy", "numba")


@dataclass
class RuleResult:
    """One rule, judged."""

    quantity: str
    relation: str
    bound: float
    values: list[float]  # by seed
    mean: float
    interval: tuple[float, float]
    outcome: Outcome
    check: bool = False

    def __str__(self) -> str:
        return f"{self.quantity} {self.relation} {self.bound:g}{' (check)' if self.check else ''}"


@dataclass
class Evidence:
    """The record of one run of a claim."""

    paper: str
    statement: str
    verdict: Verdict
    rules: list[RuleResult]
    measurements: list[dict[str, float]]  # by seed
    minutes: float  # of processor time, all seeds together
    smaller: str
    rule_hash: str
    code: dict[str, str]  # module -> hash of what it does
    commit: str | None
    date: str
    versions: dict[str, str]
    machine: dict[str, Any]
    format: int = field(default=FORMAT)

    @property
    def finding(self) -> str:
        """The verdict; of a claim that holds in part also how many rules hold, and whether all checks do."""
        if self.verdict != "holds in part":
            return self.verdict
        of_the_paper = [rule for rule in self.rules if not rule.check]
        held = sum(rule.outcome == "holds" for rule in of_the_paper)
        checked = all(rule.outcome == "holds" for rule in self.rules if rule.check)
        return f"{self.verdict} ({held} of {len(of_the_paper)} rules{'' if checked else '; a check does not'})"

    def write(self, path: Path) -> None:
        """Write as JSON, all or nothing."""
        write_atomically(path, json.dumps(asdict(self), indent=1, ensure_ascii=False, allow_nan=True) + "\n")


def checkout() -> Path | None:
    """The root of the source tree this package is run from, if it is one."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "pyproject.toml").is_file() and (root / "src" / "anabranch").is_dir() else None


def evidence_folder() -> Path:
    """Where the recorded evidence lies: beside the sources, or inside the installed package."""
    root = checkout()
    return root / "evidence" if root else Path(__file__).resolve().parents[1] / "evidence"


def recorded(slug: str) -> Evidence | None:
    """The evidence that is recorded for a paper, if there is any.

    Raises:
        InputError: if the file was written by another version of this library.
    """
    path = evidence_folder() / f"{slug}.json"
    if not path.is_file():
        return None
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path.name} is not JSON: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        came = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise InputError(f"expected evidence of format {FORMAT} in {path.name}; got {came}")
    rules = [RuleResult(**{**rule, "interval": tuple(rule["interval"])}) for rule in data.pop("rules")]
    return Evidence(rules=rules, **data)


def claims() -> list[str]:
    """Slugs of the papers of the catalog that have a claim."""
    from anabranch.catalog import papers

    return [slug for slug in papers() if find_spec(_module(slug)) is not None]


def claim(slug: str) -> Claim:
    """The claim of a paper."""
    return _claim_module(slug).CLAIM


def measure(slug: str, seed: int) -> dict[str, float]:
    """Run one seed of a paper's experiment."""
    return {name: float(value) for name, value in _claim_module(slug).measure(seed).items()}


def _claim_module(slug: str) -> Any:
    if slug not in claims():
        raise unknown("claim", slug, claims())
    return import_module(_module(slug))


def _module(slug: str) -> str:
    return f"anabranch.claims.{slug.replace('-', '_')}"


def stale(evidence: Evidence) -> list[str]:
    """Why recorded evidence no longer speaks for the code: empty if it does."""
    reasons = []
    if claim(evidence.paper).fingerprint() != evidence.rule_hash:
        reasons.append("the decision rule is another")
    now = code_hashes(evidence.paper)
    for module in sorted(now.keys() | evidence.code.keys()):
        if now.get(module) != evidence.code.get(module):
            reasons.append(f"{module} has changed")
    return reasons


def code_hashes(slug: str) -> dict[str, str]:
    """What the claim's file and the files of the paper's parts do, as a hash for each."""
    return {module: _behaviour_hash(str(path)) for module, path in sources(slug).items()}


def sources(slug: str) -> dict[str, Path]:
    """The files that evidence for a paper rests on, by module: its claim, what this shares with others, its parts."""
    from anabranch.catalog import paper
    from anabranch.catalog._entries import load

    modules = {_module(slug)} | _shared(_module(slug))
    for path in paper(slug).parts:
        found = inspect.unwrap(load(path))
        modules.add(found.__name__ if inspect.ismodule(found) else found.__module__)
    return {
        module: Path(inspect.getsourcefile(import_module(module)) or "")
        for module in sorted(modules)
        if module.startswith("anabranch.")
    }


def _shared(module: str) -> set[str]:
    """The modules of ``claims.common`` that a claim's module imports, and those that these import."""
    tree = ast.parse(Path(inspect.getsourcefile(import_module(module)) or "").read_text(encoding="utf-8"))
    named = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    named |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found = {name for name in named if name.startswith("anabranch.claims.common.")}
    return found.union(*map(_shared, found))


@cache
def _behaviour_hash(path: str) -> str:
    """Hash of a file's syntax tree without docstrings and comments: rewording or reformatting does not change it."""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    return hashlib.sha256(_canonical(tree).encode()).hexdigest()[:16]


def _canonical(node: object) -> str:
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name == "body" and isinstance(value, list) and value and _is_docstring(value[0]):
                value = value[1:]
            if value is not None and value != []:  # absent fields differ between versions of Python
                fields.append(f"{name}={_canonical(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(_canonical, node))}]"
    return repr(node)


def _is_docstring(node: object) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def uncommitted(slug: str) -> list[str]:
    """Files that evidence rests on and whose content is not what is committed; empty outside a checkout."""
    root = checkout()
    if root is None or _git("rev-parse", "--is-inside-work-tree") is None:
        return []
    names = [str(path.relative_to(root)) for path in sources(slug).values() if path.is_relative_to(root)]
    listing = _git("status", "--porcelain", "--", *names) if names else None
    if listing is None:
        return []
    return [line[3:] for line in listing.splitlines()]


def commit() -> str | None:
    """The commit that the sources stand at, if they are a checkout."""
    return (_git("rev-parse", "HEAD") or "").strip() or None


def _git(*arguments: str) -> str | None:
    root = checkout()
    if root is None:
        return None
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout


def versions() -> dict[str, str]:
    """Versions of what a result may depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """What a figure of time may depend on."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {"cpu": model, "cores": os.cpu_count(), "system": sys.platform}
