"""Norms: how a block brings its tokens to a common scale."""

from anabranch.nn.norm.base import Norm
from anabranch.nn.norm.plain import GroupNorm, IdentityNorm, LayerNorm, RMSNorm

__all__ = ["GroupNorm", "IdentityNorm", "LayerNorm", "Norm", "RMSNorm"]
