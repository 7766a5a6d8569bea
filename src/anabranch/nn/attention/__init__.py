"""Attention: token mixers whose weights depend on the tokens."""

from anabranch.nn.attention.aaren import Aaren
from anabranch.nn.attention.attend import (
    Alignment,
    Attend,
    additive_attention,
    cosine_attention,
    entmax_attention,
    local_attention,
    multidimensional_attention,
    sigmoid_attention,
    sparsemax_attention,
)
from anabranch.nn.attention.base import MultiHead
from anabranch.nn.attention.coattention import AlternatingCoAttention, ParallelCoAttention
from anabranch.nn.attention.distributions import entmax15, sparsemax
from anabranch.nn.attention.factorized import FactorizedAttention, FixedAttention, StridedAttention
from anabranch.nn.attention.feature_maps import elu_plus_one, outer_square
from anabranch.nn.attention.flow import FlowAttention
from anabranch.nn.attention.hippocampal import HippocampalAttention
from anabranch.nn.attention.levels import AttentionPool, HierarchicalPool
from anabranch.nn.attention.linear import LinearAttention
from anabranch.nn.attention.poly import PolyAttention
from anabranch.nn.attention.representations import WeighedRepresentations
from anabranch.nn.attention.retention import Retention
from anabranch.nn.attention.sinkhorn import SinkhornAttention
from anabranch.nn.attention.softmax import SoftmaxAttention
from anabranch.nn.attention.window import window_attention

__all__ = [
    "Aaren",
    "Alignment",
    "AlternatingCoAttention",
    "Attend",
    "AttentionPool",
    "FactorizedAttention",
    "FixedAttention",
    "FlowAttention",
    "HierarchicalPool",
    "HippocampalAttention",
    "LinearAttention",
    "MultiHead",
    "ParallelCoAttention",
    "PolyAttention",
    "Retention",
    "SinkhornAttention",
    "SoftmaxAttention",
    "StridedAttention",
    "WeighedRepresentations",
    "additive_attention",
    "cosine_attention",
    "elu_plus_one",
    "entmax15",
    "entmax_attention",
    "local_attention",
    "multidimensional_attention",
    "outer_square",
    "sigmoid_attention",
    "sparsemax",
    "sparsemax_attention",
    "window_attention",
]
