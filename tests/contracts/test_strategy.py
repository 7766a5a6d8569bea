"""Every continual strategy keeps the laws of :class:`anabranch.continual.Strategy`."""

import itertools
from functools import partial

import pytest
import torch
from torch import nn

from anabranch.catalog import parts
from anabranch.continual import Experience, Strategy, Stream, run
from anabranch.data.task import Samples
from anabranch.errors import InputError

STRATEGIES = parts("strategy")
EACH = pytest.mark.parametrize("make", [entry.load() for entry in STRATEGIES.values()], ids=list(STRATEGIES))
SGD = partial(torch.optim.SGD, lr=0.05)
CLASSES, WIDTH = 4, 6


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def normed() -> nn.Module:
    """What has a state of its own in training mode."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(WIDTH, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, CLASSES))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Unflatten(1, (1, WIDTH)), nn.Conv1d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * (WIDTH - 2), CLASSES)
    )


class Read(nn.Module):
    """A recurrent backbone, with its own way of calling."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head = nn.LSTMCell(1, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        state = None
        for x_t in x.split(1, dim=1):
            state = self.body(x_t, state)
        return self.head(state[0])


def stream(scenario="domain", tasks=3, batch_size=8, **options) -> Stream:
    """Blobs: tasks differ in where the classes lie."""
    generator = torch.Generator().manual_seed(0)
    experiences = []
    for number in range(tasks):
        centres = 2 * torch.randn(CLASSES, WIDTH, generator=generator)
        classes = (2 * number % CLASSES, 2 * number % CLASSES + 1) if scenario in ("class", "task") else range(CLASSES)
        labels = torch.tensor(list(classes)).repeat(20)
        x = centres[labels] + torch.randn(len(labels), WIDTH, generator=generator)
        experiences.append(Experience(Samples(x, labels), Samples(x + 0.1, labels), tuple(classes)))
    return Stream(tuple(experiences), scenario, batch_size=batch_size, **options)


def learn(strategy: Strategy, steps) -> Strategy:
    for step in steps:
        strategy.observe(step.x, step.y, step.task)
        if step.boundary and not strategy.task_free:
            strategy.boundary()
    return strategy


def weights(strategy: Strategy) -> list[torch.Tensor]:
    return [value.clone() for value in strategy.model.state_dict().values()]


def same(left, right) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


@EACH
@pytest.mark.parametrize("scenario", ["domain", "class", "task"])
def test_learns_in_every_scenario(make, scenario):
    given = stream(scenario, tasks=2, epochs=20)
    results = run(given, make(mlp(), SGD, heads=given.heads))
    assert results.accuracy.shape == (2, 2)
    assert results.accuracy[0, 0] > 0.5  # in the domain scenario and for joint training, four classes


@EACH
def test_goes_on_an_online_stream_if_and_only_if_it_needs_no_boundaries(make):
    strategy = make(mlp(), SGD)
    assert strategy.task_free == (not hasattr(strategy, "boundary"))
    if strategy.task_free:
        assert 0 <= run(stream("online"), strategy).online_accuracy() <= 1
    else:
        with pytest.raises(InputError, match="must be told when a task ends"):
            run(stream("online"), strategy)


@EACH
@pytest.mark.parametrize("backbone", [mlp, normed, convolutional, Read])
def test_takes_any_model_as_backbone(make, backbone):
    model = backbone()
    before = [p.clone() for p in model.parameters()]
    strategy = learn(make(model, SGD), stream(tasks=2))
    assert all(p.isfinite().all() for p in model.parameters())
    assert not same(before, list(model.parameters()))
    assert strategy.predict(torch.randn(3, WIDTH)).shape == (3, CLASSES)


@EACH
@pytest.mark.parametrize(
    "optimizer",
    [partial(torch.optim.Adam, lr=0.01), partial(torch.optim.LBFGS, lr=0.1, max_iter=3)],
    ids=["Adam", "LBFGS, which evaluates the loss several times a step"],
)
def test_takes_any_optimizer(make, optimizer):
    strategy = learn(make(mlp(), optimizer), stream(tasks=2))
    assert all(p.isfinite().all() for p in strategy.model.parameters())


@EACH
@pytest.mark.parametrize("training", [True, False])
def test_predicting_changes_nothing(make, training):
    strategy = learn(make(normed(), SGD), stream(tasks=2))
    strategy.model.train(training)
    before, numbers = weights(strategy), torch.get_rng_state()
    cost = strategy.cost()
    first, second = (strategy.predict(torch.ones(5, WIDTH)) for _ in range(2))
    assert torch.equal(first, second) and not first.requires_grad
    assert same(before, weights(strategy)) and torch.equal(numbers, torch.get_rng_state())
    assert strategy.cost() == cost
    assert all(module.training == training for module in strategy.model.modules())


@EACH
def test_is_deterministic_under_its_seed_whatever_the_global_one_is(make):
    found = []
    for noise in (1, 2):
        strategy = make(mlp(), SGD, seed=5)
        torch.manual_seed(noise)
        found.append(weights(learn(strategy, stream())))
    assert same(*found)


@EACH
def test_goes_on_from_a_saved_state_as_if_nothing_had_happened(make):
    steps = list(stream())
    half = len(steps) // 2 + 1
    momentum = partial(torch.optim.SGD, lr=0.05, momentum=0.9)
    first = learn(make(mlp(), momentum), steps[:half])
    state = first.state_dict()
    learn(first, steps[half:])
    second = make(mlp(seed=9), momentum)
    second.load_state_dict(state)
    learn(second, steps[half:])
    assert same(weights(first), weights(second))
    assert first.cost().flops == second.cost().flops and first.cost().stored_bytes == second.cost().stored_bytes


@EACH
def test_cost_grows_with_the_work_and_the_memory_only_as_stated(make):
    strategy, flops, stored = make(mlp(), SGD), [0], []
    for step in stream(tasks=4):
        learn(strategy, [step])
        cost = strategy.cost()
        flops.append(cost.flops)
        if step.boundary:
            stored.append(cost.stored_bytes)
    forward = 2 * 8 * (WIDTH * 8 + 8 * CLASSES)
    assert all(after - before >= 2 * forward for before, after in itertools.pairwise(flops))
    assert strategy.cost().seconds > 0
    assert strategy.cost().params == sum(p.numel() for p in strategy.model.parameters())
    if strategy.grows == "never":
        assert len(set(stored)) == 1
    elif strategy.grows == "by task":
        assert all(before < after for before, after in itertools.pairwise(stored))


@EACH
def test_takes_one_sample_and_a_part_of_a_larger_tensor(make):
    strategy = make(mlp(), SGD)
    x = torch.randn(WIDTH, 9).T
    strategy.observe(x[:1], torch.tensor([1]))
    strategy.observe(x[::2], torch.tensor([0, 1, 2, 3, 0]))
    assert strategy.predict(x).isfinite().all()


@EACH
@pytest.mark.usefixtures("unchecked")
def test_refuses_what_does_not_fit(make):
    strategy = make(mlp(), SGD)
    with pytest.raises(ValueError, match="2 inputs, 3 labels"):
        strategy.observe(torch.zeros(2, WIDTH), torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="4 outputs; got labels from 1 to 7"):
        strategy.observe(torch.zeros(2, WIDTH), torch.tensor([1, 7]))


@EACH
def test_never_names_a_class_that_has_not_come_up(make):
    strategy = make(mlp(), SGD)
    for _ in range(2):
        strategy.observe(torch.randn(6, WIDTH), torch.tensor([0, 1, 1, 0, 1, 0]))
    logits = strategy.predict(torch.randn(50, WIDTH))
    assert logits[:, :2].isfinite().all() and (logits[:, 2:] == -torch.inf).all()
