"""The gap between two gradients is what linear algebra says."""

import pytest
import torch
from torch import nn

from anabranch.data.task import Batch
from anabranch.learning import Backprop
from anabranch.learning.backprop import BackpropTrainer
from anabranch.learning.check import gradient_gap

BATCH = Batch(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 2)


class Scaled(Backprop):
    """Backpropagation that gets the first parameter wrong by a factor."""

    def __init__(self, factor):
        self.factor = factor

    def bind(self, module, *args, **options):
        factor = self.factor

        class Trainer(BackpropTrainer):
            def grads(self, batch):
                found = super().grads(batch)
                first = next(iter(found))
                return found | {first: factor * found[first]}

        return Trainer(module, nn.functional.cross_entropy, lambda m: torch.optim.SGD(m.parameters(), lr=0.1), None)


def test_backprop_has_no_gap_even_with_dropout():
    net = nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    gap = gradient_gap(Backprop(), net, BATCH)
    assert gap.relative == 0 and gap.cosine == pytest.approx(1, abs=1e-6) and set(gap.tensors.values()) == {0.0}


def test_a_wrong_factor_on_one_tensor_is_measured_against_the_whole():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double()
    batch = BATCH._replace(inputs=BATCH.inputs.double())
    exact = Backprop().bind(net).grads(batch)
    norm = sum(float(g.square().sum()) for g in exact.values()) ** 0.5
    largest = max(float(g.abs().max()) for g in exact.values())
    gap = gradient_gap(Scaled(1.5), net, batch)
    first = exact["0.weight"]
    assert gap.relative == pytest.approx(0.5 * float(first.norm()) / norm)
    assert gap.tensors["0.weight"] == pytest.approx(0.5 * float(first.abs().max()) / largest)
    assert gap.tensors["2.bias"] == 0
    assert 0.5 < gap.cosine < 1
