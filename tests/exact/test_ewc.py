"""Elastic weight consolidation and the Fisher information it rests on (Kirkpatrick et al. 2016, arXiv 1612.00796)."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anabranch.continual import EWC, FineTuning, L2Anchor, run, split
from anabranch.data import digits
from anabranch.theory import diag_fisher

SGD = partial(torch.optim.SGD, lr=0.1)


def small(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 4))
    net[1].running_mean.fill_(0.3)
    return net.double()


def data(count: int = 30) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(4, (count,), generator=generator)


class QuadraticEWC(EWC):
    """Tasks whose loss is a quadratic with a known diagonal Hessian, which then is the importance."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.task_number = 0

    def loss(self, x, y, task):
        value = 0.5 * (HESSIANS[self.task_number] * (self.weights() - OPTIMA[self.task_number]).square()).sum()
        return value + self.penalty()

    def importance(self):
        return HESSIANS[self.task_number]


GENERATOR = torch.Generator().manual_seed(2)
HESSIANS = torch.rand(3, 12, generator=GENERATOR, dtype=torch.float64) / 2 + 0.5
OPTIMA = torch.randn(3, 12, generator=GENERATOR, dtype=torch.float64)


def settle(tasks: int, **options) -> torch.Tensor:
    """Learn such tasks in turn, each to its optimum; the weights after the last one."""
    net = nn.Linear(2, 6, bias=False).double()
    ewc = QuadraticEWC(net, partial(torch.optim.SGD, lr=0.4), **options)
    x, y = torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, dtype=torch.long)
    for number in range(tasks):
        ewc.task_number = number
        for _ in range(130):
            ewc.observe(x, y)
        ewc.boundary()
    return ewc.weights().detach()


def joint(tasks: int) -> torch.Tensor:
    return (HESSIANS * OPTIMA)[:tasks].sum(0) / HESSIANS[:tasks].sum(0)


@pytest.mark.parametrize(("mode", "tasks"), [("separate", 2), ("online", 2), ("online", 3)])
def test_on_quadratic_tasks_the_optimum_is_that_of_joint_training(mode, tasks):
    torch.testing.assert_close(settle(tasks, mode=mode, strength=1.0), joint(tasks), rtol=0, atol=1e-8)


def test_from_the_third_task_on_separate_anchors_count_the_first_twice():
    # The second anchor is itself pulled to the first (Huszar 2018, arXiv 1712.03847).
    (h1, h2, h3), (o1, _, o3) = HESSIANS, OPTIMA
    expected = (h1 * o1 + h2 * joint(2) + h3 * o3) / (h1 + h2 + h3)
    torch.testing.assert_close(settle(3, mode="separate", strength=1.0), expected, rtol=0, atol=1e-8)
    assert (expected - joint(3)).abs().max() > 0.1


def test_separate_penalties_are_one_quadratic_up_to_a_constant():
    ewc = EWC(nn.Linear(2, 3).double(), SGD, strength=7.0, limit=math.inf)
    generator = torch.Generator().manual_seed(0)
    tasks = [
        (torch.rand(9, generator=generator).double(), torch.randn(9, generator=generator).double()) for _ in range(3)
    ]
    for fisher, anchor in tasks:
        ewc._penalty = ewc.merge(fisher, anchor)
    gaps = []
    for _ in range(4):
        with torch.no_grad():
            for p in ewc.model.parameters():
                p.normal_()
        explicit = sum(3.5 * (fisher * (ewc.weights() - anchor).square()).sum() for fisher, anchor in tasks)
        gaps.append(float(explicit.detach()) - float(ewc.penalty().detach()))
    assert max(gaps) - min(gaps) < 1e-9 < gaps[0]


def test_logistic_fisher_is_the_mean_of_p_times_one_minus_p_times_x_squared():
    x = torch.randn(40, 5, dtype=torch.float64)
    weight = torch.randn(5, dtype=torch.float64)
    net = nn.Linear(5, 2, bias=False).double()
    with torch.no_grad():  # the logit of class 1 is weight . x, that of class 0 is 0
        net.weight.copy_(torch.stack([torch.zeros(5, dtype=torch.float64), weight]))
    p = (x @ weight).sigmoid()
    expected = ((p * (1 - p))[:, None] * x.square()).mean(0)
    torch.testing.assert_close(diag_fisher(net, x, exact=True)["weight"][1], expected)


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_empirical_fisher_is_a_loop_over_samples(chunk):
    net, (x, y) = small().eval(), data()
    expected = {name: torch.zeros_like(p) for name, p in net.named_parameters()}
    for sample, label in zip(x, y, strict=True):
        net.zero_grad()
        F.cross_entropy(net(sample[None]), label[None]).backward()
        for name, p in net.named_parameters():
            expected[name] += p.grad.square() / len(x)
    found = diag_fisher(net, x, y, chunk=chunk)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name])


def test_squaring_the_mean_gradient_would_give_far_less():
    net, (x, y) = small().eval(), data(200)
    right = diag_fisher(net, x, y)["4.weight"].sum()
    F.cross_entropy(net(x), y).backward()
    assert net[4].weight.grad.square().sum() < right / 20


def test_drawn_labels_give_the_exact_fisher_on_average():
    net, (x, _) = small(), data(8)
    exact = diag_fisher(net, x, exact=True)["4.weight"]
    drawn = diag_fisher(net, x.repeat(3000, 1), generator=torch.Generator().manual_seed(0), chunk=2000)["4.weight"]
    torch.testing.assert_close(drawn, exact, rtol=0.1, atol=2e-3)
    assert (diag_fisher(net, *data(8))["4.weight"] - exact).abs().max() > 0.02  # true labels are another thing


def test_measuring_switches_dropout_and_batch_statistics_off_and_leaves_the_model_alone():
    net, (x, y) = small(dropout=0.5).train(), data()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = diag_fisher(net, x, y)
    assert net.training and net[3].training
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])
    for name, value in diag_fisher(small(dropout=0.0).eval(), x, y).items():
        torch.testing.assert_close(found[name], value)


def test_classes_that_cannot_be_named_have_no_information():
    net, (x, _) = small(), data()
    allowed = torch.tensor([True, True, False, False])
    found = diag_fisher(net, x, exact=True, allowed=allowed)["4.weight"]
    assert torch.equal(found[2:], torch.zeros_like(found[2:])) and (found[:2] > 0).all()


def test_the_rows_of_classes_still_to_come_stay_free():
    net, (x, y) = small(), data()
    ewc = EWC(net, SGD)
    ewc.observe(x[y < 2], y[y < 2])
    ewc.boundary()
    importance = dict(zip(["rest", "head"], ewc._penalty[0].split([6 * 8 + 8 + 16, 32 + 4]), strict=True))
    rows = importance["head"][:32].reshape(4, 8)
    assert (rows[:2] > 0).all() and torch.equal(rows[2:], torch.zeros_like(rows[2:]))


@pytest.mark.parametrize("labels", ["drawn", "true"])
def test_the_importance_is_the_fisher_of_all_the_task_by_the_labels_asked_for(labels):
    net, (x, y) = small(), data(300)
    y = y * 0  # far from what the model would draw
    ewc = EWC(net, partial(torch.optim.SGD, lr=0.0), labels=labels)
    for start in range(0, 300, 30):
        ewc.observe(x[start : start + 30], y[start : start + 30])
    ewc.seen[:] = True
    ewc.boundary()
    exact, empirical = diag_fisher(net, x, exact=True), diag_fisher(net, x, y)
    found = ewc._penalty[0]
    wanted, other = (torch.cat([value.flatten() for value in each.values()]) for each in (exact, empirical))
    if labels == "true":
        wanted, other = other, wanted
        torch.testing.assert_close(found, wanted)
    assert (found - wanted).norm() < 0.25 * wanted.norm()  # one draw per sample leaves some noise
    assert (found - other).norm() > 0.5 * wanted.norm()


def test_online_importance_decays_and_anchors_at_the_latest_weights():
    ewc = EWC(nn.Linear(2, 3).double(), SGD, mode="online", decay=0.6)
    generator = torch.Generator().manual_seed(0)
    fishers, anchors = torch.rand(2, 3, 9, generator=generator, dtype=torch.float64)
    for fisher, anchor in zip(fishers, anchors, strict=True):
        ewc._penalty = ewc.merge(fisher, anchor)
    total, anchor = ewc._penalty
    torch.testing.assert_close(total, 0.36 * fishers[0] + 0.6 * fishers[1] + fishers[2])
    assert torch.equal(anchor, anchors[2])


def test_a_weight_that_matters_moves_less():
    torch.manual_seed(0)
    net = nn.Linear(2, 2, bias=False).double()
    ewc = EWC(net, SGD, strength=50.0)
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)  # the first task uses only the first input
    y = torch.tensor([0, 1])
    for _ in range(3):
        ewc.observe(x, y)
    ewc.boundary()
    anchor = net.weight.detach().clone()
    for _ in range(10):
        ewc.observe(x[:, [0, 0]], 1 - y)  # the second one contradicts it, and uses both inputs alike
    moved = (net.weight.detach() - anchor).abs().sum(0)
    assert moved[0] < 0.2 * moved[1]


def test_a_limit_keeps_steps_stable_where_the_penalty_alone_diverges():
    def last(limit):
        torch.manual_seed(0)
        net, (x, y) = small(), data()
        ewc = EWC(net, SGD, strength=1e6, limit=limit)
        for _ in range(3):
            ewc.observe(x, y)
        ewc.boundary()
        for _ in range(30):
            ewc.observe(x + 1, y.flip(0))
        return ewc.weights().detach()

    assert not last(math.inf).isfinite().all() or last(math.inf).abs().max() > 1e3
    assert last(10.0).abs().max() < 10 and torch.equal(last(None), last(10.0))  # the rate is 0.1


def test_before_the_first_boundary_it_is_fine_tuning():
    x, y = data()
    plain, held = FineTuning(small(), SGD), EWC(small(), SGD)
    for learner in (plain, held):
        for _ in range(3):
            learner.observe(x, y)
    assert torch.equal(plain.predict(x), held.predict(x))


def test_it_forgets_less_than_fine_tuning_when_the_task_is_told():
    results = {}
    for name, make in (("fine", FineTuning), ("l2", L2Anchor), ("ewc", partial(EWC, strength=1000.0))):
        torch.manual_seed(0)
        stream = split(digits(), scenario="task", epochs=3, batch_size=32)
        net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        results[name] = run(stream, make(net, partial(torch.optim.SGD, lr=0.02, momentum=0.9), heads=stream.heads))
    assert results["ewc"].forgetting < results["fine"].forgetting
    assert results["ewc"].acc > 0.9


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="only the online mode forgets"):
        EWC(small(), SGD, decay=0.9)
    with pytest.raises(ValueError, match="before the first batch"):
        EWC(small(), SGD).boundary()
    with pytest.raises(ValueError, match="at least one sample"):
        diag_fisher(small(), torch.zeros(0, 6).double())
