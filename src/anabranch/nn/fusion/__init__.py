"""Fusion: what samples, or streams, learn from each other, and several of them in one."""

from anabranch.nn.fusion.batchformer import BatchFormer
from anabranch.nn.fusion.multiplex import Demultiplex, MLPDemultiplex, Multiplex, Multiplexed
from anabranch.nn.fusion.shared_code import SharedCode

__all__ = [
    "BatchFormer",
    "Demultiplex",
    "MLPDemultiplex",
    "Multiplex",
    "Multiplexed",
    "SharedCode",
]
