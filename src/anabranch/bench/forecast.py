"""How forecasts are scored.

Unless it says otherwise, a function gives one score per window: the mean over its steps and channels.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, "batch future channels"]
Scores = Float[Tensor, "batch"]


def mse(mean: Values, target: Values) -> Scores:
    """Squared error."""
    return _by_window((mean - target).square())


def mae(mean: Values, target: Values) -> Scores:
    """Absolute error."""
    return _by_window((mean - target).abs())


def by_step(errors: Values) -> Float[Tensor, "future"]:
    """Mean error at each step of the future, for example of ``(mean - target) ** 2``."""
    return errors.mean((0, 2))


def naive_scale(train: Float[Tensor, "time channels"], period: int = 1) -> Float[Tensor, "channels"]:
    """Mean absolute error of the seasonal naive forecast, one step ahead, on the training record: the unit of MASE."""
    if not 1 <= period < len(train):
        raise ValueError(f"the period must be at least 1 and shorter than the record of {len(train)}; got {period}")
    scale = (train[period:] - train[:-period]).abs().mean(0)
    if not (scale > 0).all():
        raise ValueError(f"a channel repeats itself exactly every {period} steps, so MASE has no unit for it")
    return scale


def mase(mean: Values, target: Values, scale: Float[Tensor, "channels"]) -> Scores:
    """Absolute error in units of :func:`naive_scale`, on the raw scale of the data (Hyndman & Koehler 2006)."""
    return _by_window((mean - target).abs() / scale)


def smape(mean: Values, target: Values) -> Scores:
    """Symmetric percentage error, 0 to 200: ``200 |forecast - y| / (|forecast| + |y|)``, and 0 where both are 0."""
    size = mean.abs() + target.abs()
    return _by_window(torch.where(size > 0, 200 * (mean - target).abs() / size.where(size > 0, 1), 0))


def crps(samples: Float[Tensor, "n batch future channels"], target: Values) -> Scores:
    """Continuous ranked probability score from samples, without bias: ``E|X - y| - E|X - X'| / 2``.

    With a single sample it is the absolute error.
    """
    n = len(samples)
    score = (samples - target).abs().mean(0)
    if n > 1:
        # The sum of |X_i - X_j| over all pairs, from the sorted samples: n log n instead of n ** 2.
        rank = torch.arange(1, n + 1, dtype=samples.dtype, device=samples.device)
        weight = (2 * rank - n - 1).view(-1, 1, 1, 1)
        score = score - (weight * samples.sort(0).values).sum(0) / (n * (n - 1))
    return _by_window(score)


def weighted_quantile_loss(
    quantiles: Float[Tensor, "levels batch future channels"], target: Values, levels: Sequence[float]
) -> Float[Tensor, ""]:
    """Twice the pinball loss, summed over all windows and divided by the sum of ``|y|``; the mean over the levels."""
    if len(quantiles) != len(levels) or not all(0 < q < 1 for q in levels):
        raise ValueError(f"expected a level between 0 and 1 for each of {len(quantiles)} quantiles; got {list(levels)}")
    q = torch.tensor(levels, dtype=target.dtype, device=target.device).view(-1, 1, 1, 1)
    over = target - quantiles
    pinball = torch.maximum(q * over, (q - 1) * over)
    return 2 * pinball.sum((1, 2, 3)).mean() / target.abs().sum()


def _by_window(errors: Values) -> Scores:
    return errors.mean((1, 2))
