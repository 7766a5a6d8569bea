"""Cho et al. 2014: the gated unit, the encoder-decoder and the log-linear model, against their equations."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from anabranch.models import LogLinearReranker, PhraseEncoderDecoder
from anabranch.models.phrase_reranker import ranks
from anabranch.nn.recurrent import ChoGRUCell, GRUCell


def sigma(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def numbers(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def cho_step(p: dict[str, np.ndarray], x: np.ndarray, h: np.ndarray, prefix: str = "") -> np.ndarray:
    """Equations 5 to 8, one sample."""
    w, b, gates, u = (p[prefix + name] for name in ("input.weight", "input.bias", "gates", "recurrent"))
    wz, wr, wh = np.split(w, 3)
    bz, br, bh = np.split(b, 3)
    uz, ur = np.split(gates, 2)
    z = sigma(wz @ x + uz @ h + bz)
    r = sigma(wr @ x + ur @ h + br)
    return z * h + (1 - z) * np.tanh(wh @ x + u @ (r * h) + bh)


def test_a_step_of_the_unit_is_the_papers_equations():
    cell = ChoGRUCell(3, 4).double()
    x, h = torch.randn(3, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    y, state = cell.step(x[None], h[None])
    np.testing.assert_allclose(y[0].detach().numpy(), cho_step(numbers(cell), x.numpy(), h.numpy()), atol=1e-12)
    assert state is y


def like_torch(cell: ChoGRUCell) -> nn.GRUCell:
    """torch's unit with the same numbers; it has the gates in another order."""
    other = nn.GRUCell(cell.in_dim, cell.dim).double()
    (wz, wr, wh), (bz, br, bh) = cell.input.weight.chunk(3), cell.input.bias.chunk(3)
    uz, ur = cell.gates.chunk(2)
    with torch.no_grad():
        other.weight_ih.copy_(torch.cat([wr, wz, wh]))
        other.bias_ih.copy_(torch.cat([br, bz, bh]))
        other.weight_hh.copy_(torch.cat([ur, uz, cell.recurrent]))
        other.bias_hh.zero_()
    return other


def test_the_unit_of_libraries_is_another_one_unless_nothing_is_reset():
    cell = ChoGRUCell(3, 4).double()
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    assert (cell.step(x, h)[0] - like_torch(cell)(x, h)).abs().max() > 1e-3
    with torch.no_grad():
        cell.input.bias[4:8] = 1000  # r = 1
    torch.testing.assert_close(cell.step(x, h)[0], like_torch(cell)(x, h), rtol=0, atol=1e-12)


def test_our_library_form_is_torchs():
    ours, theirs = GRUCell(3, 4).double(), nn.GRUCell(3, 4).double()
    theirs.load_state_dict({name.removesuffix("_l0"): p for name, p in ours.loop.state_dict().items()})
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 4, dtype=torch.float64)
    torch.testing.assert_close(ours.step(x, h)[0], theirs(x, h), rtol=0, atol=1e-12)


def test_recurrent_matrices_start_orthogonal():
    model = PhraseEncoderDecoder(7, 4, dim=6, embed=5, maxout=3)
    matrices = [*model.encoder.gates.chunk(2), model.encoder.recurrent, *model.from_state.weight.chunk(3)]
    assert len(matrices) == 6
    for matrix in matrices:
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(6))


@pytest.fixture
def model() -> PhraseEncoderDecoder:
    torch.manual_seed(0)
    model = PhraseEncoderDecoder(7, 4, dim=6, embed=5, maxout=3).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4)  # larger than at the start, so that every term counts
    return model


def log_probability(p: dict[str, np.ndarray], source: list[int], target: list[int]) -> float:
    """Appendix A.1, one pair, one formula after the other."""
    h = np.zeros(6)
    for word in [*source, 0]:
        h = cho_step(p, p["source_embedding.weight"][word], h, "encoder.")
    c = np.tanh(p["summary.weight"] @ h + p["summary.bias"])
    h = np.tanh(p["start.weight"] @ c + p["start.bias"])
    wz, wr, wh = np.split(p["from_word.weight"], 3)
    uz, ur, uh = np.split(p["from_state.weight"], 3)
    cz, cr, ch = np.split(p["from_summary.weight"], 3)
    wbz, wbr, wbh = np.split(p["from_word.bias"], 3)
    cbz, cbr, cbh = np.split(p["from_summary.bias"], 3)
    e, total = np.zeros(5), 0.0
    for word in [*target, 0]:
        z = sigma(wz @ e + uz @ h + cz @ c + wbz + cbz)
        r = sigma(wr @ e + ur @ h + cr @ c + wbr + cbr)
        h = z * h + (1 - z) * np.tanh(wh @ e + wbh + r * (uh @ h + ch @ c + cbh))
        sums = p["maxout_state.weight"] @ h + p["maxout_state.bias"] + p["maxout_word.weight"] @ e
        sums = sums + p["maxout_summary.weight"] @ c
        s = np.array([max(sums[2 * i], sums[2 * i + 1]) for i in range(3)])
        logits = p["output.weight"] @ (p["low_rank.weight"] @ s) + p["output.bias"]
        total += logits[word] - np.log(np.exp(logits).sum())
        e = p["target_embedding.weight"][word]
    return total


@pytest.mark.parametrize(("source", "target"), [([3, 1, 6], [2, 3]), ([5], [1, 1, 2, 3]), ([], [2]), ([4, 4], [])])
def test_the_score_of_a_pair_is_the_papers_equations(model, source, target):
    rows = [torch.tensor([row], dtype=torch.long) for row in (source, target)]
    assert model(*rows).item() == pytest.approx(log_probability(numbers(model), source, target), abs=1e-12)


def test_a_padded_batch_scores_as_each_pair_alone(model):
    source = torch.tensor([[3, 1, 6, 2], [5, 0, 4, 1], [2, 2, 0, 0]])
    target = torch.tensor([[1, 0, 3], [2, 3, 1], [0, 2, 2]])
    alone = [
        model(source[:1], target[:1, :1]),
        model(source[1:2, :1], target[1:2]),
        model(source[2:, :2], target[2:, :0]),
    ]
    torch.testing.assert_close(model(source, target), torch.cat(alone), rtol=0, atol=1e-12)


def test_the_probabilities_of_all_targets_add_up_to_one(model):
    source = torch.tensor([[3, 1]])
    short = [[], *([a] for a in (1, 2, 3)), *(list(pair) for pair in product((1, 2, 3), repeat=2))]
    ended = sum(model(source, torch.tensor([target], dtype=torch.long)).exp().item() for target in short)
    c, pairs = model.encode(source), torch.tensor(list(product((1, 2, 3), repeat=2)))
    following = model.logits(c.expand(9, -1), pairs).log_softmax(-1)
    rows = torch.arange(9)
    begun = (following[rows, 0, pairs[:, 0]] + following[rows, 1, pairs[:, 1]]).exp()
    longer = (begun * (1 - following[:, 2, 0].exp())).sum().item()
    assert ended + longer == pytest.approx(1, abs=1e-12)
    assert 0.001 < longer < 0.999


def test_the_translation_takes_the_likeliest_word_at_every_step(model):
    source = torch.tensor([[3, 1], [6, 0], [2, 5]])
    target = model.translate(source, longest=4)
    logits = model.logits(model.encode(source), target)
    for row, words in enumerate(target.tolist()):
        length = words.index(0) if 0 in words else len(words)
        assert logits[row].argmax(-1)[: min(length + 1, len(words))].tolist() == words[: length + 1]
        assert not any(words[length:])


def test_all_gradients_are_right(model):
    source, target = torch.tensor([[3, 0], [6, 2]]), torch.tensor([[1, 2], [3, 0]])
    parameters = tuple(p.detach().requires_grad_() for p in model.parameters())
    names = [name for name, _ in model.named_parameters()]
    assert torch.autograd.gradcheck(
        lambda *values: torch.func.functional_call(model, dict(zip(names, values, strict=True)), (source, target)),
        parameters,
        fast_mode=True,
    )


def test_it_learns_to_tell_pairs_apart_that_a_language_model_cannot():
    torch.manual_seed(0)
    source = torch.tensor([[a, b] for a in range(1, 5) for b in range(1, 5)])
    target = source.flip(1)
    model = PhraseEncoderDecoder(5, 5, dim=16, embed=8, maxout=8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(120):
        optimizer.zero_grad()
        (-model(source, target).mean()).backward()
        optimizer.step()
    assert (-model(source, target).mean()).item() < 0.5  # without the source: log 16, about 2.8
    assert (model.translate(source)[:, :2] == target).double().mean() > 0.9


@pytest.mark.usefixtures("unchecked")
def test_numbers_outside_the_vocabulary_are_refused(model):
    with pytest.raises(ValueError, match="expected target words from 0 to 3; got 1 to 4"):
        model(torch.tensor([[1]]), torch.tensor([[1, 4]]))
    with pytest.raises(ValueError, match=r"expected source phrases \(batch, time\); got \(1,\)"):
        model(torch.tensor([1]), torch.tensor([[1]]))
    with pytest.raises(ValueError, match="at least one word and the end"):
        PhraseEncoderDecoder(1, 5)


def test_a_feature_of_weight_zero_leaves_the_ranking_as_it_was():
    features, best = torch.randn(6, 9, 4, dtype=torch.float64), torch.randint(0, 9, (6,))
    base, extended = LogLinearReranker(3), LogLinearReranker(4)
    with torch.no_grad():
        base.weights.copy_(torch.randn(3))
        extended.weights[:3] = base.weights
    assert torch.equal(extended(features).argsort(1), base(features[..., :3]).argsort(1))
    assert torch.equal(ranks(extended(features), best), ranks(base(features[..., :3]), best))
    with torch.no_grad():
        extended.weights[3] = 5
    assert not torch.equal(extended(features).argsort(1), base(features[..., :3]).argsort(1))


def test_tuning_finds_the_weights_that_made_the_choices():
    torch.manual_seed(0)
    features = torch.randn(3000, 5, 3, dtype=torch.float64) * torch.tensor([1.0, 100.0, 0.01])
    truth = torch.tensor([1.0, -0.02, 0.0], dtype=torch.float64)
    gumbel = -torch.empty(3000, 5, dtype=torch.float64).exponential_().log()
    exists = torch.rand(3000, 5) < 0.8
    exists[:, 0] = True
    best = (features @ truth + gumbel).masked_fill(~exists, -torch.inf).argmax(1)
    model = LogLinearReranker(3)
    chance = (-exists.sum(1).double().log()).mean().item()
    assert model.tune(features, best, exists, penalty=0.0) > chance + 0.2
    scale = torch.tensor([1.0, 0.01, 100.0])
    torch.testing.assert_close(model.weights.detach() / scale, truth.float() / scale, rtol=0, atol=0.15)


def test_a_rank_counts_ties_against_the_right_one_and_skips_what_does_not_exist():
    scores, best = torch.tensor([[1.0, 3.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0]]), torch.tensor([1, 2])
    exists = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert ranks(scores, best, exists).tolist() == [2, 4]
    assert ranks(scores, best).tolist() == [3, 4]


@pytest.mark.usefixtures("unchecked")
def test_the_reranker_says_which_shapes_it_expected():
    with pytest.raises(ValueError, match=r"expected \(\.\.\., candidates, 3\); got \(2, 4\)"):
        LogLinearReranker(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match="expected 2 right candidates"):
        LogLinearReranker(3).tune(torch.zeros(2, 4, 3), torch.zeros(3, dtype=torch.long))
