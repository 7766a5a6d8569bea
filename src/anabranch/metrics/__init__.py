"""Numbers that describe weights, activations and outputs, for probes, theory and claims."""

from anabranch.metrics.edit import edit_distance
from anabranch.metrics.retrieval import retrieval_ranks
from anabranch.metrics.spectral import Spectrum, spectrum
from anabranch.metrics.text import bleu

__all__ = [
    "Spectrum",
    "bleu",
    "edit_distance",
    "retrieval_ranks",
    "spectrum",
]
