"""What every part of every slot says about its options: they are named, have defaults, and can be tuned as declared."""

import inspect
from functools import partial

import pytest
import torch

from anabranch.catalog import parts, slots
from anabranch.slots import fill
from anabranch.spaces import Range

FACTS = {"dim": 8, "in_dim": 5, "out_dim": 3, "length": 6, "depth": 0, "causal": False}
FACTS |= {"channels": 2, "past": 20, "future": 5}
PARTS = [part for slot in slots() for part in parts(slot).values() if part.path.startswith("anabranch.")]
each = pytest.mark.parametrize("part", PARTS, ids=lambda part: f"{part.slot}-{part.name}")


@each
def test_whatever_has_a_default_is_given_by_name(part):
    by_place = [
        name
        for name, p in inspect.signature(part.load()).parameters.items()
        if p.default is not p.empty and p.kind is not p.KEYWORD_ONLY
    ]
    assert by_place in ([], ["data"])  # a probe's data stands beside its model


@each
def test_what_is_to_be_tuned_is_an_option(part):
    maker = part.load()
    assert getattr(maker, "space", {}).keys() <= inspect.signature(maker).parameters.keys()


@each
def test_a_part_that_does_not_compile_says_why(part):
    reason = getattr(part.load(), "no_compile", None)
    assert reason is None or len(reason) > 10


@pytest.mark.parametrize("slot", ["mixer", "channel", "dense", "cell", "norm", "pooling", "forecaster"])
def test_a_part_can_be_built_from_all_that_is_tried(slot):
    for part in parts(slot).values():
        for option, values in part.load().space.items() if hasattr(part.load(), "space") else ():
            tried = (values.low, values.default, values.high) if isinstance(values, Range) else values.options
            for value in tried:
                assert isinstance(fill(slot, partial(part.load(), **{option: value}), **FACTS), torch.nn.Module)
