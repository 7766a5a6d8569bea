"""Learning rules: how a network is trained. All of them run on the same network, data and budget as backpropagation."""

from anabranch.learning.backprop import Backprop
from anabranch.learning.base import Rule, StepReport, Trainer
from anabranch.learning.chain import as_chain, as_residual
from anabranch.learning.compare import compare
from anabranch.learning.forward_forward import ForwardForward
from anabranch.learning.local import LocalStages
from anabranch.learning.meter import LiveBytes, SavedBytes, stash

__all__ = [
    "Backprop",
    "ForwardForward",
    "LiveBytes",
    "LocalStages",
    "Rule",
    "SavedBytes",
    "StepReport",
    "Trainer",
    "as_chain",
    "as_residual",
    "compare",
    "stash",
]
