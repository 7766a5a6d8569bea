"""FFN fusion (arXiv 2503.18908): channel mixers in a row become one wide one; and how much blocks depend on each other."""

from copy import deepcopy
from functools import partial

import pytest
import torch

from anabranch.compress import DropMixers, FFNFusion, ffn_runs, least_needed_mixers, share_layers
from anabranch.compress.trunk import trunk_of
from anabranch.data.task import Batch
from anabranch.interpret import BlockDependency
from anabranch.models import Classifier, FrameEmbed, LanguageHead, MetaFormer, Network
from anabranch.models.stems import ByteEmbed
from anabranch.nn.block import ChannelOnly, PreNorm
from anabranch.nn.feedforward import MLP, GatedMLP
from anabranch.testing import check_streaming

DIM, DEPTH, TIME = 8, 6, 10
KINDS = {
    "gated, rms": {"channel": partial(GatedMLP, ratio=2), "norm": "rmsnorm"},
    "gated, layer": {"channel": partial(GatedMLP, ratio=2), "norm": "layernorm"},
    "plain, layer": {"channel": partial(MLP, ratio=2), "norm": "layernorm"},
    "plain, layer, scaled": {"channel": MLP, "norm": "layernorm", "layer_scale": 0.7},
}
kinds = pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)


def network(**options):
    torch.manual_seed(0)
    trunk = MetaFormer(DIM, DEPTH, causal=True, **options)
    model = Network(ByteEmbed(DIM, length=TIME, vocabulary=11), trunk, LanguageHead(DIM, 11)).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name or "scale" in name:
                p.add_(0.3 * torch.randn_like(p))  # gains and shifts that are nothing special
    return model


def text():
    return torch.randint(11, (4, TIME), generator=torch.Generator().manual_seed(1))


def dropped(*blocks, **options):
    return DropMixers(list(blocks)).convert(network(**options), text(), repeats=1).module


def summed(model, first, last):
    """The output with the run's channel mixers all reading the first one's input, unfused."""
    x = model.stem(text()).x
    for i, block in enumerate(model.trunk.blocks):
        if i < first or i > last:
            x = block(x)
        elif i == first:
            if isinstance(block, PreNorm):
                x = x + block.branch1(block.mixer(block.norm1(x)))
            run = model.trunk.blocks[first : last + 1]
            x = x + sum(b.branch2(b.channel(b.norm2(x))) for b in run)
    return model.head(x)


@kinds
@pytest.mark.parametrize("first", [1, 2])
def test_the_wide_one_is_the_sum_of_the_others_with_norms_and_layer_scale_folded_in(options, first):
    model = dropped(2, 3, 4, **options)
    expected = summed(model, first, 4)
    fused = FFNFusion(runs=[(first, 4)]).convert(model, text(), repeats=1).module
    assert len(fused.trunk.blocks) == DEPTH - (4 - first)
    torch.testing.assert_close(fused(text()), expected, rtol=0, atol=1e-13)
    assert (fused(text()) - model(text())).abs().max() > 1e-3  # the order did matter


@kinds
def test_the_hidden_units_are_conserved(options):
    model = dropped(2, 3, **options)
    fused = FFNFusion().convert(model, text(), repeats=1).module
    widths = [[block.channel.hidden for block in each.trunk.blocks] for each in (model, fused)]
    assert sum(widths[0]) == sum(widths[1]) and widths[1][1] == 3 * widths[0][1]
    before, after = (sum(p.numel() for n, p in m.named_parameters() if "narrow.weight" in n) for m in (model, fused))
    assert before == after


def test_runs_are_found_where_no_token_mixer_stands_between():
    assert ffn_runs(trunk_of(network())) == []
    assert ffn_runs(trunk_of(dropped(0, 1, 3))) == [(0, 1), (2, 3)]
    assert ffn_runs(trunk_of(dropped(1, 2, 3, 5))) == [(0, 3), (4, 5)]


def test_a_run_of_one_stays_as_it_is():
    model = dropped(3)
    same = FFNFusion(runs=[(2, 2)]).convert(model, text(), repeats=1).module
    assert torch.equal(same(text()), model(text()))
    kept = FFNFusion(keep_last=True).convert(model, text(), repeats=1)  # a run of two, the last of which stays
    assert torch.equal(kept.module(text()), model(text()))


def test_keep_last_fuses_all_but_the_last():
    model = dropped(2, 3)
    fused = FFNFusion(keep_last=True).convert(model, text(), repeats=1)
    assert [block.channel.hidden // DIM for block in fused.module.trunk.blocks] == [4, 8, 4, 4, 4]
    assert fused.report.details == {"blocks_before": 6, "blocks_after": 5}


def test_what_is_left_still_streams():
    model = FFNFusion().convert(dropped(0, 2, 3), text(), repeats=1).module
    x = torch.randn(2, TIME, DIM, dtype=torch.float64)
    check_streaming(model.trunk, x, bound=10**6)
    assert isinstance(model.trunk.blocks[0], ChannelOnly)


def test_dropping_a_mixer_leaves_the_residual_connection_around_it():
    model = network()
    short = dropped(1)
    with torch.no_grad():
        for p in model.trunk.blocks[1].mixer.out.parameters():
            p.zero_()
    torch.testing.assert_close(short(text()), model(text()))


def test_what_cannot_be_fused_is_refused():
    with pytest.raises(ValueError, match="one MetaFormer"):
        FFNFusion().convert(torch.nn.Linear(2, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"runs within \[\(2, 3\)\]; got \(1, 2\)"):
        FFNFusion(runs=[(1, 2)]).convert(dropped(3), text())
    with pytest.raises(ValueError, match="no block in common"):
        FFNFusion(runs=[(1, 2), (2, 3)]).convert(dropped(2, 3), text())
    mixed = dropped(1)
    mixed.trunk.blocks[1].channel = GatedMLP(DIM).double()
    with pytest.raises(ValueError, match="got MLP, GatedMLP"):
        FFNFusion().convert(mixed, text())
    with pytest.raises(ValueError, match="PreNorm or Parallel block"):
        dropped(1, 1)
    with pytest.raises(ValueError, match="one kind, MLP or GatedMLP"):
        FFNFusion().convert(dropped(1, channel="identity"), text())


def test_the_least_needed_mixer_is_one_that_does_nothing():
    model = network()
    with torch.no_grad():
        for i in (4, 2):
            for p in model.trunk.blocks[i].mixer.out.parameters():
                p.zero_()
    model.train()
    assert sorted(least_needed_mixers(model, Batch(text(), text()), 2)) == [2, 4]
    assert model.training


def dependency(model):
    return BlockDependency(model, Batch(text(), text())).run().arrays["dependency"]


def test_no_block_depends_on_itself_or_a_later_one_and_all_on_earlier_ones():
    matrix = dependency(network())
    rows, columns = torch.triu_indices(DEPTH, DEPTH, 1)
    assert (matrix[rows, columns] > 1e-6).all()
    assert matrix.sum() == pytest.approx(matrix[rows, columns].sum())


def test_dependency_is_one_minus_the_cosine_of_what_a_block_adds():
    model, x = network(), text()
    h = model.stem(x).x
    inputs = [h]
    for block in model.trunk.blocks:
        inputs.append(block(inputs[-1]))
    y = inputs[1]  # without block 1: block 2 reads what block 1 read
    for block in model.trunk.blocks[2:4]:
        last, y = y, block(y)
    expected = 1 - torch.cosine_similarity(inputs[4] - inputs[3], y - last, dim=-1).mean()
    assert dependency(model)[1, 3] == pytest.approx(expected.item())


def test_channel_mixers_are_left_out_alone():
    model = dropped(2)
    matrix = BlockDependency(model, Batch(text(), text()), of="channels").run().arrays["dependency"]
    blocks = model.trunk.blocks
    x = model.stem(text()).x
    for block in blocks[:1]:
        x = block(x)
    x = x + blocks[1].mixer(blocks[1].norm1(x))
    after = x + blocks[1].channel(blocks[1].norm2(x))
    # Block 2 has no token mixer: its channel mixer reads the stream with and without what the one before added.
    h, without = (blocks[2].channel(blocks[2].norm2(each)) for each in (after, x))
    assert matrix[1, 2] == pytest.approx(1 - torch.cosine_similarity(h, without, dim=-1).mean().item())


def test_a_block_that_adds_nothing_has_nothing_that_depends_on_it():
    model = network()
    block = model.trunk.blocks[2]
    with torch.no_grad():
        for part in (block.mixer.out, block.channel.narrow):
            for p in part.parameters():
                p.zero_()
    assert dependency(model)[2] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("of", ["blocks", "channels"])
def test_what_stands_behind_a_sequences_end_has_no_part_in_its_blocks_dependency(of):
    torch.manual_seed(0)
    model = Network(FrameEmbed(2, DIM, length=6), MetaFormer(DIM, 3, length=6), Classifier(DIM, 3)).double()
    frames, lengths = torch.randn(5, 6, 2, dtype=torch.float64), torch.tensor([6, 3, 1, 2, 5])
    behind = torch.arange(6) >= lengths[:, None]
    found = [
        BlockDependency(model, Batch(inputs, lengths, lengths), of=of).run().arrays["dependency"]
        for inputs in (frames, frames.masked_fill(behind[..., None], 3.0))
    ]
    assert found[0] == pytest.approx(found[1]) and found[0][0, 1] > 1e-6


def test_other_networks_than_language_models_are_operated_on_too():
    torch.manual_seed(0)
    model = Network(FrameEmbed(2, DIM, length=6), MetaFormer(DIM, 4, length=6), Classifier(DIM, 3))
    frames = torch.randn(5, 6, 2)
    short = FFNFusion().convert(DropMixers([1, 2]).convert(model, frames, repeats=1).module, frames, repeats=3)
    assert short.report.details == {"blocks_before": 4, "blocks_after": 2} and short.report.seconds.after > 0


class Scaled(torch.nn.Module):
    """What stands behind a plain attribute, no ``repr`` tells."""

    def __init__(self, a):
        super().__init__()
        self.a = a

    def forward(self, x):
        return torch.relu(self.a * x)


@pytest.mark.parametrize(
    "make", [lambda i: Scaled(i + 1), lambda i: torch.nn.Softmax(-1), lambda i: torch.nn.LayerNorm(32, bias=False)]
)
def test_activations_that_differ_or_mix_units_are_refused(make):
    model = dropped(1, 2)
    for i, block in enumerate(model.trunk.blocks):
        block.channel.activation = make(i).double().requires_grad_(False)
    with pytest.raises(ValueError, match="one activation that acts unit by unit; got|activation with weights"):
        FFNFusion().convert(model, text())
    for block in model.trunk.blocks:
        block.channel.activation = Scaled(2)
    fused = FFNFusion().convert(model, text(), repeats=1).module
    torch.testing.assert_close(fused(text()), summed(model, 0, 2))


@pytest.mark.parametrize("of", ["blocks", "channels"])
def test_a_part_that_is_called_several_times_has_a_row_for_each_call(of):
    shared = share_layers(network())
    apart = share_layers(network())
    for stage in apart.trunk.stages:
        for i, block in enumerate(stage):
            stage[i] = deepcopy(block)
    found = [BlockDependency(each, Batch(text(), text()), of=of).run() for each in (shared, apart)]
    assert found[0].numbers["parts"] == DEPTH
    assert found[0].arrays["dependency"] == pytest.approx(found[1].arrays["dependency"])
