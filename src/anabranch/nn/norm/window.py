"""Window normalisation: a forecaster sees every look-back window at the same level and scale.

Reversible instance normalisation of Kim et al. (2022), as used by PatchTST (arXiv 2211.14730, section 3.1).
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class WindowStatistics(NamedTuple):
    """What was taken out of a window, and is put back into its forecast."""

    location: Float[Tensor, "batch 1 channels"]
    scale: Float[Tensor, "batch 1 channels"]


class WindowNorm(nn.Module):
    """Subtract each window's location and divide by its standard deviation, channel by channel.

    The statistics come from the look-back window alone, from its observed values only, and carry no gradient. Nothing
    is remembered between calls: the statistics are returned, and handed to :meth:`inverse` with the forecast.

    Arguments:
        channels: number of channels.
        centre: ``"mean"`` or ``"last"``, the last observed value. The scale is the deviation from the mean in both.
        affine: learn a gain and a shift per channel; the gain must not become 0.
        epsilon: added to the population variance, so that a constant window stays finite.

    Shapes: windows ``(batch, time, channels)``; any number of time steps.
    """

    def __init__(
        self,
        channels: int,
        *,
        centre: Literal["mean", "last"] = "mean",
        affine: bool = False,
        epsilon: float = 1e-5,
    ):
        super().__init__()
        if centre not in ("mean", "last"):
            raise ValueError(f"centre is 'mean' or 'last'; got {centre!r}")
        self.channels, self.centre, self.epsilon = channels, centre, epsilon
        self.gain = nn.Parameter(torch.ones(channels)) if affine else None
        self.shift = nn.Parameter(torch.zeros(channels)) if affine else None

    def forward(
        self, x: Float[Tensor, "batch time channels"], mask: Bool[Tensor, "batch time channels"] | None = None
    ) -> tuple[Float[Tensor, "batch time channels"], WindowStatistics]:
        """Normalise; return the normalised windows and what :meth:`inverse` needs.

        Arguments:
            mask: True where a value was observed; the others do not count in the statistics.
        """
        if x.ndim != 3 or x.shape[-1] != self.channels:
            raise ValueError(f"WindowNorm expected (batch, time, {self.channels}); got {tuple(x.shape)}")
        statistics = self.statistics(x, mask)
        z = (x - statistics.location) / statistics.scale
        if self.gain is not None and self.shift is not None:
            z = z * self.gain + self.shift
        return z, statistics

    def inverse(
        self, z: Float[Tensor, "batch time channels"], statistics: WindowStatistics
    ) -> Float[Tensor, "batch time channels"]:
        """Undo the normalisation: on the window itself, or on a forecast made from it."""
        if self.gain is not None and self.shift is not None:
            z = (z - self.shift) / self.gain
        return z * statistics.scale + statistics.location

    @torch.no_grad()
    def statistics(
        self, x: Float[Tensor, "batch time channels"], mask: Bool[Tensor, "batch time channels"] | None = None
    ) -> WindowStatistics:
        """Location and scale of each window and channel."""
        mean = observed_mean(x, mask)
        if mask is None:
            variance = x.var(1, correction=0, keepdim=True)
            last = x[:, -1:]
        else:
            variance = observed_mean((x - mean).square(), mask)
            time = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
            latest = torch.where(mask, time, 0).argmax(1, keepdim=True)
            last = torch.where(mask.any(1, keepdim=True), x.gather(1, latest), mean)
        return WindowStatistics(mean if self.centre == "mean" else last, (variance + self.epsilon).sqrt())


@torch.no_grad()
def observed_mean(
    x: Float[Tensor, "batch time channels"], mask: Bool[Tensor, "batch time channels"] | None = None
) -> Float[Tensor, "batch 1 channels"]:
    """Mean of each window and channel over the observed values; 0 where none was observed. Carries no gradient."""
    if mask is None:
        return x.mean(1, keepdim=True)
    # torch.where, not a product: an unobserved value may be NaN.
    return torch.where(mask, x, 0).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
