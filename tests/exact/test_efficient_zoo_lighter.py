"""Efficient transformers (arXiv 2103.14636): layers that share their weights, and blocks that can be run backwards."""

import pytest
import torch

from anabranch.compress import share_layers
from anabranch.models import MetaFormer, recompute, rewind
from anabranch.nn.attention.efficient import Routing
from support.attention import DIM, TIME, tokens

pytestmark = pytest.mark.usefixtures("seeded")


def test_shared_layers_are_one_block_applied_again_and_again():
    trunk = share_layers(MetaFormer(DIM, 4)).double()
    x, block = tokens(), trunk.blocks[0]
    torch.testing.assert_close(trunk(x), block(block(block(block(x)))))
    sizes = [sum(p.numel() for p in share_layers(MetaFormer(DIM, depth), 1).parameters()) for depth in (1, 4, 9)]
    assert len(set(sizes)) == 1
    plain = MetaFormer(DIM, 5)
    first, fourth = plain.blocks[0], plain.blocks[3]
    assert [id(b) for b in share_layers(plain, 2).blocks] == [id(first)] * 3 + [id(fourth)] * 2
    with pytest.raises(ValueError, match="from 1 to 3 groups"):
        share_layers(MetaFormer(DIM, 3), 4)
    with pytest.raises(ValueError, match="MetaFormer"):
        share_layers(torch.nn.Linear(1, 1))


def test_a_mixer_that_changes_with_every_pass_is_not_run_twice():
    trunk = MetaFormer(DIM, 2, mixer=Routing, block="reversible", length=TIME)
    for run_again in (rewind, recompute):
        with pytest.raises(ValueError, match="Routing: every pass moves the centres"):
            run_again(trunk)
    assert "forward" not in vars(trunk.blocks[0])


def test_rewinding_twice_is_rewinding_once():
    trunk = rewind(MetaFormer(DIM, 2, block="reversible"))
    x, once = tokens().float(), trunk.forward
    assert rewind(trunk).forward is once
    trunk(x).sum().backward()


@pytest.mark.parametrize("mixer", ["attention", "nystrom"])
def test_reversible_blocks_give_their_inputs_back(mixer):
    trunk = MetaFormer(DIM, 6, mixer=mixer, block="reversible", length=TIME)
    x = tokens().float()
    y = trunk(x)
    assert (y - x).abs().max() > 0.1
    for block in reversed(trunk.blocks):
        y = block.inverse(y)
    torch.testing.assert_close(y, x, rtol=1e-5, atol=1e-5)


def test_rewinding_changes_no_gradient_and_keeps_nothing_of_a_block():
    def run(depth, rewound):
        torch.manual_seed(0)
        trunk = MetaFormer(DIM, depth, block="reversible").double()
        trunk = rewind(share_layers(trunk, 2)) if rewound else share_layers(trunk, 2)
        held, x = {}, tokens().requires_grad_()
        mask = torch.arange(TIME).expand(2, -1) < 9
        with torch.autograd.graph.saved_tensors_hooks(lambda t: held.setdefault(t.data_ptr(), t), lambda t: t):
            y = trunk(x, mask=mask)
        y.square().sum().backward()
        return [y, x.grad, *(p.grad for p in trunk.parameters())], sum(t.numel() for t in held.values())

    for a, b in zip(run(6, True)[0], run(6, False)[0], strict=True):
        torch.testing.assert_close(a, b)
    assert run(6, True)[1] == run(2, True)[1]
    assert run(6, True)[1] < 0.1 * run(6, False)[1]
    with pytest.raises(ValueError, match="got PreNorm"):
        rewind(MetaFormer(DIM, 2))
    with pytest.raises(ValueError, match="drop_path=0"):
        rewind(MetaFormer(DIM, 2, block="reversible", drop_path=0.1))
    with pytest.raises(ValueError, match="one stage"):
        rewind(MetaFormer((DIM, DIM), (1, 1), block="reversible", grid=(3, 4)))
