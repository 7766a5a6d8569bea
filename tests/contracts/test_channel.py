"""Every channel mixer of the catalog keeps the laws of :class:`anabranch.nn.feedforward.ChannelMixer`."""

from functools import partial

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from anabranch.catalog import parts
from anabranch.nn.feedforward import ChannelMixer
from anabranch.slots import fill
from anabranch.testing import check_compile, check_part

DIM = 8
each = pytest.mark.parametrize("name", parts("channel"))


def build(name, seed: int | None = 0, dim=DIM):
    if seed is not None:  # the law of saved states needs parts that start out different
        torch.manual_seed(seed)
    return fill("channel", name, dim=dim, length=5, causal=False, depth=0)


def tokens():
    return torch.randn(3, 5, DIM, generator=torch.Generator().manual_seed(0))


@each
def test_it_is_a_channel_mixer_and_keeps_the_laws_of_every_part(name):
    assert isinstance(build(name), ChannelMixer)
    torch.manual_seed(0)
    check_part(partial(build, name, seed=None), tokens())


@each
def test_each_token_is_treated_by_itself(name):
    part, x = build(name).double().eval(), tokens().double()
    whole = part(x)
    assert whole.shape == x.shape
    for t in range(x.shape[1]):
        torch.testing.assert_close(part(x[:, t]), whole[:, t])


@each
def test_its_cost_is_what_is_counted(name):
    part, counter = build(name), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        part(torch.randn(1, DIM))
    # What is not a matrix product goes uncounted, so a part may declare more.
    assert part.cost() >= counter.get_total_flops() / 2


@pytest.mark.usefixtures("unchecked")
@each
def test_wrong_widths_are_refused_with_what_was_expected(name):
    with pytest.raises(ValueError, match=rf"expected \(\.\.\., {DIM}\); got \(2, 3, 9\)"):
        build(name)(torch.zeros(2, 3, DIM + 1))
    with pytest.raises(ValueError, match="at least 1"):
        build(name, dim=0)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@each
def test_it_compiles(name):
    check_compile(partial(build, name), tokens())
