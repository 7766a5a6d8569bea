"""A small language model on bytes, as the claims about block wirings use it."""

from collections.abc import Callable
from functools import partial
from typing import Any

from anabranch.models import MetaFormer, Network
from anabranch.models.heads import LanguageHead
from anabranch.models.stems import ByteEmbed
from anabranch.nn.attention import SoftmaxAttention


def language_model(dim: int, depth: int, *, length: int, block: str | Callable[..., Any], **slots: Any) -> Network:
    """Causal attention of four heads, a perceptron of four widths and layer norms, in the given wiring."""
    mixer = partial(SoftmaxAttention, heads=4)
    trunk = MetaFormer(dim, depth, mixer=mixer, block=block, causal=True, **slots)
    return Network(ByteEmbed(dim, length=length), trunk, LanguageHead(dim))
