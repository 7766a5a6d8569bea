"""One experiment per paper, each with a decision rule that is fixed before it runs."""

from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.claims._evidence import Evidence, claim, claims, recorded, stale
from anabranch.claims._verify import verify

__all__ = ["Claim", "Evidence", "Measurements", "Rule", "claim", "claims", "recorded", "stale", "verify"]
