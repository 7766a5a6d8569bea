"""What every forecaster must do, whoever wrote it."""

import copy
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from anabranch.catalog import parts
from anabranch.models.forecast import Forecast, Forecaster, SeasonalNaive
from anabranch.slots import fill

PARTS = {name: part.load() for name, part in parts("forecaster").items()}
MODES = ["independent", "mixed"]

every_part = pytest.mark.parametrize("name", sorted(PARTS))
every_mode = pytest.mark.parametrize("mode", MODES)


def build(name, *, channels=2, past=20, future=5, mode="independent", seed=0, **facts):
    torch.manual_seed(seed)
    facts = {"channels": channels, "past": past, "future": future, "dim": 8, "channel_mode": mode} | facts
    return fill("forecaster", PARTS[name], **facts).eval()


def windows(batch=3, past=20, channels=2, *, seed=0, dtype=torch.float32):
    return torch.randn(batch, past, channels, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@every_part
@every_mode
def test_a_forecast_has_a_mean_samples_and_quantiles(name, mode):
    forecast = build(name, mode=mode)(windows())
    assert isinstance(forecast, Forecast)
    assert forecast.mean.shape == (3, 5, 2)
    assert forecast.sample(7).shape == (7, 3, 5, 2)
    low, high = forecast.quantile(0.1), forecast.quantile(0.9)
    assert low.shape == high.shape == (3, 5, 2)
    assert (low <= high).all()
    with pytest.raises(ValueError, match="between 0 and 1"):
        forecast.quantile(1.0)


@every_part
def test_the_point_forecast_is_the_mean(name):
    model, x = build(name), windows()
    torch.testing.assert_close(model.point(x), model(x).mean, rtol=0, atol=0)


@every_part
@every_mode
@settings(max_examples=8, deadline=None)
@given(
    batch=st.integers(1, 4),
    channels=st.integers(1, 3),
    past=st.integers(1, 23),
    future=st.integers(1, 9),
    seed=st.integers(0, 99),
)
def test_any_size_works_and_windows_do_not_see_each_other(name, mode, batch, channels, past, future, seed):
    model = build(name, channels=channels, past=past, future=future, mode=mode)
    x = windows(batch, past, channels, seed=seed)
    y = model.point(x)
    assert y.shape == (batch, future, channels)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(y[:1], model.point(x[:1]), rtol=1e-4, atol=1e-5)


@every_part
def test_independent_channels_do_not_see_each_other(name):
    model, x = build(name, channels=3), windows(channels=3)
    y = model.point(x)
    permutation = torch.tensor([2, 0, 1])
    torch.testing.assert_close(model.point(x[..., permutation]), y[..., permutation], rtol=1e-5, atol=1e-6)
    other = x.clone()
    other[..., 1:] += windows(channels=2, seed=1)
    torch.testing.assert_close(model.point(other)[..., 0], y[..., 0], rtol=1e-5, atol=1e-6)


@every_part
@every_mode
def test_level_and_scale_of_a_window_come_back_in_its_forecast(name, mode):
    model, x = build(name, mode=mode).double(), 1e4 * windows(dtype=torch.float64)
    torch.testing.assert_close(model.point(3 * x + 1e5), 3 * model.point(x) + 1e5, rtol=1e-7, atol=1e-3)


@every_part
@every_mode
def test_values_that_were_not_observed_have_no_influence(name, mode):
    model, x = build(name, mode=mode), windows()
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) < 0.6
    y = model.point(torch.where(mask, x, torch.nan), mask)
    assert torch.isfinite(y).all()
    torch.testing.assert_close(model.point(torch.where(mask, x, 1e6), mask), y, rtol=0, atol=0)
    torch.testing.assert_close(model.point(x, torch.ones_like(mask)), model.point(x), rtol=1e-4, atol=1e-5)


@every_part
def test_a_window_that_is_not_contiguous_gives_the_same_forecast(name):
    model, x = build(name), windows()
    view = x.repeat_interleave(2, dim=1)[:, ::2]
    assert not view.is_contiguous()
    torch.testing.assert_close(model.point(view), model.point(x))


@every_part
@every_mode
def test_gradients_equal_finite_differences(name, mode):
    # For the inputs without the normalisation, since its statistics carry no gradient by design.
    x = windows(2, 6, 2, dtype=torch.float64)
    plain = build(name, past=6, future=2, mode=mode, dim=4, norm=None, heads=2, layers=2).double()
    assert torch.autograd.gradcheck(plain.point, (x.clone().requires_grad_(),))
    model = build(name, past=6, future=2, mode=mode, dim=4, heads=2, layers=2).double()
    parameters = {k: p.detach().clone().requires_grad_() for k, p in model.named_parameters()}
    assert bool(parameters) == model.trained
    if not model.trained:
        return

    def of_parameters(*values):
        return functional_call(model, dict(zip(parameters, values, strict=True)), (x,)).mean

    assert torch.autograd.gradcheck(of_parameters, tuple(parameters.values()), fast_mode=True)


@every_part
def test_every_parameter_gets_a_gradient(name):
    model = build(name).train()
    for parameter in model.parameters():
        assert parameter.grad is None
    if model.trained:
        model.point(windows()).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@every_part
@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_small_and_large_inputs_stay_finite(name, scale):
    model, x = build(name).train(), (scale * windows()).requires_grad_()
    y = model.point(x)
    y.square().mean().backward()
    assert torch.isfinite(y).all()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@every_part
def test_a_constant_window_is_continued_finitely(name):
    assert torch.isfinite(build(name).point(torch.full((2, 20, 2), 5.0))).all()


@every_part
def test_state_survives_saving_and_loading(name):
    model, other, x = build(name), build(name, seed=1), windows()
    other.load_state_dict(copy.deepcopy(model.state_dict()))
    torch.testing.assert_close(other.point(x), model.point(x), rtol=0, atol=0)


@every_part
def test_the_seed_decides_everything(name):
    x = windows()
    results = []
    for _ in range(2):
        model = build(name).train()
        torch.manual_seed(1)
        results.append(model.point(x))
    torch.testing.assert_close(*results, rtol=0, atol=0)


@every_part
def test_it_runs_in_bfloat16_under_autocast(name):
    model, x = build(name), windows()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = model.point(x)
    torch.testing.assert_close(y.float(), model.point(x), rtol=0.1, atol=0.1)
    if model.trained:
        y.float().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@every_part
@every_mode
def test_the_declared_cost_is_what_the_matrix_products_take(name, mode):
    model = build(name, channels=3, mode=mode, layers=2)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # others are not counted
        model.point(windows(1, channels=3))
    assert model.cost() == counter.get_total_flops() // 2


@every_part
def test_tuned_options_are_options_of_the_constructor(name):
    for option, values in PARTS[name].space.items():
        for value in getattr(values, "options", (values.default,)):
            assert build(name, **{option: value}).point(windows()).shape == (3, 5, 2)


@every_part
@pytest.mark.usefixtures("unchecked")
def test_wrong_input_is_refused_with_what_was_expected(name):
    model, x = build(name), windows()
    for wrong in (x[:, :-1], x[..., :1], x[0]):
        with pytest.raises(ValueError, match=r"expected \(batch, past=20, channels=2\); got"):
            model(wrong)
    with pytest.raises(ValueError, match="one entry a value"):
        model(x, torch.ones(3, 20, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 1"):
        build(name, future=0)
    with pytest.raises(ValueError, match="'independent' or 'mixed'"):
        build(name, mode="both")
    for covariate in {"known_future", "past_cov", "static"} - model.reads:
        with pytest.raises(ValueError, match=f"does not read {covariate}"):
            model(x, **{covariate: torch.zeros(3, 5, 1)})


@every_part
@pytest.mark.slow
def test_it_compiles_into_one_graph(name):
    if PARTS[name].no_compile:
        pytest.skip(PARTS[name].no_compile)
    # In a process of its own, since the compiler cannot look through the checks of the annotations.
    code = f"""
import torch
from anabranch.catalog import part
model, x = part('forecaster', {name!r}).load()(2, 20, 5).eval(), torch.randn(3, 20, 2)
compiled = torch.compile(model.point, backend="aot_eager", fullgraph=True)
torch.testing.assert_close(compiled(x), model.point(x), rtol=1e-4, atol=1e-5)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


class Calendar(Forecaster):
    """Adds what is known about the future to the last value."""

    reads = frozenset({"known_future", "static"})

    def predict(self, window, *, known_future, static):
        return window[:, -1:] + known_future[..., :1] + static[:, None, :1]


@every_mode
def test_covariates_reach_every_channel_of_their_own_window(mode):
    model, x = Calendar(2, 20, 5, channel_mode=mode, norm=None), windows()
    known, static = torch.arange(15.0).view(3, 5, 1), torch.tensor([[100.0], [200.0], [300.0]])
    y = model(x, known_future=known, static=static).mean
    torch.testing.assert_close(y, x[:, -1:] + known + static[:, None])


@pytest.mark.usefixtures("unchecked")
def test_covariates_of_the_wrong_length_are_refused():
    with pytest.raises(ValueError, match=r"known_future must be \(3, 5, features\); got \(3, 4, 1\)"):
        Calendar(2, 20, 5)(windows(), known_future=torch.zeros(3, 4, 1))


def test_seasonal_naive_repeats_the_last_season():
    x = torch.arange(12.0).view(1, 12, 1)
    y = SeasonalNaive(1, 12, 5, period=3).point(x)
    torch.testing.assert_close(y.flatten(), torch.tensor([9.0, 10.0, 11.0, 9.0, 10.0]), rtol=0, atol=0)
    with pytest.raises(ValueError, match="window of 12 steps"):
        SeasonalNaive(1, 12, 5, period=13)
