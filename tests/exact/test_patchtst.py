"""PatchTST (arXiv 2211.14730) does what its paper, and its authors' code, say."""

import pytest
import torch
import torch.nn.functional as F

from anabranch.models.forecast import (
    FlattenHead,
    PatchTST,
    masked_patch_loss,
    patchify,
    pretrain_masked,
    random_patch_mask,
)


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(*, channels=3, past=40, future=6, seed=0, **options):
    """A small model in float64 whose batch normalisations have seen data, so that they are not the identity."""
    torch.manual_seed(seed)
    model = PatchTST(channels, past, future, **({"dim": 12, "heads": 3, "dropout": 0.0} | options)).double().train()
    for _ in range(3):
        model.point(numbers(8, past, channels, seed=9).cumsum(1))
    return model.eval()


@pytest.mark.parametrize(("length", "tokens"), [(336, 42), (512, 64)])
def test_a_series_of_512_values_is_64_words(length, tokens):
    assert patchify(torch.zeros(1, length), 16, 8).shape == (1, tokens, 16)
    assert PatchTST(1, length, 96).tokens == tokens


def test_patches_that_do_not_overlap_reassemble_the_series():
    x = numbers(2, 3, 36)
    torch.testing.assert_close(patchify(x, 12, 12, None).flatten(-2), x, rtol=0, atol=0)


def test_padding_repeats_the_last_value_so_that_no_value_is_lost():
    x = numbers(2, 41)
    patches = patchify(x, 16, 8)
    padded = torch.cat([x, x[:, -1:].expand(2, 8)], 1)
    assert patches.shape == (2, (41 - 16) // 8 + 2, 16)
    for i in range(patches.shape[1]):
        torch.testing.assert_close(patches[:, i], padded[:, 8 * i : 8 * i + 16], rtol=0, atol=0)
    assert set(x.flatten().tolist()) == set(patches.flatten().tolist())


def test_without_padding_the_oldest_values_are_left_out():
    x = numbers(2, 41)
    torch.testing.assert_close(patchify(x, 12, 12, None).flatten(-2), x[:, 5:], rtol=0, atol=0)


def test_a_patch_longer_than_the_series_is_refused():
    with pytest.raises(ValueError, match="patches of 1 to 5"):
        patchify(torch.zeros(5), 6, 1)


def test_channels_are_forecast_one_by_one_with_shared_weights():
    model, x = small(), numbers(4, 40, 3)
    y = model.point(x)
    permutation = torch.tensor([1, 2, 0])
    torch.testing.assert_close(model.point(x[..., permutation]), y[..., permutation])
    alone = small(channels=1)
    alone.load_state_dict(model.state_dict())
    for c in range(3):
        torch.testing.assert_close(alone.point(x[..., c : c + 1]), y[..., c : c + 1])


def test_in_mixed_mode_a_patch_holds_all_channels():
    model, x = small(channel_mode="mixed"), numbers(4, 40, 3)
    assert model.embed.in_features == 3 * 16
    first = model.patches(x)[:, 1].view(4, 3, 16)
    torch.testing.assert_close(first, x[:, 8:24].transpose(1, 2), rtol=0, atol=0)
    other = x.clone()
    other[..., 0] += numbers(4, 40, seed=1)
    assert (model.point(other) - model.point(x))[..., 1:].abs().min() > 1e-6


def test_the_forecast_follows_level_and_scale_of_the_window():
    model, x = small(), 1e3 * numbers(4, 40, 3)
    torch.testing.assert_close(model.point(7 * x - 50), 7 * model.point(x) - 50, rtol=1e-9, atol=1e-6)


def test_two_layers_equal_the_formulas_written_out():
    model, x = small(layers=2), numbers(2, 40, 1)
    alone = small(channels=1, layers=2)
    alone.load_state_dict(model.state_dict())
    heads, width = 3, 4

    mean, deviation = x.mean(1, keepdim=True), (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    z = ((x - mean) / deviation)[..., 0]
    z = torch.cat([z, z[:, -1:].repeat(1, 8)], 1)
    tokens = torch.stack([z[:, i : i + 16] for i in range(0, 33, 8)], 1)
    h = tokens @ model.embed.weight.T + model.embed.bias + model.position
    carried = [torch.zeros(2, 5, 5, dtype=torch.float64) for _ in range(heads)]
    for layer in model.layers:
        q, k, v = (h @ layer.attention.qkv.weight.T + layer.attention.qkv.bias).chunk(3, -1)
        outputs = []
        for head in range(heads):
            part = slice(head * width, (head + 1) * width)
            carried[head] = q[..., part] @ k[..., part].mT / width**0.5 + carried[head]
            outputs.append(carried[head].softmax(-1) @ v[..., part])
        h = batch_norm(layer.norm1, h + layer.attention.out(torch.cat(outputs, -1)))
        inner = F.gelu(h @ layer.feedforward[0].weight.T + layer.feedforward[0].bias)
        h = batch_norm(layer.norm2, h + inner @ layer.feedforward[3].weight.T + layer.feedforward[3].bias)
    y = h.reshape(2, -1) @ model.head.linear.weight.T + model.head.linear.bias
    torch.testing.assert_close(alone.point(x), y[..., None] * deviation + mean)


def batch_norm(norm, h):
    return (h - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def test_features_are_normalised_over_all_tokens_of_the_batch():
    model = small().train()
    h = model.encode(model.patches(model.prepare(numbers(8, 40, 3), None)[0]))
    torch.testing.assert_close(h.mean((0, 1)), torch.zeros(12).double(), rtol=0, atol=1e-10)
    torch.testing.assert_close(h.var((0, 1), correction=0), torch.ones(12).double(), rtol=1e-3, atol=0)
    assert h.mean(-1).abs().max() > 0.05  # as a layer normalisation would not leave it


def test_scores_of_lower_layers_change_the_forecast():
    model, plain = small(), small(residual_scores=False)
    plain.load_state_dict(model.state_dict())
    x = numbers(4, 40, 3)
    assert (model.point(x) - plain.point(x)).abs().max() > 1e-3
    single, plain = small(layers=1), small(layers=1, residual_scores=False)
    plain.load_state_dict(single.state_dict())
    torch.testing.assert_close(single.point(x), plain.point(x))


def test_positions_start_within_two_hundredths():
    position = PatchTST(1, 512, 96).position.detach()
    assert position.abs().max() <= 0.02
    assert position.std() == pytest.approx(0.02 / 3**0.5, rel=0.05)


def test_attention_costs_about_the_square_of_the_stride_less():
    def cost(stride):
        return PatchTST(7, 1024, 96, dim=16, heads=4, stride=stride, pad=None).attention_cost()

    assert cost(1) / cost(8) == pytest.approx(64, rel=0.03)
    assert cost(1) / cost(4) == pytest.approx(16, rel=0.03)


def test_the_head_maps_all_tokens_to_all_steps():
    head, x = FlattenHead(5, 4, 6).double(), numbers(2, 5, 4)
    torch.testing.assert_close(
        head(x), torch.einsum("bnd,hnd->bh", x, head.linear.weight.view(6, 5, 4)) + head.linear.bias
    )


def test_any_width_works_with_any_number_of_heads():
    for dim in (1, 5, 18):
        assert PatchTST(1, 32, 4, dim=dim, heads=16).eval().point(torch.randn(2, 32, 1)).shape == (2, 4, 1)


def test_it_agrees_with_the_transformers_package_on_copied_weights():
    pytest.importorskip("transformers.models.patchtst.modeling_patchtst", exc_type=ImportError)
    import transformers

    config = transformers.PatchTSTConfig(
        num_input_channels=3, context_length=40, prediction_length=6, patch_length=12, patch_stride=4, d_model=12,
        num_attention_heads=3, num_hidden_layers=2, ffn_dim=24, norm_type="batchnorm", pre_norm=False, scaling="std",
        positional_encoding_type="random", pooling_type=None, loss="mse", use_cls_token=False,
    )  # fmt: skip
    theirs = transformers.PatchTSTForPrediction(config).double().eval()
    ours = small(patch=12, stride=4, layers=2, pad=None, residual_scores=False)
    encoder = theirs.model.encoder
    with torch.no_grad():
        pairs = [(encoder.embedder.input_embedding, ours.embed), (theirs.head.projection, ours.head.linear)]
        encoder.positional_encoder.position_enc.copy_(ours.position)
        for their, our in zip(encoder.layers, ours.layers, strict=True):
            attention = their.self_attn
            projections = zip((attention.q_proj, attention.k_proj, attention.v_proj), range(3), strict=True)
            for projection, i in projections:
                projection.weight.copy_(our.attention.qkv.weight[12 * i : 12 * (i + 1)])
                projection.bias.copy_(our.attention.qkv.bias[12 * i : 12 * (i + 1)])
            pairs += [(attention.out_proj, our.attention.out), (their.norm_sublayer1.batchnorm, our.norm1)]
            pairs += [(their.norm_sublayer3.batchnorm, our.norm2)]
            pairs += [(their.ff[0], our.feedforward[0]), (their.ff[3], our.feedforward[3])]
        for target, source in pairs:
            target.load_state_dict(source.state_dict())
    x = 5 + numbers(4, 40, 3)
    torch.testing.assert_close(ours.point(x), theirs(past_values=x).prediction_outputs, rtol=1e-8, atol=1e-8)


def test_two_fifths_of_the_patches_of_each_row_are_hidden():
    hidden = random_patch_mask(50, 42, 0.4, torch.Generator().manual_seed(0))
    assert hidden.sum(1).unique().tolist() == [17]
    assert hidden.any(0).all()
    assert len(hidden.unique(dim=0)) == 50


def test_hidden_values_cannot_be_seen_and_shown_ones_are_not_scored():
    model = small(patch=8, stride=8, pad=None, norm=None)
    x, hidden = numbers(2, 40, 3), random_patch_mask(6, 5, 0.4, torch.Generator().manual_seed(0))
    seen = []

    def head(tokens):
        seen.append(tokens)
        return torch.zeros(6, 5, 8, dtype=torch.float64)

    loss = masked_patch_loss(model, head, x, hidden)
    hidden_values = hidden.repeat_interleave(8, 1).view(2, 3, 40).transpose(1, 2)
    torch.testing.assert_close(loss, x[hidden_values].square().mean())
    masked_patch_loss(model, head, torch.where(hidden_values, 7 * x + 1, x), hidden)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)


def test_pretraining_learns_to_fill_in_and_leaves_the_head_alone():
    torch.manual_seed(0)
    model = PatchTST(1, 48, 4, dim=16, heads=2, layers=2, patch=8, stride=8, pad=None, dropout=0.0)
    head, embed = (layer.weight.detach().clone() for layer in (model.head.linear, model.embed))
    phase = torch.rand(200, 32, 1, 1, generator=torch.Generator().manual_seed(0))
    waves = torch.sin(torch.pi * (torch.arange(48.0)[:, None] / 6 + 2 * phase))
    losses = pretrain_masked(model, waves, lr=1e-2, generator=torch.Generator().manual_seed(1))
    assert len(losses) == 200
    assert losses[0] > 0.8
    assert losses[-1] < 0.1  # the mean of the window would leave 1
    torch.testing.assert_close(model.head.linear.weight, head, rtol=0, atol=0)
    assert not torch.equal(model.embed.weight, embed)


@pytest.mark.parametrize("options", [{"stride": 4, "pad": None}, {"stride": 8, "pad": "end"}])
def test_pretraining_refuses_patches_that_give_hidden_values_away(options):
    with pytest.raises(ValueError, match="needs stride = patch and pad = None"):
        pretrain_masked(small(patch=8, **options), [])
