"""Rules are compared from the same start, on the same batches, with the same learning rates."""

import math

import torch
from torch import nn

from anabranch.data.task import ACCURACY, Samples, Task
from anabranch.learning import Backprop, ForwardForward, compare
from anabranch.optim import SGD


def task():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 12, generator=generator)
    y = x[:, -3:].argmax(1)
    train, valid, test = (Samples(x[a:b], y[a:b]) for a, b in ((0, 200), (200, 300), (300, 400)))
    return Task("toy", "table", "classify", train, valid, test, ACCURACY, ("a", "b", "c"))


def test_each_rule_gets_a_row_and_equal_rules_get_equal_rows():
    made = []

    def make_module():
        made.append(1)
        return nn.Sequential(
            nn.Linear(12, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)
        )

    table = compare(
        {"one": Backprop(), "local": ForwardForward(), "two": Backprop()},
        make_module,
        task(),
        examples=4000,
        rates=(1e-3, 3e-3, 1e-2),
    )
    assert sum(made) == 1 and sorted(table.index) == ["local", "one", "two"]
    assert table.loc["one"].equals(table.loc["two"])
    assert list(table["accuracy"]) == sorted(table["accuracy"], reverse=True)
    assert table.loc["one", "accuracy"] > 0.8 and table.loc["one", "forward_units"] == 1
    assert abs(table.loc["one", "cosine"] - 1) < 1e-6 and math.isnan(table.loc["local", "cosine"])


def test_the_budget_is_in_examples_to_the_last_one():
    seen = []

    class Counting(SGD):
        def step(self, closure=None):
            seen.append(1)
            return super().step(closure)

    compare({"one": Backprop()}, lambda: nn.Linear(12, 3), task(), examples=450, batch_size=64, optimizer=Counting)
    # Two passes of 200 in 4 batches each and one batch of 50, for each of three rates. The metered step is AdamW's.
    assert len(seen) == 3 * (4 + 4 + 1)
