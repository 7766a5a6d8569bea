"""One experiment per paper, each with a decision rule that is fixed before it runs."""

from anabranch.claims._claim import Claim, Measurements, Rule

__all__ = ["Claim", "Measurements", "Rule"]
