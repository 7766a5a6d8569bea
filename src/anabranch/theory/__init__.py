"""Models of learning that are simple enough to be solved, and quantities that theory speaks of."""

from anabranch.theory.associative_memory import AssociativeMemory

__all__ = ["AssociativeMemory"]
