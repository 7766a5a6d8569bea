"""Attention: token mixers whose weights depend on the tokens."""

from anabranch.nn.attention.softmax import SoftmaxAttention

__all__ = ["SoftmaxAttention"]
