"""Every block wiring of the catalog keeps the laws of :class:`anabranch.nn.block.Block`."""

from functools import partial

import pytest
import torch

from anabranch.catalog import parts
from anabranch.models import MetaFormer
from anabranch.nn.block import Block
from anabranch.slots import fill
from anabranch.testing import check_causal, check_compile, check_padding, check_part, check_streaming

DIM, TIME = 8, 6
each = pytest.mark.parametrize("name", parts("block"))


def build(name, mixer="attention", norm="layernorm", causal=False, seed: int | None = 0, **options):
    if seed is not None:  # the law of saved states needs parts that start out different
        torch.manual_seed(seed)
    facts = {"dim": DIM, "causal": causal, "length": TIME, "depth": 0}
    makers = {
        slot: partial(fill, slot, part, **facts)
        for slot, part in {"mixer": mixer, "channel": "mlp", "norm": norm}.items()
    }
    return fill("block", name, **facts, **makers, blocks=1, **options)


def tokens():
    return torch.randn(3, TIME, DIM, generator=torch.Generator().manual_seed(0))


@each
@pytest.mark.parametrize("mixer", ["attention", "pool"])
def test_it_is_a_block_and_keeps_the_laws_of_every_part(name, mixer):
    assert isinstance(build(name), Block)
    torch.manual_seed(0)
    check_part(partial(build, name, mixer, layer_scale=0.5, seed=None), tokens())


@each
def test_it_has_one_mixer_and_all_its_parts_matter(name):
    block = build(name, layer_scale=0.5)
    assert list(block.children()).count(block.mixer) == 1
    y = block(tokens())
    (y * torch.randn_like(y)).sum().backward()
    # The keys' bias shifts all scores of a query alike, so its gradient is nothing but rounding.
    idle = [name for name, p in block.named_parameters() if p.grad is None or not p.grad.any()]
    assert not idle


@each
@pytest.mark.parametrize("mixer", ["attention", "conv"])
def test_with_a_causal_mixer_it_is_causal_and_streams(name, mixer):
    block = build(name, mixer, causal=True)
    check_causal(block, tokens())
    check_streaming(block, tokens(), bound=10**6)


@each
@pytest.mark.parametrize("norm", ["layernorm", "groupnorm"])
def test_mask_reaches_the_mixer_and_the_norms(name, norm):
    check_padding(build(name, norm=norm), tokens())


@each
def test_it_does_not_stream_with_a_norm_over_tokens(name):
    assert not build(name, "conv", "groupnorm", causal=True).streams


@each
def test_branches_are_left_out_in_training_only(name):
    block = build(name, drop_path=0.5)
    x = tokens().repeat(20, 1, 1)
    assert torch.equal(block.eval()(x), block(x))
    rows = block.train()(x).unflatten(0, (20, 3))
    assert len(rows[:, 0].flatten(1).unique(dim=0)) > 1


@each
def test_a_trunk_of_it_learns(name):
    torch.manual_seed(0)
    trunk = MetaFormer(DIM, 2, block=name)
    x, target = tokens(), tokens().flip(1)
    optimizer = torch.optim.Adam(trunk.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = (trunk(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.usefixtures("unchecked")
@each
def test_wrong_shapes_and_options_are_refused(name):
    with pytest.raises(ValueError, match=rf"expected \(batch, time, {DIM}\)"):
        build(name)(torch.zeros(2, TIME, DIM + 1))
    with pytest.raises(ValueError, match="drop_path"):
        build(name, drop_path=1.0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@each
def test_it_compiles(name):
    check_compile(partial(build, name), tokens())
