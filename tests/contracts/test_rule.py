"""Every learning rule keeps the laws of :class:`anabranch.learning.Rule`."""

import copy
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from anabranch.catalog import parts
from anabranch.data.task import Batch
from anabranch.errors import InputError
from anabranch.learning import Rule
from anabranch.learning.base import evaluating
from anabranch.optim import SGD, AdamW

RULES = parts("rule")
EACH = pytest.mark.parametrize("rule", [entry.load()() for entry in RULES.values()], ids=list(RULES))
CLASSES = 4


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x):
        return x + self.branch(x)


def make_module(rule, *, dropout=0.0, seed=0):
    torch.manual_seed(seed)
    if rule.needs == "residual":
        return nn.Sequential(*(Residual(CLASSES * 3) for _ in range(3)))
    return nn.Sequential(
        nn.Linear(12, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, CLASSES)
    )


def make_batch(rule, size=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(size, 12, generator=generator)
    return Batch(inputs, inputs[:, -CLASSES:].argmax(1))  # some rules write over the first entries


def run(trainer, rule, steps, first=0):
    return [float(trainer.step(make_batch(rule, seed=first + i)).loss) for i in range(steps)]


@EACH
def test_binding_changes_no_weight_and_no_output(rule):
    module = make_module(rule)
    x = make_batch(rule).inputs
    before = copy.deepcopy(module.state_dict())
    with evaluating(module):
        output = module(x)
    trainer = rule.bind(module)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    if rule.kind == "gradient":
        assert torch.equal(trainer.predict(x), output)


@EACH
def test_prediction_gives_a_score_for_every_class_and_changes_nothing(rule):
    module = make_module(rule, dropout=0.5)
    trainer = rule.bind(module)
    batch = make_batch(rule)
    trainer.step(batch)
    before = copy.deepcopy(trainer.state_dict())
    scores = trainer.predict(batch.inputs)
    assert scores.shape == (len(batch.inputs), CLASSES) and not scores.requires_grad
    assert torch.equal(scores, trainer.predict(batch.inputs))
    assert all(torch.equal(before["module"][k], v) for k, v in trainer.state_dict()["module"].items())
    assert all(m.training for m in module.modules())
    assert trainer.predict(batch.inputs[:1]).shape == (1, CLASSES)


@EACH
def test_training_learns(rule):
    trainer = rule.bind(make_module(rule), make_optimizer=partial(AdamW, lr=1e-2))
    held_out = make_batch(rule, size=400, seed=10_000)
    for i in range(300):
        trainer.step(make_batch(rule, size=32, seed=i))
    accuracy = (trainer.predict(held_out.inputs).argmax(1) == held_out.targets).float().mean()
    assert accuracy > 0.6  # chance is 0.25


@EACH
def test_the_same_seed_gives_the_same_run(rule):
    runs = []
    for _ in range(2):
        trainer = rule.bind(make_module(rule, dropout=0.2, seed=3))
        torch.manual_seed(5)
        runs.append(run(trainer, rule, 5))
    assert runs[0] == runs[1]


@EACH
def test_a_restored_trainer_continues_bit_for_bit(rule):
    trainer = rule.bind(make_module(rule, dropout=0.2))
    run(trainer, rule, 3)
    state, random = copy.deepcopy(trainer.state_dict()), torch.random.get_rng_state()
    expected = run(trainer, rule, 3, first=3)
    again = rule.bind(make_module(rule, dropout=0.2, seed=9))
    again.load_state_dict(state)
    torch.random.set_rng_state(random)
    assert run(again, rule, 3, first=3) == expected
    for k, v in trainer.module.state_dict().items():
        assert torch.equal(v, again.module.state_dict()[k])


@EACH
def test_a_metered_step_updates_exactly_as_an_unmetered_one(rule):
    trainers = [rule.bind(make_module(rule, dropout=0.2)) for _ in range(2)]
    for seed in range(3):
        batch = make_batch(rule, seed=seed)
        torch.manual_seed(seed)
        plain = trainers[0].step(batch)
        torch.manual_seed(seed)
        with trainers[1].metered():
            report = trainers[1].step(batch)
        assert plain.objective is None and torch.equal(plain.loss, report.loss)
    for a, b in zip(trainers[0].module.parameters(), trainers[1].module.parameters(), strict=True):
        assert torch.equal(a, b)
    assert report.saved_total >= report.saved_peak > 0
    assert report.live_peak > 0 and report.seconds > 0
    assert report.forward_units >= 1 and report.backward_units > 0
    assert report.sequential_depth >= 1
    assert report.objective == pytest.approx(report.objective) and report.objective > 0


@EACH
def test_the_reports_loss_waits_for_nothing(rule):
    report = rule.bind(make_module(rule)).step(make_batch(rule))
    assert isinstance(report.loss, torch.Tensor) and report.loss.ndim == 0 and not report.loss.requires_grad


@EACH
def test_all_trained_parameters_belong_to_one_optimizer_each(rule):
    trainer = rule.bind(make_module(rule))
    owned = [id(p) for o in trainer.optimizers for group in o.param_groups for p in group["params"]]
    assert len(owned) == len(set(owned))
    known = {id(p) for p in (*trainer.module.parameters(), *trainer.extra_parameters().values())}
    assert set(owned) <= known
    assert all(id(p) in owned for p in trainer.extra_parameters().values())


@EACH
def test_a_learning_rate_of_zero_changes_nothing(rule):
    module = make_module(rule)
    before = copy.deepcopy(module.state_dict())
    run(rule.bind(module, make_optimizer=partial(SGD, lr=0.0)), rule, 2)
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())


@EACH
@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_one_sample_of_any_scale_and_any_layout_leaves_finite_weights(rule, scale):
    module = make_module(rule)
    trainer = rule.bind(module, make_optimizer=partial(AdamW, lr=1e-3))
    x = (scale * make_batch(rule, size=6).inputs).T.contiguous().T
    for rows in (slice(0, 1), slice(None, None, 2)):
        report = trainer.step(Batch(x[rows], torch.arange(len(x))[rows] % CLASSES))
        assert report.loss.isfinite()
    assert all(p.isfinite().all() for p in module.parameters())


@EACH
def test_clipping_bounds_the_step(rule):
    module = make_module(rule)
    before = copy.deepcopy(module.state_dict())
    trainer = rule.bind(module, make_optimizer=partial(SGD, lr=1.0, momentum=0.0), clip=1e-3)
    run(trainer, rule, 1)
    moved = sum(float((before[k] - v).double().square().sum()) for k, v in module.state_dict().items()) ** 0.5
    assert 0 < moved <= 1e-3 * len(trainer.optimizers) ** 0.5 * 1.001


@EACH
def test_gradient_rules_give_every_gradient_and_update_nothing(rule):
    module = make_module(rule)
    trainer = rule.bind(module)
    if rule.kind == "local":
        with pytest.raises(InputError, match="local rule"):
            trainer.grads(make_batch(rule))
        return
    before = copy.deepcopy(module.state_dict())
    grads = trainer.grads(make_batch(rule))
    assert list(grads) == [name for name, _ in module.named_parameters()]
    assert all(g.shape == p.shape for g, p in zip(grads.values(), module.parameters(), strict=True))
    assert all(torch.equal(before[k], v) for k, v in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


@EACH
def test_a_module_without_stages_is_refused_by_rules_that_need_them(rule):
    if rule.needs == "any":
        rule.bind(nn.Bilinear(2, 2, CLASSES))
        return
    with pytest.raises(InputError, match="needs a chain"):
        rule.bind(nn.Bilinear(2, 2, CLASSES))


@EACH
def test_a_state_of_another_rule_is_refused(rule):
    trainer = rule.bind(make_module(rule))
    state = trainer.state_dict()
    with pytest.raises(InputError, match="another rule"):
        trainer.load_state_dict({**state, "optimizers": [*state["optimizers"], {}]})


@EACH
def test_rules_declare_what_they_are(rule):
    assert isinstance(rule, Rule)
    assert rule.kind in ("gradient", "local", "wrapper") and rule.needs in ("any", "chain", "residual")


def test_backprop_is_the_bare_loop_bit_for_bit():
    rule = RULES["backprop"].load()()
    modules = [make_module(rule) for _ in range(2)]
    trainer = rule.bind(modules[0], cross_entropy, partial(AdamW, lr=1e-2), clip=1.0)
    optimizer = AdamW(modules[1], lr=1e-2)
    for seed in range(5):
        batch = make_batch(rule, seed=seed)
        trainer.step(batch)
        optimizer.zero_grad()
        cross_entropy(modules[1](batch.inputs), batch.targets).backward()
        nn.utils.clip_grad_norm_(modules[1].parameters(), 1.0)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in modules), strict=True))
