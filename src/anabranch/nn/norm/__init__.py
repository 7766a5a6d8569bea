"""Norms: what brings activations, or whole windows of a series, to a common level and scale."""

from anabranch.nn.norm.window import WindowNorm, WindowStatistics

__all__ = ["WindowNorm", "WindowStatistics"]
