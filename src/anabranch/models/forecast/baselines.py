"""Forecasters that every other one has to beat."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.forecast.base import ChannelMode, Forecaster, Norm
from anabranch.nn.norm.window import WindowNorm
from anabranch.spaces import Choice, Range, Space


class SeasonalNaive(Forecaster):
    """Say again what was seen one period ago. Learns nothing.

    Arguments:
        period: steps of a season, at most ``past``; 1 repeats the last value.
    """

    trained = False

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        period: int = 1,
        channel_mode: ChannelMode = "independent",
        norm: Norm | None = None,
    ):
        super().__init__(channels, past, future, channel_mode=channel_mode, norm=norm)
        if not 1 <= period <= past:
            raise ValueError(f"the period must lie within the window of {past} steps; got {period}")
        self.period = period

    def predict(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows future seen"]:
        step = torch.arange(self.future, device=window.device) % self.period
        return window[:, self.past - self.period + step]

    def cost(self) -> int:
        return 0


class LinearForecaster(Forecaster):
    """One linear map from the normalised window to all steps of the future."""

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        channel_mode: ChannelMode = "independent",
        norm: Norm | None = WindowNorm,
    ):
        super().__init__(channels, past, future, channel_mode=channel_mode, norm=norm)
        self.linear = nn.Linear(past * self.seen, future * self.seen)

    def predict(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows future seen"]:
        return self.linear(window.flatten(1)).view(-1, self.future, self.seen)

    def cost(self) -> int:
        return self.channels // self.seen * self.linear.weight.numel()


class MLPForecaster(Forecaster):
    """A multi-layer perceptron from the normalised window to all steps of the future.

    Arguments:
        dim: width of the hidden layers.
        layers: number of hidden layers.
        dropout: after each hidden layer.
    """

    space: ClassVar[Space] = {"layers": Choice(2, 1, 3), "dropout": Range(0.0, 0.4, default=0.1)}

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        dim: int = 128,
        layers: int = 2,
        dropout: float = 0.1,
        channel_mode: ChannelMode = "independent",
        norm: Norm | None = WindowNorm,
    ):
        super().__init__(channels, past, future, channel_mode=channel_mode, norm=norm)
        if min(dim, layers) < 1:
            raise ValueError(f"dim and layers must be at least 1; got {dim} and {layers}")
        widths = [past * self.seen, *[dim] * layers]
        hidden = [nn.Sequential(nn.Linear(width, dim), nn.GELU(), nn.Dropout(dropout)) for width in widths[:-1]]
        self.network = nn.Sequential(*hidden, nn.Linear(dim, future * self.seen))

    def predict(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows future seen"]:
        return self.network(window.flatten(1)).view(-1, self.future, self.seen)

    def cost(self) -> int:
        weights = sum(m.weight.numel() for m in self.network.modules() if isinstance(m, nn.Linear))
        return self.channels // self.seen * weights
