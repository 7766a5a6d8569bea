"""What a claim is: a statement, an experiment, and a decision rule that is written before the run."""

import ast
import hashlib
import json
import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

Measurements = dict[str, float]  # flat names: "pooling.accuracy"
Outcome = Literal["holds", "unsure", "fails"]
Verdict = Literal["holds", "holds in part", "does not hold here"]

_BINARY = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"max": max, "min": min, "abs": abs, "log": math.log, "sqrt": math.sqrt}


@dataclass(frozen=True)
class Rule:
    """One inequality that a seed's measurements must satisfy on average, and surely.

    Arguments:
        quantity: arithmetic over measured names, for example ``"pooling.accuracy - attention.accuracy"``; the functions
            max, min, abs, log and sqrt may be used.
        relation: ``">="``, ``">"``, ``"<="`` or ``"<"``.
        bound: the margin that was fixed beforehand.
        check: says nothing of the paper, only that the comparison is worth something: the baseline has learned, sizes
            are equal. A claim cannot hold without its checks, and they alone do not make it hold in part.
    """

    quantity: str
    relation: Literal[">=", ">", "<=", "<"]
    bound: float
    check: bool = False

    def __post_init__(self) -> None:
        if self.relation not in (">=", ">", "<=", "<"):
            raise ValueError(f"a rule's relation is one of >=, >, <=, <; got {self.relation!r}")
        ast.parse(self.quantity, mode="eval")

    def __str__(self) -> str:
        return f"{self.quantity} {self.relation} {self.bound:g}"

    def value(self, measured: Mapping[str, float]) -> float:
        """The quantity for one seed."""
        return float(_evaluate(ast.parse(self.quantity, mode="eval").body, measured))

    def satisfied(self, value: float) -> bool:
        return {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}[self.relation](
            value, self.bound
        )

    def judge(self, values: list[float]) -> tuple[Outcome, float, tuple[float, float]]:
        """Outcome, mean and 95 % interval over the seeds.

        *holds*: the whole interval lies on the right side of the bound; *unsure*: only the mean does; else *fails*.
        """
        mean = float(np.mean(values))
        low, high = bootstrap_interval(values)
        if not all(map(math.isfinite, values)) or not self.satisfied(mean):
            return "fails", mean, (low, high)
        return ("holds" if self.satisfied(low) and self.satisfied(high) else "unsure"), mean, (low, high)


def bootstrap_interval(values: list[float], draws: int = 10_000) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling the seeds."""
    array = np.asarray(values, dtype=float)
    picks = np.random.default_rng(0).integers(len(array), size=(draws, len(array)))
    low, high = np.percentile(array[picks].mean(1), [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Claim:
    """What a paper claims, in our own words, and when we would say that it holds.

    Arguments:
        paper: the paper's slug in the catalog.
        statement: the claim in one sentence.
        rules: *holds* if all hold, *does not hold here* if all fail that are not mere checks, else *holds in part*.
        seeds: how many runs, at least 3; ``measure(seed)`` is called with 0, 1, ...
        minutes: about how much processor time all seeds take together.
        smaller: what was made smaller than in the paper, and what that could change.
    """

    paper: str
    statement: str
    rules: tuple[Rule, ...]
    seeds: int
    minutes: float
    smaller: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "rules", tuple(self.rules))
        if self.seeds < 3:
            raise ValueError(f"a claim needs at least 3 seeds; got {self.seeds}")
        if all(rule.check for rule in self.rules):
            raise ValueError(f"a claim needs at least one rule that is not a mere check; got {len(self.rules)} rules")

    def fingerprint(self) -> str:
        """Hash of the decision rule; evidence from another rule is stale."""
        rules = [{name: value for name, value in asdict(rule).items() if value is not False} for rule in self.rules]
        data = {"rules": rules, "seeds": self.seeds}
        return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]

    def verdict(self, outcomes: list[Outcome]) -> Verdict:
        """What the outcomes of all rules, in order, say of the claim."""
        if all(outcome == "holds" for outcome in outcomes):
            return "holds"
        of_the_paper = [outcome for rule, outcome in zip(self.rules, outcomes, strict=True) if not rule.check]
        return "does not hold here" if all(outcome == "fails" for outcome in of_the_paper) else "holds in part"


def _evaluate(node: ast.expr, measured: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number):
            return float(number)
        case ast.Name() | ast.Attribute():
            name = ast.unparse(node)
            if name not in measured:
                raise KeyError(f"the rule asks for {name!r}, which was not measured; measured: {', '.join(measured)}")
            return measured[name]
        case ast.BinOp(left, op, right) if type(op) in _BINARY:
            return _BINARY[type(op)](_evaluate(left, measured), _evaluate(right, measured))
        case ast.UnaryOp(ast.USub(), operand):
            return -_evaluate(operand, measured)
        case ast.Call(ast.Name(function), arguments, []) if function in _FUNCTIONS:
            return _FUNCTIONS[function](*(_evaluate(argument, measured) for argument in arguments))
        case _:
            raise ValueError(f"a rule cannot use {ast.unparse(node)!r}")
