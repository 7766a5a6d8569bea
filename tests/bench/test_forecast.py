import math

import numpy as np
import pytest
import torch

from anabranch.bench.forecast import by_step, crps, mae, mase, mse, naive_scale, smape, weighted_quantile_loss
from anabranch.models.forecast import Forecast


def values(*numbers):
    return torch.tensor(numbers, dtype=torch.float64).view(1, -1, 1)


def test_errors_are_means_over_steps_and_channels():
    mean = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    target = torch.zeros_like(mean)
    torch.testing.assert_close(mse(mean, target), torch.tensor([7.5, 0.0]))
    torch.testing.assert_close(mae(mean, target), torch.tensor([2.5, 0.0]))
    torch.testing.assert_close(by_step(mean - target), torch.tensor([0.75, 1.75]))


def test_the_seasonal_naive_forecast_has_a_mase_of_one_on_its_training_record():
    record = torch.randn(50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = naive_scale(record, period=7)
    target, naive = record[7:], record[:-7]
    torch.testing.assert_close(mase(naive[None], target[None], scale).mean(), torch.tensor(1.0, dtype=torch.float64))


def test_mase_uses_each_channels_own_unit():
    scale = naive_scale(torch.tensor([[0.0, 0.0], [1.0, 10.0], [0.0, 0.0]]))
    torch.testing.assert_close(scale, torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(mase(torch.tensor([[[2.0, 10.0]]]), torch.zeros(1, 1, 2), scale), torch.tensor([1.5]))


def test_mase_refuses_a_record_that_repeats_itself():
    with pytest.raises(ValueError, match="no unit"):
        naive_scale(torch.ones(10, 1))


def test_smape_is_symmetric_bounded_and_zero_at_zero():
    a, b = values(1.0, 0.0, -2.0), values(3.0, 0.0, 2.0)
    torch.testing.assert_close(smape(a, b), torch.tensor([(100 + 0 + 200) / 3], dtype=torch.float64))
    torch.testing.assert_close(smape(a, b), smape(b, a))


def test_smape_has_a_finite_gradient_where_both_are_zero():
    a = torch.zeros(1, 2, 1, requires_grad=True)
    smape(a, torch.zeros(1, 2, 1)).sum().backward()
    assert a.grad is not None
    assert torch.isfinite(a.grad).all()


def test_crps_of_two_samples_by_hand():
    # mean |X - y| = (1 + 3) / 2; sum over i != j of |X_i - X_j| is 2 * 4, divided by 2 n (n - 1) = 4.
    samples = torch.tensor([-1.0, 3.0], dtype=torch.float64).view(2, 1, 1, 1)
    torch.testing.assert_close(crps(samples, values(0.0)), torch.tensor([0.0], dtype=torch.float64))


def test_crps_equals_its_definition_over_all_pairs():
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(9, 2, 3, 2, generator=generator, dtype=torch.float64)
    target = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64)
    pairs = (samples[:, None] - samples[None]).abs().sum((0, 1)) / (2 * 9 * 8)
    torch.testing.assert_close(crps(samples, target), ((samples - target).abs().mean(0) - pairs).mean((1, 2)))


def test_crps_of_a_gaussian_tends_to_its_closed_form():
    n, y = 2000, 0.5
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    samples = (math.sqrt(2) * torch.erfinv(2 * levels - 1)).view(n, 1, 1, 1)
    density = math.exp(-(y**2) / 2) / math.sqrt(2 * math.pi)
    cumulative = 0.5 * (1 + math.erf(y / math.sqrt(2)))
    exact = y * (2 * cumulative - 1) + 2 * density - 1 / math.sqrt(math.pi)
    assert crps(samples, values(y)).item() == pytest.approx(exact, abs=1e-3)


def test_crps_of_a_point_forecast_is_its_absolute_error():
    mean, target = values(1.0, 2.0), values(0.0, 5.0)
    for n in (1, 4):
        torch.testing.assert_close(crps(Forecast(mean).sample(n), target), mae(mean, target))


def test_quantile_loss_at_the_median_is_the_absolute_error_over_the_size():
    mean, target = values(1.0, 2.0), values(2.0, 4.0)
    loss = weighted_quantile_loss(mean[None], target, [0.5])
    torch.testing.assert_close(loss, torch.tensor(3.0 / 6.0, dtype=torch.float64))


def test_quantile_loss_is_least_at_the_true_quantile():
    target = torch.randn(4000, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for q in (0.1, 0.9):
        guesses = np.linspace(-3, 3, 61)
        losses = [weighted_quantile_loss(torch.full((1, 4000, 1, 1), g).double(), target, [q]) for g in guesses]
        best = guesses[int(torch.stack(losses).argmin())]
        assert best == pytest.approx(np.quantile(target.numpy(), q), abs=0.11)


def test_quantile_loss_wants_a_level_for_each_quantile():
    with pytest.raises(ValueError, match="expected a level between 0 and 1 for each of 1 quantiles"):
        weighted_quantile_loss(torch.zeros(1, 1, 1, 1), torch.zeros(1, 1, 1), [0.1, 0.9])
