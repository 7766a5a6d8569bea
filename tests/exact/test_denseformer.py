"""DenseFormer (arXiv 2402.02622): learned averages of the outputs of all blocks so far."""

from functools import partial

import pytest
import torch

from anabranch.models import LanguageHead, MetaFormer, Network, recompute
from anabranch.models.stems import ByteEmbed
from anabranch.nn.block import DepthAverage, DepthWeightedAverage, PreNorm
from anabranch.testing import check_streaming

DIM, TIME = 8, 6


def trunk(depth=4, block: object = DepthAverage, **options):
    torch.manual_seed(0)
    return MetaFormer(DIM, depth, block=partial(block, **options), causal=True).double()


def shake(model):
    """Weights that are nothing special."""
    generator = torch.Generator().manual_seed(2)
    for block in model.blocks:
        if block.average is not None:
            with torch.no_grad():
                block.average.weight.normal_(generator=generator)
    return model


def tokens():
    return torch.randn(2, TIME, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def weights(model):
    return [p for name, p in model.named_parameters() if "average" in name]


def by_definition(model, x, dilation=1, period=1):
    """The paper's equations, block by block, on matrices of weights."""
    states, y = [x], x
    for i, block in enumerate(model.blocks, start=1):
        states.append(PreNorm.wire(block, y, block.mixer, None, []))
        y = states[i]
        if i % period == 0:
            taken = [j for j in range(i + 1) if (i - j) % dilation == 0]
            y = sum(weight * states[j] for weight, j in zip(block.average.weight, taken, strict=True))
    return y


@pytest.mark.parametrize(("dilation", "period"), [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)])
def test_it_follows_the_paper_s_equations(dilation, period):
    model, x = shake(trunk(5, dilation=dilation, period=period)), tokens()
    torch.testing.assert_close(model(x), by_definition(model, x, dilation, period))


def test_at_the_start_the_logits_are_those_of_the_plain_stack():
    models = []
    for block in ("prenorm", "depth-average"):
        torch.manual_seed(0)
        models.append(
            Network(ByteEmbed(DIM, length=TIME), MetaFormer(DIM, 4, block=block, causal=True), LanguageHead(DIM))
        )
    models[1].load_state_dict(models[0].state_dict(), strict=False)
    text = torch.arange(2 * TIME).view(2, TIME)
    assert torch.equal(models[0](text), models[1](text))
    shake(models[1].trunk)
    assert not torch.allclose(models[0](text), models[1](text), atol=1e-2)


@pytest.mark.parametrize(("depth", "dilation", "period"), [(8, 1, 1), (8, 2, 2), (7, 2, 3), (12, 4, 5)])
def test_the_number_of_weights_is_the_formula_s(depth, dilation, period):
    count = sum(p.numel() for p in weights(trunk(depth, dilation=dilation, period=period)))
    assert count == sum(i // dilation + 1 for i in range(1, depth + 1) if i % period == 0)
    if dilation == period == 1:
        assert count == depth * (depth + 3) // 2
    if (depth, dilation, period) == (8, 1, 1):
        assert count == 44


def test_a_weight_s_gradient_is_the_product_of_the_average_s_gradient_and_the_state():
    average = DepthWeightedAverage(3).double()
    states = [tokens() + i for i in range(4)]
    y = average(states)
    upstream = torch.randn_like(y)
    y.backward(upstream)
    torch.testing.assert_close(average.weight.grad, torch.stack([(upstream * state).sum() for state in states]))


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_form_without_copies_is_that_with_one_buffer_of_all_states_in_value_and_gradient(dilation):
    states = torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    average = DepthWeightedAverage(5, dilation=dilation).double()
    torch.nn.init.normal_(average.weight)
    buffer = states[5 % dilation :: dilation]
    slow = torch.einsum("s,sbt->bt", average.weight, buffer)
    fast = average(list(states.unbind()))
    torch.testing.assert_close(fast, slow)
    for mine, theirs in zip(
        *(torch.autograd.grad(y.square().sum(), (average.weight, states)) for y in (fast, slow)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)


def test_with_a_period_of_the_whole_depth_only_the_last_block_averages():
    model = trunk(4, period=4)
    assert [block.average is not None for block in model.blocks] == [False, False, False, True]


def test_a_stream_averages_over_depth_and_not_over_time():
    check_streaming(shake(trunk()), tokens(), bound=10**6)


@pytest.mark.parametrize("options", [{}, {"dilation": 2, "period": 2}])
def test_blocks_can_be_computed_anew_for_the_gradient(options):
    model, x = shake(trunk(**options)), tokens()
    expected = torch.autograd.grad(model(x).square().sum(), model.parameters())
    loss = recompute(model, kinds=(DepthAverage,))(x).square().sum()
    for _ in range(2):
        found = torch.autograd.grad(loss, model.parameters(), retain_graph=True)
        torch.testing.assert_close(found, expected)


def test_a_later_stage_of_a_pyramid_averages_over_its_own_blocks():
    torch.manual_seed(0)
    model = MetaFormer((4, 8), (2, 2), block=DepthAverage, length=8).double()
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    y = model(x)
    # Its first state is the stage's input, of the stage's width and length.
    assert y.shape == (2, 4, 8)
    with torch.no_grad():
        model.blocks[2].average.weight[-2:] = 0
    assert not model.blocks[2](torch.randn(2, 4, 8, dtype=torch.float64)).any()


@pytest.mark.usefixtures("unchecked")
def test_impossible_options_and_numbers_of_states_are_refused():
    with pytest.raises(ValueError, match="dilation >= 1"):
        DepthWeightedAverage(2, dilation=0)
    with pytest.raises(ValueError, match="period >= 1"):
        trunk(period=0)
    with pytest.raises(ValueError, match="1 to 3 states; got 4"):
        DepthWeightedAverage(2)([torch.zeros(1)] * 4)
