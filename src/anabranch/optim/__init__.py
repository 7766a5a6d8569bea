"""Optimizers: how gradients become steps."""

from anabranch.optim.base import SGD, AdamW
from anabranch.optim.muon import Muon, newton_schulz

__all__ = ["SGD", "AdamW", "Muon", "newton_schulz"]
