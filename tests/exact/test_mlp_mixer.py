"""MLP-Mixer (arXiv 2105.01601): one perceptron over the tokens, shared by all channels."""

import pytest
import torch
from torch import nn

from anabranch.models import MetaFormer
from anabranch.models.vision import MLPMixer
from anabranch.nn.mixing import TokenMLP

TOKENS, DIM, HIDDEN = 6, 8, 5


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def parameters(module):
    return sum(p.numel() for p in module.parameters())


def test_channels_do_not_exchange_information_and_tokens_do():
    part = TokenMLP(DIM, length=TOKENS, hidden=HIDDEN).double()
    x = torch.randn(1, TOKENS, DIM, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(part, x)[0, :, :, 0]  # out token, out channel, in token, in channel
    same = torch.eye(DIM, dtype=torch.bool)
    between_channels = jacobian.permute(1, 3, 0, 2)[~same]
    between_tokens = jacobian.permute(1, 3, 0, 2)[same]
    assert not between_channels.any()
    assert (between_tokens != 0).all()


def test_it_is_one_perceptron_applied_to_each_column():
    part = TokenMLP(DIM, length=TOKENS, hidden=HIDDEN)
    perceptron = nn.Sequential(part.widen, nn.GELU(), part.narrow)
    x = torch.randn(2, TOKENS, DIM)
    y = part(x)
    for channel in range(DIM):
        torch.testing.assert_close(y[:, :, channel], perceptron(x[:, :, channel]))


def test_a_block_is_both_equations_of_the_paper():
    (block,) = MetaFormer(DIM, 1, mixer="token-mlp", length=TOKENS).blocks
    x = torch.randn(2, TOKENS, DIM)
    tokens, channels = block.mixer, block.channel
    u = x + tokens.narrow(torch.nn.functional.gelu(tokens.widen(block.norm1(x).mT))).mT
    y = u + channels.narrow(torch.nn.functional.gelu(channels.widen(block.norm2(u))))
    torch.testing.assert_close(block(x), y)


def test_the_number_of_weights_is_the_papers_formula():
    model = MLPMixer(3, 10, size=(8, 12), patch=4, dim=DIM, depth=2, hidden=HIDDEN)
    s, c, ds, dc = TOKENS, DIM, HIDDEN, 4 * DIM
    norms = 4 * c
    for block in model.trunk.blocks:
        assert parameters(block) == 2 * s * ds + ds + s + 2 * c * dc + dc + c + norms
    patches, last_norm, head = 48 * c + c, 2 * c, 10 * c + 10
    assert parameters(model) == patches + 2 * parameters(model.trunk.blocks[0]) + last_norm + head


def test_hidden_widths_are_half_and_four_times_the_channels():
    (block,) = MLPMixer(1, 2, size=8, dim=16, depth=1).trunk.blocks
    assert (block.mixer.hidden, block.channel.hidden) == (8, 64)


def test_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="built for 6 tokens; got 7"):
        TokenMLP(DIM, length=TOKENS)(torch.zeros(1, 7, DIM))
    with pytest.raises(ValueError, match="built for 4 tokens; got 9"):
        MLPMixer(1, 2, size=8, dim=8)(torch.zeros(1, 1, 12, 12))


def test_the_classifier_starts_at_zero_and_the_tokens_have_no_positions():
    model = MLPMixer(1, 3, size=8, dim=8)
    assert not model(torch.randn(4, 1, 8, 8)).any()
    assert model.stem.positions is None


def test_it_computes_what_timm_computes_with_the_same_weights():
    peers = pytest.importorskip("timm.models.mlp_mixer", exc_type=(ImportError, RuntimeError))
    peer = peers.MlpMixer(num_classes=5, img_size=12, in_chans=3, patch_size=4, num_blocks=2, embed_dim=16)
    model = MLPMixer(3, 5, size=12, patch=4, dim=16, depth=2)
    with torch.no_grad():
        # Both list patches, then block by block norm, token MLP, norm, channel MLP, then last norm and head.
        for p, q in zip(model.parameters(), peer.parameters(), strict=True):
            q.normal_(std=0.3)
            p.copy_(q)
    for module in model.modules():
        if hasattr(module, "epsilon"):
            module.epsilon = 1e-6  # the peer's choice; the paper names none
    x = torch.randn(2, 3, 12, 12).double()
    torch.testing.assert_close(model.double()(x), peer.double()(x))
