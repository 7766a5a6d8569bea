"""Every surgery on trained networks of several kinds: what it must leave alone, and what its report must say."""

import copy
import io
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from anabranch.compress import (
    BundleChannels,
    Converted,
    DropMixers,
    FFNFusion,
    RemoveDiluted,
    dilute_attention,
    replace_attention,
    set_dilution,
    share_layers,
)
from anabranch.data import Samples
from anabranch.models import (
    ByteEmbed,
    Classifier,
    FeatureEmbed,
    FrameEmbed,
    LanguageHead,
    MetaFormer,
    Network,
    PatchEmbed,
    Regressor,
)
from anabranch.nn.attention import MultiHead

SAMPLES, DIM = 12, 8


class Case(NamedTuple):
    """A trained network and what it reads."""

    model: nn.Module
    inputs: tuple[Tensor, ...]


def language_model(**options) -> Case:
    trunk = MetaFormer(DIM, 3, causal=True, **options)
    model = Network(ByteEmbed(DIM, length=6, vocabulary=11), trunk, LanguageHead(DIM, 11))
    return Case(model, (torch.randint(11, (SAMPLES, 6)),))


def shared() -> Case:
    case = language_model()
    return Case(share_layers(case.model, 2), case.inputs)  # the first two


def shared_mixer() -> Case:
    case = language_model()
    first, second, _ = case.model.trunk.blocks
    second.mixer = first.mixer
    return case


def image(dim=DIM, depth=3) -> Case:
    stem = PatchEmbed(1, DIM, size=8, patch=2)
    trunk = MetaFormer(dim, depth, grid=stem.grid, layer_scale=0.5)
    return Case(Network(stem, trunk, Classifier(trunk.out_dim, 3)), (torch.randn(SAMPLES, 1, 8, 8),))


def sequence() -> Case:
    model = Network(FrameEmbed(2, DIM, length=6), MetaFormer(DIM, 3, norm="rmsnorm"), Classifier(DIM, 3))
    return Case(model, (torch.randn(SAMPLES, 6, 2), torch.arange(SAMPLES) % 6 + 1))


def table() -> Case:
    model = Network(FeatureEmbed(5, DIM), MetaFormer(DIM, 3, length=5), Regressor(DIM))
    return Case(model, (torch.randn(SAMPLES, 5),))


CASES: dict[str, Callable[[], Case]] = {
    "language model": language_model,
    "shared layers": shared,
    "shared mixer": shared_mixer,
    "parallel": lambda: language_model(block="parallel"),
    "image": image,
    "pyramid": lambda: image((DIM, 12), (2, 2)),
    "sequence": sequence,
    "table": table,
    "trunk": lambda: Case(MetaFormer(DIM, 3), (torch.randn(SAMPLES, 6, DIM),)),
}


def trained(name: str) -> Case:
    torch.manual_seed(0)
    model, inputs = CASES[name]()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(5):
        optimizer.zero_grad()
        (model(*inputs) - 1).square().mean().backward()
        optimizer.step()
    return Case(model, inputs)


def replace(case: Case) -> Converted:
    samples = Samples(case.inputs[0], torch.zeros(SAMPLES), *case.inputs[1:])
    return replace_attention(case.model, samples, where=[0, 1], ratio=1 / 8, epochs=2, batch_size=6, repeats=1)


def bundled(case: Case) -> Converted:
    return BundleChannels(case.inputs, blocks=[0, 1], features=DIM).convert(case.model, case.inputs, repeats=1)


def dropped(case: Case) -> Converted:
    return DropMixers([1]).convert(case.model, case.inputs, repeats=1)


def fused(case: Case) -> Converted:
    return FFNFusion().convert(case.model, case.inputs, repeats=1)


def removed(case: Case) -> Converted:
    return RemoveDiluted().convert(case.model, case.inputs, repeats=1)


def faded(case: Case) -> Case:
    diluted = dilute_attention(case.model, [0, 1])
    set_dilution(diluted, 1.0)
    return Case(diluted, case.inputs)


class Surgery(NamedTuple):
    prepare: Callable[[Case], Case]
    operate: Callable[[Case], Converted]


SURGERIES = {
    "replace": Surgery(lambda case: case, replace),
    "bundle": Surgery(lambda case: case, bundled),
    "drop": Surgery(lambda case: case, dropped),
    "fuse": Surgery(lambda case: Case(dropped(case).module, case.inputs), fused),
    "remove": Surgery(faded, removed),
}
# In a parallel block nothing reads the stream that the paper's dilution would double.
PAIRS = [(surgery, name) for surgery in SURGERIES for name in CASES if (surgery, name) != ("remove", "parallel")]
EACH = pytest.mark.parametrize("surgery, name", PAIRS)
BOUNDED = ("language model", "parallel", "shared layers", "sequence")  # some tokens are not to be seen


def size(module: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    return len(file.getvalue())


@EACH
def test_the_original_stays_bit_for_bit_and_what_is_new_is_reported_as_it_is(surgery, name):
    prepare, operate = SURGERIES[surgery]
    case = prepare(trained(name))
    case.model.train()
    before = copy.deepcopy(case.model.state_dict())
    parts = [type(part) for part in case.model.modules()]
    module, report = operate(case)
    assert [type(part) for part in case.model.modules()] == parts
    assert all(part.training and not part._forward_hooks for part in case.model.modules())
    after = case.model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())
    owned = {value.untyped_storage().data_ptr() for value in after.values()}
    assert owned.isdisjoint(value.untyped_storage().data_ptr() for value in module.state_dict().values())

    assert not any(part.training or part._forward_hooks for part in module.modules())
    with torch.no_grad():
        expected, outcome = case.model.eval()(*case.inputs), module(*case.inputs)
    assert outcome.shape == expected.shape and outcome.isfinite().all()
    assert report.fidelity.largest == pytest.approx(float((outcome - expected).abs().max()), rel=1e-4, abs=1e-6)
    assert (report.bytes_before, report.bytes_after) == (size(case.model), size(module))
    assert report.seconds.before > 0 and report.seconds.after > 0
    assert report.details and all(value >= 0 for value in report.details.values())


@EACH
def test_it_is_deterministic_and_what_it_gives_saves_and_loads_and_trains(surgery, name):
    prepare, operate = SURGERIES[surgery]
    case = prepare(trained(name))
    first, second = (operate(case).module for _ in range(2))
    state = copy.deepcopy(first.state_dict())
    with torch.no_grad():
        expected = first(*case.inputs)
        assert torch.equal(second(*case.inputs), expected)
        for value in second.state_dict().values():
            value.zero_()
        second.load_state_dict(state)
        assert torch.equal(second(*case.inputs), expected)
    first.train()(*case.inputs).square().sum().backward()
    assert all(p.grad is not None for p in first.parameters() if p.requires_grad)


@pytest.mark.parametrize("surgery", ["replace", "drop", "remove"])
@pytest.mark.parametrize("name", ["language model", "pyramid", "sequence"])
def test_the_attentions_that_were_named_are_gone(surgery, name):
    prepare, operate = SURGERIES[surgery]
    case = prepare(trained(name))
    before, after = (
        [i for i, block in enumerate(trunk.blocks) if isinstance(getattr(block, "mixer", None), MultiHead)]
        for trunk in (case.model.trunk, operate(case).module.trunk)
    )
    assert after == [i for i in before if i > 1 or (i == 0 and surgery == "drop")]


@pytest.mark.parametrize("surgery, name", [pair for pair in PAIRS if pair[1] in BOUNDED])
def test_a_language_model_still_sees_no_later_byte_and_a_sequence_nothing_behind_its_end(surgery, name):
    prepare, operate = SURGERIES[surgery]
    case = prepare(trained(name))
    module = operate(case).module
    first, *rest = case.inputs
    other = first.clone()
    with torch.no_grad():
        if name == "sequence":
            behind = torch.arange(6) >= rest[0][:, None]
            other[behind] = 99.0
            torch.testing.assert_close(module(other, *rest), module(first, *rest))
        else:
            other[:, 4:] = (other[:, 4:] + 1) % 11
            torch.testing.assert_close(module(other)[:, :4], module(first)[:, :4])


def changed(case, module):
    """Indices of the blocks whose mixer, and of those whose channel mixer, is of another kind or gone."""
    before, after = case.model.trunk.blocks, module.trunk.blocks
    return tuple(
        [i for i, old in enumerate(before) if type(getattr(after[i], part, None)) is not type(getattr(old, part, None))]
        for part in ("mixer", "channel")
    )


@pytest.mark.parametrize("name", ["language model", "shared layers", "shared mixer", "sequence"])
@pytest.mark.parametrize(
    "surgery, places",
    [("replace", ([0, 1], [])), ("bundle", ([], [0, 1])), ("drop", ([1], [])), ("remove", ([0, 1], []))],
)
def test_the_places_that_were_chosen_change_and_no_others(surgery, places, name):
    prepare, operate = SURGERIES[surgery]
    case = prepare(trained(name))
    module, report = operate(case)
    assert changed(case, module) == places
    if surgery in ("replace", "bundle"):
        part = "mixer" if surgery == "replace" else "channel"
        assert list(report.details) == [f"trunk.stages.0.{i}.{part}" for i in (0, 1)]
        first, second = (getattr(block, part) for block in module.trunk.blocks[:2])
        old, other = (getattr(block, part) for block in case.model.trunk.blocks[:2])
        assert (first is second) == (old is other)
