"""The few hot loops, each one function: a reference in plain torch, and the fastest path for the device it runs on."""

from anabranch.kernels._linear_scan import linear_scan

__all__ = ["linear_scan"]
