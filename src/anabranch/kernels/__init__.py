"""The few hot loops, each one function: a reference in plain torch, and the fastest path for the device it runs on."""

from anabranch.kernels import _threads  # noqa: F401  # so that it knows of every fork, even one before its first use
from anabranch.kernels._delta_rule import gated_delta_rule, gated_delta_step, gated_linear_attention
from anabranch.kernels._linear_attention import causal_linear_attention, causal_linear_sums, retention
from anabranch.kernels._linear_scan import linear_scan
from anabranch.kernels._prefix_scan import AttentionSums, attention_combine, attention_scan, prefix_scan
from anabranch.kernels._sinkhorn import sinkhorn_log

__all__ = [
    "AttentionSums",
    "attention_combine",
    "attention_scan",
    "causal_linear_attention",
    "causal_linear_sums",
    "gated_delta_rule",
    "gated_delta_step",
    "gated_linear_attention",
    "linear_scan",
    "prefix_scan",
    "retention",
    "sinkhorn_log",
]
