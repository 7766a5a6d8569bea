"""Learning from data that comes in an order one does not choose: streams, strategies, and how to measure them."""

from anabranch.continual.ewc import EWC
from anabranch.continual.makers import label_permuted, permuted, rotated, split
from anabranch.continual.references import FineTuning, Joint, L2Anchor, Replay
from anabranch.continual.replay import ReplayBuffer
from anabranch.continual.running import Results, run
from anabranch.continual.strategy import Cost, Strategy
from anabranch.continual.stream import Experience, Step, Stream

__all__ = [
    "EWC",
    "Cost",
    "Experience",
    "FineTuning",
    "Joint",
    "L2Anchor",
    "Replay",
    "ReplayBuffer",
    "Results",
    "Step",
    "Strategy",
    "Stream",
    "label_permuted",
    "permuted",
    "rotated",
    "run",
    "split",
]
