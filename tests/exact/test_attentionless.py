"""Flat perceptrons in the place of attention (arXiv 2311.10642)."""

import copy
import math

import pytest
import torch

from anabranch.compress import flat_students, imitate, replace_attention, replaced
from anabranch.data import Samples
from anabranch.models.seq2seq import TransformerSeq2Seq
from anabranch.nn.attention import SoftmaxAttention
from anabranch.nn.mixing import FlatFeedForward


def flat(dim=4, length=5, seed=0, **options):
    torch.manual_seed(seed)
    part = FlatFeedForward(dim, length=length, **options).double()
    with torch.no_grad():  # a norm that starts as the identity would hide mistakes with its gain and offset
        for norm in (part.norm, part.hidden_norm):
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_()
    return part


def tokens(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def words(rows=40, seed=0):
    """Sources of up to 6 letters, and the same letters back to front."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.zeros(rows, 6, dtype=torch.long)
    target = torch.zeros(rows, 7, dtype=torch.long)
    for row in range(rows):
        letters = torch.randint(1, 5, (int(torch.randint(1, 7, (), generator=generator)),), generator=generator)
        source[row, : len(letters)], target[row, : len(letters)] = letters, letters.flip(0)
    return Samples(source, target)


def teacher(dim=8):
    torch.manual_seed(0)
    return TransformerSeq2Seq(5, 5, dim=dim, heads=2).eval()


# The part


def test_weights_set_by_hand_give_uniform_attention():
    torch.manual_seed(0)
    length, dim = 5, 4
    attention = SoftmaxAttention(dim, heads=2).double()
    part = FlatFeedForward(dim, length=length, ratio=2).double()
    x = torch.nn.functional.layer_norm(tokens(3, length, dim), [dim])
    with torch.no_grad():
        attention.query.weight.zero_()  # all scores are equal
        attention.query.bias.zero_()
        value = attention.key_value.weight[dim:]
        mean_of_values = torch.cat([attention.out.weight @ value / length] * length, dim=1)
        offset = attention.out.weight @ attention.key_value.bias[dim:] + attention.out.bias
        for norm in (part.norm, part.hidden_norm):  # so large an eps leaves of a norm only the centring
            norm.eps = 1e14
            norm.weight.fill_(1e7)
        part.widen.weight.zero_()
        part.widen.bias.zero_()
        part.widen.weight[:dim], part.widen.weight[dim : 2 * dim] = mean_of_values, -mean_of_values
        # leaky(a) - leaky(-a) is 1.01 a, and a common mean cancels.
        back = torch.cat([torch.eye(dim, dtype=torch.float64), -torch.eye(dim, dtype=torch.float64)], 1) / 1.01
        part.narrow.weight.zero_()
        part.narrow.weight[:, : 2 * dim] = back.repeat(length, 1)
        part.narrow.bias.copy_(offset.repeat(length))
    torch.testing.assert_close(part(x), attention(x), rtol=0, atol=1e-5)


def test_hidden_widths_are_the_papers_at_its_length_and_width():
    sizes = {1 / 256: 25, 1 / 128: 50, 1 / 8: 800}
    for ratio, hidden in sizes.items():
        part = FlatFeedForward(128, length=50, ratio=ratio)
        assert part.hidden == hidden
        assert sum(p.numel() for p in part.parameters()) == 2 * 6400 + 6400 * hidden + 3 * hidden + hidden * 6400 + 6400


@pytest.mark.parametrize("source", [None, 3])
def test_a_causal_one_is_one_pass_for_each_place_over_what_came_before(source):
    part, x = flat(causal=True, source_length=source), tokens(2, 5, 4)
    context = None if source is None else tokens(2, source, 4, seed=2)
    y = part(x, context=context)
    for i in range(5):
        row = torch.cat([x[:, : i + 1].flatten(1), torch.zeros(2, 4 * (4 - i), dtype=torch.float64)], 1)
        if context is not None:
            row = torch.cat([row, context.flatten(1)], 1)
        hidden = part.hidden_norm(part.activation(part.widen(part.norm(row))))
        torch.testing.assert_close(y[:, i], part.narrow(hidden))


@pytest.mark.parametrize("source", [None, 3])
def test_gradients_reach_no_later_token_and_every_earlier_one(source):
    part, x = flat(causal=True, source_length=source), tokens(1, 5, 4)
    context = x if source is None else tokens(1, source, 4, seed=2)
    by_x = torch.autograd.functional.jacobian(lambda x: part(x, context=None if source is None else context), x)
    reached = by_x.abs().sum((0, 2, 3, 5)) > 0  # from place, to place
    assert torch.equal(reached, torch.ones(5, 5).tril().bool())
    if source is not None:
        by_context = torch.autograd.functional.jacobian(lambda context: part(x, context=context), context)
        assert (by_context.abs().sum((0, 2, 3, 5)) > 0).all()


@pytest.mark.parametrize("options", [{}, {"causal": True}])
def test_padded_tokens_influence_nothing_and_come_out_as_zeros(options):
    part, x = flat(**options), tokens(2, 5, 4)
    mask = torch.tensor([[True] * 3 + [False] * 2, [True] * 5])
    other = torch.where(mask[..., None], x, 99.0)
    y = part(other, mask=mask)
    torch.testing.assert_close(y, part(x, mask=mask), rtol=0, atol=0)
    assert not y[0, 3:].any()
    torch.testing.assert_close(y[:1, :3], part(x[:1, :3]))


def test_what_is_not_read_of_another_sequence_influences_nothing():
    part, x, context = flat(source_length=3), tokens(2, 5, 4), tokens(2, 3, 4, seed=2)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    other = torch.where(mask[..., None], context, 99.0)
    torch.testing.assert_close(part(x, context=other, mask=mask), part(x, context=context, mask=mask), rtol=0, atol=0)
    assert part(x, context=context, mask=mask).shape == (2, 5, 4)
    assert not torch.allclose(part(x, context=context), part(x, context=context.flip(1)))


@pytest.mark.usefixtures("unchecked")
def test_more_tokens_than_places_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at most 5 tokens; got 6"):
        flat()(tokens(1, 6, 4))
    with pytest.raises(ValueError, match="at most 3 tokens; got 4"):
        flat(source_length=3)(tokens(1, 5, 4), context=tokens(1, 4, 4))
    for options in ({"length": 0}, {"ratio": 0.0}, {"source_length": 0}):
        with pytest.raises(ValueError, match="must be positive"):
            flat(**options)


# The surgery


@pytest.mark.parametrize(
    "where, level, gone",
    [
        (["encoder"], "ALR", ["encoder.0.attention.part", "encoder.1.attention.part"]),
        (["encoder"], "ALRR", ["encoder.0.attention", "encoder.1.attention"]),
        (["encoder"], "ALSR", ["encoder.0.attention.part", "encoder.1.attention.part"]),
        (["encoder"], "ELR", ["encoder.0", "encoder.1"]),
        (
            ["decoder", "cross"],
            "ALR",
            [f"decoder.{i}.{kind}.part" for i in range(2) for kind in ("attention", "cross")],
        ),
    ],
)
def test_only_what_is_replaced_changes_bit_for_bit(where, level, gone):
    model, split = teacher(), words()
    before = copy.deepcopy(model.state_dict())
    result = replace_attention(model, split, where=where, level=level, ratio=1 / 8, epochs=1, batch_size=20)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    kept = {name for name in before if not any(name.startswith(f"{part}.") for part in gone)}
    after = result.module.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in kept)
    left = [name for name in after if "query" in name]
    assert left == [name for name in before if "query" in name and name in kept]
    assert sorted(result.report.details) == sorted(gone)
    assert all(0 < error < math.inf for error in result.report.details.values())
    if level == "ALSR":  # the map behind the heads stays
        out = "encoder.0.attention.part.out.weight"
        assert torch.equal(after[out], before[out])
        assert len(result.module.encoder[0].attention.part.heads) == 2
    assert result.module.write(split.inputs[:3], longest=7).shape[0] == 3


def test_a_decoder_with_flat_parts_still_writes_what_it_scores():
    model, split = teacher(), words()
    model = replace_attention(model, split, where=["encoder", "decoder", "cross"], epochs=1, batch_size=20).module
    whole, state = model(split.inputs, split.targets), model.start(split.inputs)
    before = torch.zeros(len(split), dtype=torch.long)
    for t in range(split.targets.shape[1]):
        logits, state = model.step(before, state)
        torch.testing.assert_close(logits, whole[:, t], rtol=1e-4, atol=1e-4)
        before = split.targets[:, t]


def test_what_stands_behind_the_end_of_a_source_does_not_matter_to_flat_parts():
    split = words()
    model = replace_attention(teacher(), split, where=["encoder", "cross"], epochs=1, batch_size=20).module
    short = split.inputs.clone()
    short[:, 3] = 0
    other = short.clone()
    other[:, 4:] = 1
    torch.testing.assert_close(model(other, split.targets), model(short, split.targets))


def test_each_part_learns_alone_from_the_teachers_own_inputs():
    model, split = teacher(), words()
    torch.manual_seed(0)
    students = flat_students(model, split, where=["encoder", "cross"], level="ALR", ratio=1 / 8)
    alone = copy.deepcopy(students)
    errors = imitate(model, split, list(students.items()), epochs=3, batch_size=20)
    for error, (name, student) in zip(errors, alone.items(), strict=True):
        assert imitate(model, split, [(name, student)], epochs=3, batch_size=20) == [error]
        for ours, theirs in zip(student.parameters(), students[name].parameters(), strict=True):
            assert torch.equal(ours, theirs)


def test_a_part_learns_to_imitate_attention_better_than_a_map_of_each_token():
    class Alone(torch.nn.Linear):
        def forward(self, x, mask=None):
            return super().forward(x)

    model, split = teacher(), words(300)
    with torch.no_grad():
        model.encoder[0].attention.part.key_value.weight.mul_(3)
    torch.manual_seed(0)
    name = "encoder.0.attention.part"
    flat_part, alone = FlatFeedForward(8, length=6, ratio=2), Alone(8, 8)
    errors = imitate(model, split, [(name, flat_part), (name, alone)], epochs=60, batch_size=50)
    assert errors[0] < 0.5 * errors[1]
    inside = replaced(model, {name: flat_part})
    drop = (inside.encode(split.inputs)[0] - model.encode(split.inputs)[0]).square().mean()
    worse = replaced(model, {name: alone}).encode(split.inputs)[0] - model.encode(split.inputs)[0]
    assert drop < worse.square().mean()


def test_places_and_levels_that_do_not_exist_are_refused():
    for options, match in (
        ({"where": ["head"]}, "encoder, decoder, cross"),
        ({"where": []}, "encoder, decoder, cross"),
        ({"level": "XL"}, "ALR, ALRR, ALSR, ELR"),
        ({"where": ["cross"], "level": "ELR"}, "only attention itself"),
    ):
        with pytest.raises(ValueError, match=match):
            replace_attention(teacher(), words(), **options)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_causal_one_keeps_its_digits_in_half_precision(dtype):
    part, x = flat(64, 20, ratio=1 / 8, causal=True), 10 * tokens(2, 20, 64)
    with torch.no_grad():
        for norm in (part.norm, part.hidden_norm):
            norm.weight.fill_(1)
            norm.bias.zero_()
    y = part(x)
    found = copy.deepcopy(part).to(dtype)(x.to(dtype))
    assert found.dtype == dtype and (found - y).norm() / y.norm() < 0.01


def test_a_causal_one_keeps_its_digits_where_tokens_are_far_from_zero():
    part, x = flat(8, 20, ratio=1, causal=True), tokens(2, 20, 8)
    for far in (10, 1000):
        near = (part.float()((x + far).float()) - part.double()((x + far).float().double()))[:, -1]
        assert near.norm() / part(x + far)[:, -1].norm() < 1e-4


def test_the_smallest_hidden_layer_still_hears_its_input():
    part = flat(4, 5, ratio=1 / 256)
    assert part.hidden == 2 and any((part(tokens(8, 5, 4)) - part(tokens(8, 5, 4, seed=s))).any() for s in range(2, 6))


def test_layers_of_an_encoder_that_are_one_get_one_part():
    model = teacher()
    model.encoder[1] = model.encoder[0]
    found = replace_attention(model, words(), where=["encoder"], ratio=1 / 8, epochs=1, batch_size=20)
    parts = [layer.attention.part for layer in found.module.encoder]
    assert parts[0] is parts[1] and len(set(found.report.details.values())) == 1
