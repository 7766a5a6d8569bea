"""The race: interchangeable parts on the same data, under the same budget."""

from anabranch.bench.race import Progress, compare
from anabranch.bench.results import Results, Row

__all__ = ["Progress", "Results", "Row", "compare"]
