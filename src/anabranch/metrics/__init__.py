"""Numbers that describe weights and activations, for probes, theory and claims."""

from anabranch.metrics.spectral import Spectrum, spectrum

__all__ = ["Spectrum", "spectrum"]
