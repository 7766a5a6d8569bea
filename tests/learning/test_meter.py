"""Meters against numbers that can be counted by hand."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anabranch.learning.meter import Flops, LiveBytes, SavedBytes, stash


def test_relu_output_and_the_next_layers_input_are_one_storage():
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    x = torch.randn(32, 64)
    with SavedBytes(net) as saved:
        loss = net(x).sum()
        assert saved.current == 4 * 32 * (64 + 128) == 24_576
        loss.backward()
    assert saved.current == 0
    assert saved.peak == saved.total == 24_576


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(64, 256), nn.Linear(256, 64)

    def forward(self, x):
        return x + self.down(torch.nn.functional.gelu(self.up(x)))


@pytest.fixture
def blocks():
    return nn.ModuleList(Block() for _ in range(8))


def test_residual_blocks_keep_input_and_two_hidden_activations_each(blocks):
    x = torch.randn(32, 64)
    with SavedBytes(blocks) as saved:
        for block in blocks:
            x = block(x)
        assert saved.current == 8 * 4 * 32 * (64 + 2 * 256) == 589_824
        x.sum().backward()
    assert saved.current == 0


def test_reentrant_checkpointing_keeps_block_inputs_and_recomputes_one_block_at_a_time(blocks):
    x = torch.randn(32, 64, requires_grad=True)
    with SavedBytes(blocks) as saved:
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=True)
        assert saved.current == 8 * 4 * 32 * 64 == 65_536
        x.sum().backward()
    assert saved.peak == 65_536 + 4 * 32 * 2 * 256 == 131_072


def test_stash_makes_a_hidden_tensor_visible_until_it_is_dropped():
    net = nn.Linear(2, 2)
    with SavedBytes(net) as saved:
        box = stash(torch.ones(10))
        assert saved.current == 40
        torch.testing.assert_close(box.tensor, torch.ones(10))
        del box
        assert saved.current == 0
        assert stash(net.weight).tensor is net.weight
        assert saved.total == 40
    assert torch.equal(stash(torch.ones(3)).tensor, torch.ones(3))


def test_live_bytes_count_allocations_and_not_views_or_existing_tensors():
    x = torch.ones(100)
    with LiveBytes() as live:
        y = x * 2
        z = y.view(10, 10).t()
        x.add_(1)
        assert live.current == 400
        del y
        assert live.current == 400  # the view still holds it
        del z
        assert live.current == 0
    assert live.peak == live.total == 400


def test_live_bytes_include_gradients():
    net = nn.Linear(64, 32, bias=False)
    x = torch.randn(16, 64)
    with LiveBytes() as live:
        net(x).sum().backward()
    assert live.current == net.weight.numel() * 4  # the gradient stays
    assert live.peak > live.current  # and for a while its output did too


def test_backward_of_a_linear_layer_costs_twice_its_forward_and_recomputation_counts_as_forward():
    net = nn.Linear(8, 4, bias=False)
    x = torch.randn(5, 8, requires_grad=True)
    with Flops() as flops:
        net(x).sum().backward()
    assert (flops.forward, flops.backward) == (2 * 5 * 8 * 4, 2 * 2 * 5 * 8 * 4)
    with Flops() as flops:
        checkpoint(net, x, use_reentrant=True).sum().backward()
    assert (flops.forward, flops.backward) == (2 * 2 * 5 * 8 * 4, 2 * 2 * 5 * 8 * 4)
