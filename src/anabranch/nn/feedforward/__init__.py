"""What happens to one position by itself: channel mixers and dense layers."""

from anabranch.nn.feedforward.base import ChannelMixer, DenseLayer
from anabranch.nn.feedforward.kan import KANLinear, KANMixing
from anabranch.nn.feedforward.perceptron import PerceptronLayer

__all__ = ["ChannelMixer", "DenseLayer", "KANLinear", "KANMixing", "PerceptronLayer"]
