"""Dual PatchNorm (arXiv 2302.01327): a layer norm before and after the linear map from patch to token."""

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from anabranch.models import FrameEmbed, LearnedPositions, PatchEmbed, SinusoidalPositions


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def stem(norm, **options):
    """Without positions and in float64, every weight drawn at random so that a norm left out is seen."""
    made = PatchEmbed(3, 10, size=12, patch=4, norm=norm, positions=None, **options).double()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_()
    return made


def weights(module):
    return sum(p.numel() for p in module.parameters())


def test_it_is_norm_linear_norm_on_each_flattened_patch():
    ours, x = stem("dual"), torch.randn(2, 3, 12, 12).double()
    # The usual order of the numbers in a patch puts the channel last.
    patches = rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=4, q=4)

    def reordered(weight):
        return rearrange(weight, "... (c p q) -> ... (p q c)", p=4, q=4)

    before, linear, after = nn.LayerNorm(48).double(), nn.Linear(48, 10).double(), nn.LayerNorm(10).double()
    with torch.no_grad():
        before.weight.copy_(reordered(ours.before.weight))
        before.bias.copy_(reordered(ours.before.bias))
        linear.weight.copy_(reordered(ours.project.weight.flatten(1)))
        linear.bias.copy_(ours.project.bias)
    after.load_state_dict(ours.after.state_dict())
    torch.testing.assert_close(ours(x).x, after(linear(before(patches))))


def test_it_adds_two_weights_a_pixel_and_two_a_channel():
    assert weights(stem("dual")) - weights(stem(None)) == 2 * 4 * 4 * 3 + 2 * 10
    assert weights(stem("pre")) - weights(stem(None)) == 2 * 4 * 4 * 3
    assert weights(stem("post")) - weights(stem(None)) == 2 * 10


@pytest.mark.parametrize("norm", ["pre", "dual"])
def test_brightness_and_contrast_of_a_patch_do_not_matter(norm):
    ours, x = stem(norm), torch.randn(2, 3, 12, 12).double()
    ours.before.epsilon = 0.0
    gain = torch.rand(2, 1, 3, 3).double() + 0.1
    offset = torch.randn(2, 1, 3, 3).double()
    by_patch = [F.interpolate(t, scale_factor=4) for t in (gain, offset)]
    torch.testing.assert_close(ours(x * by_patch[0] + by_patch[1]).x, ours(x).x)
    assert not torch.allclose(ours(-x).x, ours(x).x)


@pytest.mark.parametrize("norm", [None, "post"])
def test_without_the_first_norm_they_do(norm):
    ours, x = stem(norm), torch.randn(2, 3, 12, 12).double()
    assert not torch.allclose(ours(2 * x + 1).x, ours(x).x, atol=0.1)


def test_without_norms_it_is_the_plain_stem():
    ours, x = stem(None), torch.randn(2, 3, 12, 12).double()
    torch.testing.assert_close(ours(x).x, F.conv2d(x, ours.project.weight, ours.project.bias, stride=4).flatten(2).mT)
    assert set(dict(ours.named_parameters())) == {"project.weight", "project.bias"}


def test_the_last_norm_comes_before_the_positions():
    ours = PatchEmbed(3, 10, size=12, patch=4, norm="dual")
    with torch.no_grad():
        ours.positions.table.normal_()
    tokens = ours(torch.randn(2, 3, 12, 12)).x
    bare = tokens - ours.positions.table
    torch.testing.assert_close(bare.mean(-1), torch.zeros(2, 9), atol=1e-5, rtol=0)
    torch.testing.assert_close(bare.var(-1, correction=0), torch.ones(2, 9), atol=1e-2, rtol=0)


def test_an_empty_patch_gives_numbers_and_gradients():
    ours = PatchEmbed(1, 8, size=8, patch=4, norm="dual")
    x = torch.zeros(2, 1, 8, 8, requires_grad=True)
    tokens = ours(x).x
    tokens.square().sum().backward()
    assert tokens.isfinite().all()
    assert all(p.grad.isfinite().all() for p in [x, *ours.parameters()])


@pytest.mark.parametrize("options", [{"kernel": 7}, {"scales": (4, 8)}, {"kernel": 6}])
def test_overlapping_patches_are_normalised_each_as_a_whole(options):
    ours, x = stem("dual", **options), torch.randn(2, 3, 12, 12).double()
    tokens = ours(x).x
    assert tokens.shape == (2, 9, 10)
    (side, *_) = ours.sides
    padding = (side - 4 + 1) // 2
    padded = F.pad(x, (8, 8, 8, 8))
    # The patch in the middle of the grid, cut out by hand.
    cuts = [
        padded[:, :, 12 - p : 12 - p + k, 12 - p : 12 - p + k].flatten(1)
        for k, p in [(side, padding)] + [(k, (k - 4) // 2) for k in ours.sides[1:]]
    ]
    token = ours.after(F.linear(ours.before(torch.cat(cuts, 1)), ours.project.weight.flatten(1), ours.project.bias))
    torch.testing.assert_close(tokens[:, 4], token)


def test_runs_of_frames_are_normalised_alike():
    frames = FrameEmbed(2, 10, length=12, patch=4, norm="dual", positions=None).double()
    with torch.no_grad():
        for p in frames.parameters():
            p.normal_()
    x = torch.randn(3, 12, 2).double()
    expected = frames.after(frames.project(frames.before(x.reshape(3, 3, 8))))
    torch.testing.assert_close(frames(x).x, expected)
    frames.before.epsilon = 0.0
    torch.testing.assert_close(frames(3 * x - 1).x, frames(x).x)


def test_a_normed_stem_streams_what_it_computes_for_whole_sequences():
    frames = FrameEmbed(3, 10, length=6, norm="dual").double()
    x = torch.randn(2, 6, 3).double()
    state, outputs = frames.initial_state(2), []
    for x_t in x.unbind(1):
        y_t, state = frames.step(x_t, state)
        outputs.append(y_t)
    torch.testing.assert_close(torch.stack(outputs, 1), frames(x).x)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("positions", [LearnedPositions, SinusoidalPositions])
@pytest.mark.parametrize("size", [(4, 8), (16, 8), (16, 16), (8, 4)])
def test_images_on_another_grid_are_refused_where_places_are_told_apart(positions, size):
    image = torch.randn(1, 3, *size)
    stem = PatchEmbed(3, 10, size=(8, 16), patch=4, positions=positions)
    assert stem(torch.randn(1, 3, 8, 16)).grid == (2, 4)
    with pytest.raises(ValueError, match=r"expected images of \(2, 4\) patches; got"):
        stem(image)
    free = PatchEmbed(3, 10, size=(8, 16), patch=4, positions=None)
    assert free(image).grid == (size[0] // 4, size[1] // 4)


def test_pixels_that_fill_no_patch_are_left_out():
    ours, x = stem("dual"), torch.randn(2, 3, 14, 15).double()
    torch.testing.assert_close(ours(x).x, ours(x[..., :12, :12]).x)
    assert ours(x).grid == (3, 3)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{}, {"norm": "pre"}, {"kernel": 6}, {"scales": (4, 8)}])
def test_images_smaller_than_a_patch_are_refused(options):
    with pytest.raises(ValueError, match=r"pixels\) is larger than the image \(12, 3\)"):
        PatchEmbed(3, 10, size=12, patch=4, positions=None, **options)(torch.randn(1, 3, 12, 3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "options, message",
    [
        ({"norm": "both"}, "norm must be 'pre', 'post', 'dual' or None; got 'both'"),
        ({"kernel": 7, "scales": (4, 8)}, "either a kernel or one scale and more"),
        ({"scales": ()}, "either a kernel or one scale and more"),
        ({"scales": (4, 7)}, "by an even number"),
        ({"kernel": 3}, "patch <= kernel"),
        ({"patch": 13}, "larger than the image"),
    ],
)
def test_wrong_options_are_refused_with_what_was_expected(options, message):
    with pytest.raises(ValueError, match=message):
        PatchEmbed(3, 10, size=12, **options)
