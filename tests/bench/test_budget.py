"""Budgets are read as people write them."""

import pytest

from anabranch.bench.budget import parse_budget
from anabranch.bench.fit import Budget
from anabranch.errors import InputError


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("300 steps", Budget(steps=300)),
        ("1step", Budget(steps=1)),
        ("20 epochs", Budget(steps=340)),
        ("0.5 epoch", Budget(steps=8)),
        ("90s", Budget(seconds=9.0)),
        ("2m", Budget(seconds=12.0)),
        ("1.5 min", Budget(seconds=9.0)),
        (" 1 Hours ", Budget(seconds=360.0)),
    ],
)
def test_what_one_of_ten_runs_gets(text, budget):
    assert parse_budget(text).per_run(runs=10, epoch=17) == budget


@pytest.mark.parametrize(
    "text", ["", "fast", "10", "steps", "-5 steps", "5 parsecs", "0 steps", "1.5 steps", "nan s", "1e3 s", "5 ms"]
)
def test_anything_else_is_refused_with_what_came(text):
    with pytest.raises(InputError, match=r"^expected a .*; got .*"):
        parse_budget(text)
