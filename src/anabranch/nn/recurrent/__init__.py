"""Recurrent cells: parts that read a sequence one frame after the other, with a state."""

from anabranch.nn.recurrent.base import Recurrence
from anabranch.nn.recurrent.cho import ChoGRUCell
from anabranch.nn.recurrent.diagonal import DiagonalCell
from anabranch.nn.recurrent.fused import ElmanCell, GRUCell, LSTMCell
from anabranch.nn.recurrent.mixing import RecurrentMixing

__all__ = ["ChoGRUCell", "DiagonalCell", "ElmanCell", "GRUCell", "LSTMCell", "Recurrence", "RecurrentMixing"]
