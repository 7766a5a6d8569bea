"""Muon and the linear associative memory (2509.26030): orthogonal steps, and what they mean for rare classes."""

import pytest
import torch
from torch import nn

from anabranch.data import LongTailFacts
from anabranch.errors import InputError
from anabranch.optim import AdamW, Muon, newton_schulz
from anabranch.optim.muon import hidden_matrices
from anabranch.theory import AssociativeMemory
from anabranch.theory.associative_memory import head_and_tail, polar, rotation, sign


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (5, 9), (9, 5)])
def test_the_polar_update_has_unit_singular_values_and_keeps_the_singular_vectors(shape):
    G = randn(*shape)
    U, _, Vh = torch.linalg.svd(G, full_matrices=False)
    torch.testing.assert_close(torch.linalg.svdvals(polar(G)), torch.ones(min(shape), dtype=torch.float64))
    torch.testing.assert_close(polar(G), U @ Vh)
    low = G[:, :1] @ G[:1]
    assert float(torch.linalg.svdvals(polar(low))[1:].max()) < 1e-9  # nothing is made of directions that are not there


@pytest.mark.parametrize("shape", [(32, 128), (128, 32), (3, 16, 64)])
def test_five_newton_schulz_steps_bring_singular_values_near_one(shape):
    for seed in range(3):
        values = torch.linalg.svdvals(newton_schulz(randn(*shape, seed=seed)))
        assert float(values.min()) >= 0.6 and float(values.max()) <= 1.2


def test_a_newton_schulz_step_is_the_quintic_on_singular_values():
    G = randn(6, 10)
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    s = S / S.norm()
    for steps in (1, 2, 5):
        expected = s
        for _ in range(steps):
            expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
        torch.testing.assert_close(newton_schulz(G, steps), U @ torch.diag(expected) @ Vh, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e4, 1e30])
def test_newton_schulz_ignores_the_scale_and_keeps_zero(scale):
    G = randn(4, 6).float()
    torch.testing.assert_close(newton_schulz(G * scale), newton_schulz(G), rtol=1e-4, atol=1e-5)
    assert torch.equal(newton_schulz(0 * G), 0 * G)


def test_turning_the_embeddings_turns_muons_update_and_not_adams():
    G, Q, R = randn(8, 8), rotation(8, 8, torch.Generator().manual_seed(1)), rotation(8, 8)
    for update in (polar, newton_schulz):
        torch.testing.assert_close(update(Q @ G @ R), Q @ update(G) @ R, rtol=1e-9, atol=1e-9)
    assert float((sign(Q @ G @ R) - Q @ sign(G) @ R).abs().max()) > 0.5


@pytest.mark.parametrize("W", [torch.zeros(7, 6, dtype=torch.float64), randn(7, 6, seed=5)])
def test_the_gradient_is_autograds(W):
    memory = AssociativeMemory(randn(6, 9), randn(7, 9, seed=1), randn(9, seed=2).softmax(0))
    W = W.clone().requires_grad_()
    (expected,) = torch.autograd.grad(memory.loss(W), W)
    torch.testing.assert_close(memory.gradient(W.detach()), expected, rtol=1e-12, atol=1e-14)


def test_at_zero_the_gradient_is_the_papers_formula():
    E, V, p = randn(6, 9), randn(7, 9, seed=1), head_and_tail(9, 2, 0.8)
    G = AssociativeMemory(E, V, p).gradient(torch.zeros(7, 6, dtype=torch.float64))
    centre = torch.eye(9, dtype=torch.float64) - torch.ones(9, 9, dtype=torch.float64) / 9
    torch.testing.assert_close(G, -V @ centre @ torch.diag(p) @ E.T)


def recall_ratio(update, block, seed=0):
    generator = torch.Generator().manual_seed(seed)
    keys, values = rotation(64, block, generator), rotation(64, block, generator)
    if block == 1:
        keys = values = torch.eye(64, dtype=torch.float64)
    recall = AssociativeMemory(keys, values, head_and_tail(64, 8, 0.8)).one_step(update)
    assert float(recall.max()) == pytest.approx(0.99, abs=1e-6)
    return float(recall.min() / recall.max())


@pytest.mark.parametrize("block", [1, 8, 64])
def test_one_step_of_muon_recalls_all_classes_alike_for_every_embedding(block):
    assert recall_ratio(polar, block) > 0.998
    assert recall_ratio(newton_schulz, block) == pytest.approx(0.967, abs=0.002)


def test_one_step_of_gradient_descent_or_adam_leaves_rare_classes_behind():
    assert recall_ratio(lambda G: G, 64) == pytest.approx(0.0214, abs=0.001)
    assert recall_ratio(sign, 1) > 0.999  # Adam sees an identity embedding as Muon does
    assert recall_ratio(sign, 64) < 0.05


def test_a_step_that_cannot_help_is_refused(unchecked):
    memory = AssociativeMemory(torch.eye(4), torch.eye(4), torch.full((4,), 0.25))
    with pytest.raises(InputError, match="no step"):
        memory.one_step(torch.zeros_like)
    with pytest.raises(ValueError, match="sum"):
        AssociativeMemory(torch.eye(4), torch.eye(4), torch.ones(4))
    with pytest.raises(ValueError, match="as many"):
        AssociativeMemory(torch.eye(4), torch.eye(4), torch.full((5,), 0.2))


# The optimizer.


@pytest.mark.filterwarnings("ignore")
def test_it_is_torchs_muon_up_to_torchs_rounding():
    torch_muon = getattr(torch.optim, "Muon", None)
    if torch_muon is None:
        pytest.skip("torch.optim.Muon came with torch 2.9")
    nets = [nn.Linear(12, 20, bias=False), nn.Linear(12, 20, bias=False)]
    nets[1].load_state_dict(nets[0].state_dict())
    start = nets[0].weight.detach().clone()
    ours = Muon(nets[0].named_parameters(), lr=0.02, weight_decay=0.1)
    theirs = torch_muon(nets[1].parameters(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        for net, optimizer in zip(nets, (ours, theirs), strict=True):
            net.weight.grad = randn(20, 12, seed=step).float()
            optimizer.step()
    moved = float((nets[0].weight - start).norm())
    assert float((nets[0].weight - nets[1].weight).norm()) < 0.02 * moved  # bfloat16 keeps 8 bits


@pytest.mark.parametrize("nesterov", [False, True])
def test_the_step_follows_the_momentum_and_with_nesterov_looks_ahead_of_it(nesterov):
    net = nn.Linear(7, 5, bias=False).double()
    expected, summed = net.weight.detach().clone(), torch.zeros(5, 7, dtype=torch.float64)
    optimizer = Muon(net.named_parameters(), lr=0.01, momentum=0.9, nesterov=nesterov, weight_decay=0.0)
    for seed in range(3):
        G = randn(5, 7, seed=seed)
        net.weight.grad = G.clone()
        optimizer.step()
        summed = 0.9 * summed + G  # as in the paper; a mean instead is shorter, which the step does not see
        direction = G + 0.9 * summed if nesterov else summed
        expected -= 0.01 * 0.2 * 7**0.5 * newton_schulz(direction)
    torch.testing.assert_close(net.weight.detach(), expected, rtol=1e-9, atol=1e-12)


def test_the_step_has_the_root_mean_square_of_adams():
    for shape in [(64, 16), (16, 64), (48, 48)]:
        net = nn.Linear(*shape, bias=False).double()
        before = net.weight.detach().clone()
        net.weight.grad = randn(*net.weight.shape)
        Muon(net.named_parameters(), lr=1.0, weight_decay=0.0).step()
        rms = float((net.weight - before).square().mean().sqrt())
        assert 0.6 * 0.2 < rms < 1.2 * 0.2


def test_matrices_of_one_shape_do_not_influence_each_other():
    torch.manual_seed(0)
    pair, alone = nn.ModuleList(nn.Linear(5, 5) for _ in range(2)).double(), nn.Linear(5, 5).double()
    alone.load_state_dict(pair[1].state_dict())
    for net in (pair[1], alone):
        net.weight.grad = randn(5, 5)
    pair[0].weight.grad = 100 * randn(5, 5, seed=3)
    Muon(pair.named_parameters()).step()
    Muon(alone.named_parameters()).step()
    torch.testing.assert_close(pair[1].weight, alone.weight, rtol=1e-12, atol=1e-14)


def test_embeddings_the_head_and_vectors_go_to_adam():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Embedding(7, 4)
            self.place = nn.Parameter(torch.zeros(3, 4))
            self.first, self.norm, self.conv = nn.Linear(4, 4), nn.LayerNorm(4), nn.Conv1d(4, 4, 3)
            self.last = nn.Linear(4, 5)

    model = Model()
    chosen = hidden_matrices(model)
    assert [name for name, p in model.named_parameters() if chosen(name, p)] == ["first.weight"]
    tied = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False), nn.Linear(7, 2))
    tied[2].weight = tied[0].weight
    chosen = hidden_matrices(tied)
    assert [name for name, p in tied.named_parameters() if chosen(name, p)] == ["1.weight"]
    muon, rest = Muon(model, lr=0.1, adam_lr=0.01).param_groups
    assert (muon["lr"], rest["lr"]) == (0.1, 0.01)
    assert [p.shape for p in muon["params"]] == [(4, 4)]
    assert {id(p) for p in muon["params"]} == {id(model.first.weight)}


def test_what_is_left_to_adam_moves_as_adams():
    torch.manual_seed(0)
    nets = [nn.Linear(4, 3), nn.Linear(4, 3)]
    nets[1].load_state_dict(nets[0].state_dict())
    for net, make in zip(nets, (Muon, AdamW), strict=True):  # the only matrix of a module is its head
        optimizer = make(net, lr=0.01)
        for seed in range(3):
            net.weight.grad, net.bias.grad = randn(3, 4, seed=seed).float(), randn(3, seed=seed).float()
            optimizer.step()
    assert torch.equal(nets[0].weight, nets[1].weight)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="momentum"):
        Muon(nn.Linear(3, 3), momentum=1.0)
    with pytest.raises(ValueError, match="matrices only"):
        Muon(nn.Linear(3, 3), hidden=lambda name, p: True)


# The facts.


def test_every_question_has_one_answer_and_frequencies_fall_as_a_power():
    facts = LongTailFacts(people=50, attributes=3, values=7, exponent=1.5)
    assert len(facts) == 150 and len(facts.inputs.unique(dim=0)) == 150
    assert int(facts.inputs.max()) < facts.vocabulary and int(facts.targets.max()) < facts.values
    ratio = facts.frequencies[1:] / facts.frequencies[:1]
    torch.testing.assert_close(ratio, torch.arange(2, 51, dtype=torch.float64) ** -1.5)
    drawn = facts.draw(20_000, torch.Generator().manual_seed(0))
    first = (drawn.inputs[:, :3] == facts.inputs[0, :3]).all(1).double().mean()
    assert float(first) == pytest.approx(float(facts.frequencies[0]), abs=0.015)


def test_no_single_token_tells_who_is_meant():
    facts = LongTailFacts()
    for place in range(3):
        assert len(facts.inputs[:, place].unique()) == 16
    assert len(facts.inputs[:, :3].unique(dim=0)) == 512


def test_ranks_split_the_facts_by_the_frequency_of_the_person():
    facts = LongTailFacts(people=10, attributes=2)
    assert facts.ranks(0, 0.1).nonzero().flatten().tolist() == [0, 1]
    assert facts.ranks(0.5, 1).nonzero().flatten().tolist() == list(range(10, 20))
    with pytest.raises(ValueError, match="start"):
        facts.ranks(0.5, 0.5)
    with pytest.raises(ValueError, match="apart"):
        LongTailFacts(people=10_000)


def test_the_same_seed_gives_the_same_facts():
    a, b, c = LongTailFacts(seed=1), LongTailFacts(seed=1), LongTailFacts(seed=2)
    assert torch.equal(a.targets, b.targets) and torch.equal(a.inputs, b.inputs)
    assert not torch.equal(a.targets, c.targets)
