"""Checks that every part must pass; a part of your own can be held to them too. A failed check raises AssertionError.

Parts are called with default options. A part may give a tensor, or any nesting of tuples, lists and dicts of tensors;
where the laws speak of *the output*, they mean the first tensor.
"""

from anabranch.testing._parts import (
    check_autocast,
    check_compile,
    check_gradients,
    check_part,
    check_same_seed,
    check_scales,
    check_shapes,
    check_state_dict,
)
from anabranch.testing._streaming import check_causal, check_padding, check_streaming

__all__ = [
    "check_autocast",
    "check_causal",
    "check_compile",
    "check_gradients",
    "check_padding",
    "check_part",
    "check_same_seed",
    "check_scales",
    "check_shapes",
    "check_state_dict",
    "check_streaming",
]
