"""The forecaster: the slot where a window of the past becomes a forecast of the future."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.norm.window import WindowNorm, WindowStatistics, observed_mean
from anabranch.spaces import Space

ChannelMode = Literal["independent", "mixed"]
Norm = Callable[[int], WindowNorm]


@dataclass(frozen=True)
class Forecast:
    """What a model says about the future: here one value per step, as a distribution with all its mass on the mean.

    A probabilistic model returns a subclass with a spread, so that every metric runs on every model.
    """

    mean: Float[Tensor, "batch future channels"]

    def sample(self, n: int) -> Float[Tensor, "n batch future channels"]:
        """``n`` possible futures."""
        return self.mean.expand(n, *self.mean.shape)

    def quantile(self, q: float) -> Float[Tensor, "batch future channels"]:
        """The value that the future stays below with probability ``q``, step by step."""
        if not 0 < q < 1:
            raise ValueError(f"a quantile lies between 0 and 1; got {q}")
        return self.mean


class Forecaster(nn.Module):
    """Contract of the slot ``forecaster``: ``(batch, past, channels) -> Forecast`` of ``(batch, future, channels)``.

    A subclass implements :meth:`predict` on normalised windows of ``seen`` channels. In mode ``"independent"`` each
    channel is a window of its own: the base folds the channels into the batch, ``seen`` is 1 and all weights are
    shared. In mode ``"mixed"`` the model sees all channels at once. The constructor takes ``channels, past,
    future``, then keyword-only options; one whose size can be chosen takes its width as ``dim``.

    Arguments:
        channels: channels of the series, all of which are read and forecast.
        past: steps of the look-back window.
        future: steps to forecast.
        channel_mode: ``"independent"`` or ``"mixed"``.
        norm: builds the normalisation of the windows from the number of channels; None leaves them as they are.

    Declared facts:

    * ``trained``: has parameters to learn;
    * ``reads``: which of ``known_future``, ``past_cov`` and ``static`` it uses; the others are refused;
    * ``cost()``: multiply-adds of the forecast of one window.
    """

    trained: ClassVar[bool] = True
    reads: ClassVar[frozenset[str]] = frozenset()
    no_compile: ClassVar[str | None] = None  # why torch.compile cannot take this part, if it cannot
    space: ClassVar[Space] = {}

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        channel_mode: ChannelMode = "independent",
        norm: Norm | None = WindowNorm,
    ):
        super().__init__()
        if min(channels, past, future) < 1:
            raise ValueError(f"channels, past and future must be at least 1; got {channels}, {past} and {future}")
        if channel_mode not in ("independent", "mixed"):
            raise ValueError(f"channel_mode is 'independent' or 'mixed'; got {channel_mode!r}")
        self.channels, self.past, self.future, self.channel_mode = channels, past, future, channel_mode
        self.seen = 1 if channel_mode == "independent" else channels
        self.norm = None if norm is None else norm(channels)

    def forward(
        self,
        past: Float[Tensor, "batch past channels"],
        mask: Bool[Tensor, "batch past channels"] | None = None,
        known_future: Float[Tensor, "batch future known"] | None = None,
        past_cov: Float[Tensor, "batch past covariates"] | None = None,
        static: Float[Tensor, "batch facts"] | None = None,
    ) -> Forecast:
        """Forecast what follows each window.

        Arguments:
            past: the look-back windows.
            mask: True where a value was observed; the others have no influence.
            known_future: what is known about the steps to forecast (holidays, prices).
            past_cov: other series over the look-back window.
            static: facts about the whole series.
        """
        rows, statistics = self.prepare(past, mask)
        covariates = self.covariates(len(past), known_future=known_future, past_cov=past_cov, static=static)
        return Forecast(self.restore(self.predict(rows, **covariates), statistics))

    def point(
        self, past: Float[Tensor, "batch past channels"], mask: Bool[Tensor, "batch past channels"] | None = None
    ) -> Float[Tensor, "batch future channels"]:
        """The forecast's mean, as a plain tensor."""
        return self(past, mask).mean

    def predict(
        self, window: Float[Tensor, "rows past seen"], **covariates: Tensor
    ) -> Float[Tensor, "rows future seen"]:
        """The mechanism, on checked, normalised and folded windows; takes the covariates that ``reads`` names."""
        raise NotImplementedError

    def cost(self) -> int:
        """Multiply-adds of the forecast of one window, all channels together."""
        raise NotImplementedError

    def prepare(
        self, past: Float[Tensor, "batch past channels"], mask: Bool[Tensor, "batch past channels"] | None
    ) -> tuple[Float[Tensor, "rows past seen"], WindowStatistics | None]:
        """Check, fill what is missing with the window's mean, normalise, and fold the channels into the batch."""
        if past.ndim != 3 or past.shape[1:] != (self.past, self.channels):
            raise ValueError(
                f"{type(self).__name__} expected (batch, past={self.past}, channels={self.channels}); "
                f"got {tuple(past.shape)}"
            )
        statistics = None
        if mask is not None:
            if mask.shape != past.shape:
                raise ValueError(f"the mask must be {tuple(past.shape)}, one entry a value; got {tuple(mask.shape)}")
            past = torch.where(mask, past, observed_mean(past, mask))
        if self.norm is not None:
            past, statistics = self.norm(past, mask)
        if self.channel_mode == "independent":
            past = past.transpose(1, 2).reshape(-1, self.past, 1)
        return past, statistics

    def restore(
        self, rows: Float[Tensor, "rows future seen"], statistics: WindowStatistics | None
    ) -> Float[Tensor, "batch future channels"]:
        """Undo :meth:`prepare` on the forecast."""
        if self.channel_mode == "independent":
            rows = rows.reshape(-1, self.channels, self.future).transpose(1, 2)
        return rows if self.norm is None or statistics is None else self.norm.inverse(rows, statistics)

    def covariates(self, batch: int, **given: Tensor | None) -> dict[str, Tensor]:
        """Check the covariates that were given, and repeat them for every channel that is a row of its own."""
        steps = {"known_future": (self.future,), "past_cov": (self.past,), "static": ()}
        result = {}
        for name, value in given.items():
            if value is None:
                continue
            if name not in self.reads:
                raise ValueError(f"{type(self).__name__} does not read {name}; leave it out")
            expected = (batch, *steps[name])
            if value.ndim != len(expected) + 1 or value.shape[:-1] != expected:
                raise ValueError(
                    f"{name} must be ({', '.join(map(str, expected))}, features); got {tuple(value.shape)}"
                )
            alone = self.channel_mode == "independent"
            result[name] = value.repeat_interleave(self.channels, dim=0) if alone else value
        return result
