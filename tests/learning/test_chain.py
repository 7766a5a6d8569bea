"""What counts as a chain of stages, and what does not."""

import pytest
import torch
from torch import nn

from anabranch.errors import InputError
from anabranch.learning import LocalStages, as_chain, as_residual
from anabranch.optim import SGD


def test_a_stage_is_a_layer_with_what_follows_it():
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5), nn.ReLU(), nn.Dropout(0.0), nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 2))
    )
    stages = as_chain(net)
    assert [sum(1 for _ in s.parameters()) for s in stages] == [2, 2, 2]
    x = torch.randn(3, 2, 2)
    y = x
    for stage in stages:
        y = stage(y)
    assert torch.equal(y, net(x))


def test_a_module_can_list_its_stages_itself():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])

        def chain(self):
            return list(self.layers)

    model = Model()
    assert as_chain(model) == list(model.layers)


def test_other_modules_are_refused():
    with pytest.raises(InputError, match="Bilinear"):
        as_chain(nn.Bilinear(2, 2, 2))
    with pytest.raises(InputError, match="chain"):
        as_chain(nn.Sequential())
    with pytest.raises(InputError, match="residual"):
        as_residual(nn.Sequential(nn.Linear(2, 2)))


def test_branches_of_a_residual_chain():
    class Stage(nn.Module):
        def __init__(self):
            super().__init__()
            self.branch = nn.Linear(2, 2)

        def forward(self, x):
            return x + self.branch(x)

    net = nn.Sequential(Stage(), Stage())
    assert as_residual(net) == [net[0].branch, net[1].branch]


def test_local_stages_hand_on_what_they_gave_before_their_update_and_no_gradient():
    torch.manual_seed(0)
    stages = [nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)]
    before = [stage.weight.detach().clone() for stage in (stages[0], stages[2])]
    x = torch.randn(5, 3, requires_grad=True)
    expected = nn.Sequential(*stages)(x).detach()
    local = LocalStages(stages, lambda named: SGD(named, lr=0.1))
    seen = []

    def loss(index, y):
        seen.append(index)
        return y.square().sum() * (index != 2)

    output, total = local.sweep(x, loss)
    assert seen == [0, 1, 2] and len(local.optimizers) == 2
    assert torch.equal(output, expected) and not output.requires_grad and not total.requires_grad
    assert x.grad is None
    assert not torch.equal(stages[0].weight, before[0]) and torch.equal(stages[2].weight, before[1])
