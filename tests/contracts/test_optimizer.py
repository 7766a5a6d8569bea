"""Every optimizer keeps the laws of its slot; see :mod:`anabranch.optim.base`."""

import copy
import pickle

import pytest
import torch
from torch import nn

from anabranch.catalog import parts
from anabranch.spaces import Range

OPTIMIZERS = parts("optimizer")
EACH = pytest.mark.parametrize("make", [entry.load() for entry in OPTIMIZERS.values()], ids=list(OPTIMIZERS))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Embedding(9, 6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
    )


def loss_of(model, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(9, (16,), generator=generator)
    return nn.functional.cross_entropy(model(x), x % 3)


def train(model, optimizer, steps, first=0):
    for seed in range(first, first + steps):
        optimizer.zero_grad()
        loss_of(model, seed).backward()
        optimizer.step()


@EACH
def test_a_quadratic_decreases(make):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 5))
    targets = [torch.randn_like(p) for p in model.parameters()]

    def loss():
        return sum(((p - t) ** 2).sum() for p, t in zip(model.parameters(), targets, strict=True))

    optimizer = make(model, lr=make.space["lr"].default, weight_decay=0.0)
    start = float(loss().detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert float(loss().detach()) < start


@EACH
def test_it_learns_a_network(make):
    model = network()
    optimizer = make(model, lr=make.space["lr"].default)
    start = float(loss_of(model, 999).detach())
    train(model, optimizer, 300)
    assert float(loss_of(model, 999).detach()) < 0.7 * start


@EACH
@pytest.mark.parametrize("through", ["state_dict", "deepcopy", "pickle"])
def test_a_copy_continues_bit_for_bit(make, through):
    model = network()
    optimizer = make(model)
    train(model, optimizer, 4)
    if through == "state_dict":
        other = network(seed=7)
        other.load_state_dict(model.state_dict())
        again = make(other)
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif through == "deepcopy":
        other, again = copy.deepcopy((model, optimizer))
    else:
        other, again = pickle.loads(pickle.dumps((model, optimizer)))
    train(model, optimizer, 4, first=4)
    train(other, again, 4, first=4)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


@EACH
def test_two_runs_are_equal(make):
    models = [network(), network()]
    for model in models:
        train(model, make(model), 5)
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in models), strict=True))


@EACH
def test_a_zero_gradient_without_weight_decay_moves_nothing(make):
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = make(model, weight_decay=0.0)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@EACH
def test_parameters_without_a_gradient_stay(make):
    model = network()
    before = copy.deepcopy(model.state_dict())
    optimizer = make(model)
    optimizer.step()
    model[3].weight.grad = torch.ones_like(model[3].weight)
    optimizer.step()
    moved = [k for k, v in model.state_dict().items() if not torch.equal(before[k], v)]
    assert moved == ["3.weight"]


@EACH
def test_every_trained_parameter_is_in_exactly_one_group_and_frozen_ones_in_none(make):
    model = network()
    model[1].weight.requires_grad_(False)
    owned = [id(p) for group in make(model).param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in model.parameters() if p.requires_grad)


@EACH
def test_schedulers_reach_every_group(make):
    model = network()
    optimizer = make(model)
    before = copy.deepcopy(model.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    train(model, optimizer, 2)
    scheduler.step()
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@EACH
def test_a_closure_is_called_once_with_gradients_on(make):
    model = network()
    optimizer = make(model)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = loss_of(model, 0)
        loss.backward()
        return loss

    assert float(optimizer.step(closure).detach()) == pytest.approx(float(loss_of(network(), 0).detach()))
    assert calls == [True]


@EACH
def test_huge_and_tiny_gradients_stay_finite(make):
    for scale in (1e-12, 1e12) if make.__name__ != "SGD" else (1e-12, 1e4):
        model = network()
        optimizer = make(model)
        (loss_of(model, 0) * scale).backward()
        optimizer.step()
        assert all(p.isfinite().all() for p in model.parameters())


@EACH
def test_named_parameters_do_as_well_as_a_module(make):
    model = network()
    optimizer = make(list(model.named_parameters()))
    train(model, optimizer, 2)
    with pytest.raises(ValueError, match="no parameter"):
        make(nn.ReLU())


@EACH
def test_the_search_space_has_the_learning_rate_and_only_options_that_exist(make):
    assert isinstance(make.space["lr"], Range)
    make(network(), **{name: dimension.default for name, dimension in make.space.items()})
