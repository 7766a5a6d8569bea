"""Every probe leaves the model and the random generators bit for bit as they were, and says what it found."""

import copy
import math
import random

import numpy as np
import pytest
import torch
from plotly.graph_objects import Figure
from torch import nn

from anabranch.catalog import parts
from anabranch.data.task import Batch
from anabranch.interpret import Probe, Report, unchanged

PROBES = parts("probe")
EACH = pytest.mark.parametrize("probe", [entry.load() for entry in PROBES.values()], ids=list(PROBES))


def make_model(dtype=torch.float32):
    """A network with everything that a careless probe could change."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3)
    ).to(dtype)
    model[0].register_buffer("hidden", torch.ones(2), persistent=False)
    model[1].eval()
    model[4].bias.requires_grad_(False)
    model[6].weight.grad = torch.ones_like(model[6].weight)
    model[2].register_forward_hook(lambda module, args, output: None)
    model[6].weight.register_hook(lambda gradient: gradient)
    return model


def make_batch(size=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.randn(size, 6, generator=generator, dtype=dtype), torch.arange(size) % 3)


def fingerprint(model):
    """Everything that has to stay, in a form that can be compared."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")
    return (
        [
            (n, id(m), m.training, [len(getattr(m, h)) for h in hooks], sorted(m.__dict__))
            for n, m in model.named_modules()
        ],
        [(n, id(p), p.requires_grad, p.dtype, bits(p), bits(p.grad), id(p.grad)) for n, p in model.named_parameters()],
        [(n, id(b), bits(b)) for n, b in model.named_buffers()],
        [len(p._backward_hooks or ()) for p in model.parameters()],
        bits(torch.random.get_rng_state()),
        np.random.get_state()[1].tobytes(),
        random.getstate(),
    )


def bits(tensor):
    return None if tensor is None else tensor.detach().numpy().tobytes()


@EACH
@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_comes_back_bit_for_bit(probe, size, dtype):
    model = make_model(dtype)
    before = fingerprint(model)
    probe(model, make_batch(size, dtype)).run()
    assert fingerprint(model) == before


@EACH
def test_the_report_has_finite_numbers_and_a_figure(probe):
    report = probe(make_model(), make_batch()).run()
    assert isinstance(report, Report) and report.numbers
    assert all(isinstance(v, float) and math.isfinite(v) for v in report.numbers.values())
    assert all(isinstance(a, np.ndarray) for a in report.arrays.values())
    assert isinstance(report.figure(), Figure)


@EACH
def test_two_runs_agree(probe):
    model = make_model()
    assert probe(model, make_batch()).run().numbers == probe(model, make_batch()).run().numbers


@EACH
def test_a_model_without_parameters_is_no_error(probe):
    assert isinstance(probe(nn.Flatten(), make_batch()).run().figure(), Figure)


@EACH
def test_an_error_half_way_leaves_no_trace(probe):
    class Broken(probe):
        def measure(self):
            vandalise(self.model)
            raise ArithmeticError("half way")

    model = make_model()
    before = fingerprint(model)
    with pytest.raises(ArithmeticError, match="half way"):
        Broken(model, make_batch()).run()
    assert fingerprint(model) == before


def vandalise(model):
    """Change everything there is."""
    torch.rand(3), np.random.rand(3), random.random()
    for m in model.modules():
        m.train(not m.training)
        m.register_forward_hook(lambda *args: None)
        m.trace = "left behind"
    for p in model.parameters():
        p.requires_grad_(True)
        p.register_hook(lambda gradient: gradient)
    model(torch.randn(8, 6)).sum().backward()
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(2)
        for b in model.buffers():
            b.add_(1)
    model[0].weight = nn.Parameter(torch.zeros(1))
    model[5] = nn.Identity()
    model[6].weight.data = torch.zeros(3, 16, dtype=torch.float64)
    model[2]._forward_hooks.clear()
    del model[0].hidden


def test_whatever_is_done_inside_is_undone():
    model = make_model()
    before, state = fingerprint(model), copy.deepcopy(model.state_dict())
    with unchanged(model):
        vandalise(model)
        assert fingerprint(model) != before
    assert fingerprint(model) == before
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_a_graph_that_holds_the_weights_can_still_be_used_after_a_harmless_probe():
    model = make_model()
    loss = model(make_batch().inputs).sum()
    with unchanged(model):
        pass
    loss.backward()


def test_a_probe_has_to_measure():
    with pytest.raises(TypeError, match="measure"):
        Probe(nn.ReLU())
