"""HyperMixer (arXiv 2203.03691): a perceptron over the tokens whose weights the tokens make."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from anabranch.nn.mixing import HyperMixing, TokenMLP
from anabranch.nn.sinusoids import sinusoids

TOKENS, DIM, HIDDEN = 6, 8, 12


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def tokens(time=TOKENS, dim=DIM):
    return torch.randn(2, time, dim, dtype=torch.float64)


class Constant(nn.Module):
    """Makes the same weights, whatever the tokens say."""

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def forward(self, x):
        return self.rows.expand(1, len(x), *self.rows.shape)


def test_it_is_the_papers_formula_with_weights_made_by_two_networks():
    part, x, context = HyperMixing(DIM, hidden=HIDDEN).double(), tokens(), tokens(4)
    place = torch.arange(TOKENS).double()[:, None] / 10_000 ** (torch.arange(0, DIM, 2).double() / DIM)
    positions = torch.stack([place.sin(), place.cos()], -1).flatten(1)

    def weights(network, x):
        return F.gelu((x * DIM**0.5 + positions[: x.shape[1]]) @ network.first[0]) @ network.second[0]

    w1, w2 = weights(part.reader, context), weights(part.writer, x)
    expected = part.norm(w2 @ F.gelu(w1.mT @ context))
    torch.testing.assert_close(part(x, context=context), expected)


def released(x, context, mask, first, second, norm):
    """The authors' layer on weights in their layout: heads, then outputs, then inputs, for reading and for writing.

    Values stand channels first there, and both products are taken from the right. It can be given any positions; here
    it is given ours.
    """
    heads, width = len(first[0]), x.shape[2] // len(first[0])

    def rows(tokens, a, b):
        placed = tokens * tokens.shape[2] ** 0.5 + sinusoids(torch.arange(tokens.shape[1]), DIM, tokens.dtype)
        split = placed.reshape(*tokens.shape[:2], heads, width)
        hidden = F.gelu(torch.einsum("bthi, hoi -> bhto", split, a))
        return torch.einsum("bhti, hoi -> bhto", hidden, b)

    exists = mask[:, :, None].to(x.dtype)
    context = context * exists
    read, write = rows(context, first[0], second[0]) * exists[:, None], rows(x, first[1], second[1])
    value = context.transpose(1, 2).reshape(len(x), heads, width, -1)
    mixed = F.gelu(value @ read) @ write.transpose(2, 3)
    return norm(mixed.reshape(len(x), x.shape[2], -1).transpose(1, 2))


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("cross", [False, True])
def test_copied_weights_give_what_the_released_layer_gives(heads, cross):
    part = HyperMixing(DIM, hidden=HIDDEN, heads=heads).double()
    inside = DIM // heads
    first = torch.randn(2, heads, inside, inside, dtype=torch.float64)
    second = torch.randn(2, heads, HIDDEN // heads, inside, dtype=torch.float64)
    with torch.no_grad():
        for network, a, b in zip((part.reader, part.writer), first, second, strict=True):
            network.first.copy_(a.mT)
            network.second.copy_(b.mT)
        part.norm.weight.normal_()
        part.norm.bias.normal_()
    x = tokens()
    context = tokens(4) if cross else x
    mask = torch.arange(context.shape[1]) < torch.tensor([[context.shape[1]], [3]])
    for exists in (torch.ones_like(mask), mask):
        expected = released(x, context, exists, first, second, part.norm)
        torch.testing.assert_close(part(x, context=context, mask=exists), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_up_to_the_last_rounding_in_half_precision(dtype):
    part, x = HyperMixing(DIM), torch.zeros(1, 3000, DIM)
    expected = part.placed(x)
    torch.testing.assert_close(part.to(dtype).placed(x.to(dtype)), expected.to(dtype), rtol=0, atol=0)
    torch.testing.assert_close(part.float().placed(x), expected, rtol=0, atol=0)


@pytest.mark.parametrize("tied", [False, True])
def test_without_positions_permuting_the_tokens_permutes_the_output(tied):
    x, order = tokens(), torch.tensor([2, 0, 5, 1, 4, 3])
    for positions in (False, True):
        part = HyperMixing(DIM, tied=tied, positions=positions).double()
        assert torch.allclose(part(x[:, order]), part(x)[:, order]) == (not positions)


def test_frozen_weights_give_mlp_mixers_perceptron_without_biases():
    part, static = HyperMixing(DIM, hidden=HIDDEN).double(), TokenMLP(DIM, length=TOKENS, hidden=HIDDEN).double()
    with torch.no_grad():
        static.widen.bias.zero_()
        static.narrow.bias.zero_()
    x, dynamic = tokens(), part(tokens())
    part.reader, part.writer = Constant(static.widen.weight.mT), Constant(static.narrow.weight)
    torch.testing.assert_close(part(x), part.norm(static(x)))
    assert not torch.allclose(part(x), dynamic)


def test_the_weights_depend_on_what_the_tokens_say():
    part, x = HyperMixing(DIM).double(), tokens()
    mixes = [torch.autograd.functional.jacobian(part, each)[0, 0, :, 0, 3] for each in (x, x + tokens())]
    assert not torch.allclose(*mixes)


def test_padding_changes_nothing():
    part, x, mask = HyperMixing(DIM).double(), tokens(), torch.arange(TOKENS) < torch.tensor([[4], [4]])
    torch.testing.assert_close(part(x, mask=mask)[:, :4], part(x[:, :4]))
    other = x.masked_fill(~mask[..., None], 1e3)
    torch.testing.assert_close(part(other, mask=mask)[:, :4], part(x[:, :4]))


def test_heads_mix_their_channels_with_networks_of_their_own():
    part, x = HyperMixing(DIM, hidden=HIDDEN, heads=2, positions=False).double(), tokens()
    part.norm = nn.Identity()
    halves = []
    for head in range(2):
        single = HyperMixing(DIM // 2, hidden=HIDDEN // 2, positions=False).double()
        single.norm = nn.Identity()
        with torch.no_grad():
            for network, own in ((single.reader, part.reader), (single.writer, part.writer)):
                network.first.copy_(own.first[head : head + 1] * 2**0.5)  # the root of the width scales the tokens
                network.second.copy_(own.second[head : head + 1])
        halves.append(single(x[:, :, head * 4 : head * 4 + 4]))
    torch.testing.assert_close(part(x), torch.cat(halves, -1))


def test_tied_weights_are_one_network():
    part, x = HyperMixing(DIM, tied=True, positions=False).double(), tokens()
    weights = part.reader(x * DIM**0.5)[0]
    torch.testing.assert_close(part(x), part.norm(weights @ F.gelu(weights.mT @ x)))
    free = HyperMixing(DIM, positions=False)
    assert sum(p.numel() for p in free.reader.parameters()) == sum(p.numel() for p in part.reader.parameters())
    assert len([*free.parameters()]) == len([*part.parameters()]) + 2


def test_the_cost_grows_with_the_number_of_tokens():
    part = HyperMixing(64, hidden=128)
    assert part.cost(2048) == 2 * part.cost(1024) == 2048 * (2 * (64 * 64 + 64 * 128) + 2 * 64 * 128)


@pytest.mark.usefixtures("unchecked")
def test_widths_that_heads_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="dim must be a multiple of heads; got 6 and 4"):
        HyperMixing(6, heads=4)
    with pytest.raises(ValueError, match="hidden must be a multiple of heads; got 6 and 4"):
        HyperMixing(8, hidden=6, heads=4)
