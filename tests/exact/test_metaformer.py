"""MetaFormer and PoolFormer (arXiv 2111.11418): pooling in the place of attention, in an unchanged skeleton."""

import pytest
import torch
import torch.nn.functional as F

from anabranch.models import MetaFormer
from anabranch.models.vision import PoolFormer
from anabranch.nn.mixing import PoolMixing
from anabranch.nn.mixing.grid import to_grid
from anabranch.nn.norm import GroupNorm, LayerNorm


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("grid", [(5, 5), (1, 4), (2, 7)])
@pytest.mark.parametrize("window", [3, 5])
def test_a_constant_image_is_cancelled_up_to_the_border(grid, window):
    n = grid[0] * grid[1]
    y = PoolMixing(4, window=window)(torch.full((1, n, 4), 3.0), grid=grid)
    torch.testing.assert_close(y, torch.zeros_like(y), rtol=0, atol=1e-6)


def test_the_interior_is_the_depthwise_kernel_of_the_paper():
    kernel = torch.full((4, 1, 3, 3), 1 / 9)
    kernel[:, :, 1, 1] -= 1
    x = torch.randn(2, 42, 4)
    y = to_grid(PoolMixing(4)(x, grid=(6, 7)), (6, 7))
    torch.testing.assert_close(y[:, :, 1:-1, 1:-1], F.conv2d(to_grid(x, (6, 7)), kernel, groups=4))


def test_at_the_border_only_neighbours_that_exist_are_counted():
    x = torch.arange(4.0).view(1, 4, 1)
    on_a_grid = PoolMixing(1)(x, grid=(2, 2)).flatten()
    torch.testing.assert_close(on_a_grid, 1.5 - x.flatten())
    in_a_line = PoolMixing(1)(x).flatten()
    torch.testing.assert_close(in_a_line, torch.tensor([0.5, 1.0, 2.0, 2.5]) - x.flatten())


def test_masked_neighbours_are_not_counted():
    x = torch.tensor([1.0, 2.0, 100.0, 4.0]).view(1, 4, 1)
    mask = torch.tensor([[True, True, False, True]])
    y = PoolMixing(1)(x, mask=mask).flatten() + x.flatten()
    torch.testing.assert_close(y[mask[0]], torch.tensor([1.5, 1.5, 4.0]))


def test_pooling_has_no_weights():
    assert not list(PoolMixing(64).parameters())


def test_its_norm_ties_the_tokens_together_where_layer_norm_does_not():
    x = torch.randn(2, 6, 8)
    norm = GroupNorm(8)
    torch.testing.assert_close(norm(x).mT, F.group_norm(x.mT, 1))
    assert not torch.allclose(norm(x), LayerNorm(8)(x), atol=1e-2)
    changed = x.clone()
    changed[:, 5] *= 10
    assert not torch.allclose(norm(changed)[:, :5], norm(x)[:, :5], atol=1e-2)
    torch.testing.assert_close(LayerNorm(8)(changed)[:, :5], LayerNorm(8)(x)[:, :5])


def test_a_block_adds_scaled_branches_in_the_order_of_the_paper():
    trunk = MetaFormer(8, 1, mixer="pool", norm="groupnorm", grid=(3, 4), layer_scale=1e-5)
    (block,) = trunk.blocks
    with torch.no_grad():
        assert (block.branch1.scale == 1e-5).all()
        block.branch1.scale.normal_()
        block.branch2.scale.normal_()
    x = torch.randn(2, 12, 8)
    y = x + block.branch1.scale * PoolMixing(8)(block.norm1(x), grid=(3, 4))
    hidden = F.gelu(block.norm2(y) @ block.channel.widen.weight.T + block.channel.widen.bias)
    z = y + block.branch2.scale * (hidden @ block.channel.narrow.weight.T + block.channel.narrow.bias)
    assert block.channel.widen.weight.shape == (32, 8)
    torch.testing.assert_close(trunk(x), z)


def test_the_published_small_model_has_as_many_weights_as_published():
    model = PoolFormer(3, 1000, size=224)
    assert sum(p.numel() for p in model.parameters()) == 11_915_176
    assert model.stem.grid == (56, 56)
    assert model.trunk.out_length == 7 * 7
    assert [len(stage) for stage in model.trunk.stages] == [2, 2, 6, 2]


@pytest.mark.parametrize("size", [64, 50])
def test_it_computes_what_timm_computes_with_the_same_weights(size):
    metaformer = pytest.importorskip("timm.models.metaformer", exc_type=(ImportError, RuntimeError))
    dims, depths = (8, 12, 16, 20), (1, 2, 2, 1)
    peer = metaformer.MetaFormer(
        num_classes=10,
        depths=depths,
        dims=dims,
        token_mixers=metaformer.Pooling,
        mlp_act=torch.nn.GELU,
        mlp_bias=True,
        downsample_norm=None,
        norm_layers=metaformer.GroupNorm1,
        layer_scale_init_values=1e-5,
        res_scale_init_values=None,
        use_mlp_head=False,
    )
    peer = peer.double().eval()
    with torch.no_grad():
        for p in peer.parameters():
            p.normal_(std=0.3)
    model = PoolFormer(3, 10, size=size, dim=dims, depth=depths).double().eval()
    model.head.norm.epsilon = peer.head.norm.eps
    places = [model.stem.project]
    for i, stage in enumerate(model.trunk.stages):
        places += [model.trunk.downs[i - 1]] if i else []
        for b in stage:
            places += [b.norm1, b.branch1, b.norm2, b.channel, b.branch2]
    places += [model.head.norm, model.head.linear]
    ours = [p for place in places for p in place.parameters()]
    with torch.no_grad():
        for p, q in zip(ours, peer.parameters(), strict=True):
            p.copy_(q.reshape(p.shape))
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    torch.testing.assert_close(model(x), peer(x))
