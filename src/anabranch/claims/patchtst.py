"""Patches of single channels are better tokens for forecasting than single time steps of all channels.

The paper says that a transformer over patches of one channel at a time forecasts better than one over time steps that
hold all channels, and better than a linear map; that a longer look-back helps it; and that pretraining it on hidden
patches, then training the head alone, comes close to supervised training.

Made smaller: three short records that ship with Python packages instead of eight benchmarks of 10 to 1000 times their
length, one horizon of 24 instead of 96 to 720, look-backs of 64 and 128 instead of 336 and 512, the paper's small model
(width 16) and some hundred steps. Little data favours the linear map. Twenty unrelated channels (acsf1) favour channel
independence; in one-channel co2 only patching is at stake.

Every arm has the paper's encoder, the same normalisation, order of the data and number of steps; three learning rates
are tried for each, and rate and checkpoint are chosen on the validation split.
"""

import copy
import math
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit, minibatches, score
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data import Task, load
from anabranch.models.forecast import Forecaster, LinearForecaster, PatchTST, SeasonalNaive, pretrain_masked

CLAIM = Claim(
    paper="patchtst",
    statement="Patches of single channels beat time steps of all channels as tokens, and beat a linear map; a longer "
    "past does not hurt; masked pretraining with a linear probe comes within 3 % of supervised training.",
    # Errors are geometric means over the tasks, so that each task counts the same whatever its scale.
    rules=(
        Rule("patch.mse / point.mse", "<", 0.97),
        Rule("patch.mse / linear.mse", "<", 0.97),
        Rule("patch.mse / naive.mse", "<", 0.97),
        Rule("independent.mse / mixed.mse", "<", 1.0),
        Rule("long.mse / patch.mse", "<=", 1.02),
        Rule("probe.mse / patch.mse", "<=", 1.03),
    ),
    seeds=3,
    minutes=8,
    smaller="Three short records, horizon 24, look-backs of 64 and 128, width 16, 300 steps; the paper has eight long "
    "benchmarks, horizons up to 720, look-backs of 336 and 512, and up to 100 epochs.",
)

PAST, LONG, FUTURE = 64, 128, 24
STEPS, RATES = 300, (1e-3, 3e-3, 1e-2)
WINDOWS = {"weather": 32, "co2": 32, "acsf1": 8}  # windows in a batch: acsf1 has 20 channels
SMALL = {"dim": 16, "heads": 4, "hidden": 128}
PRETRAIN_STEPS, PRETRAIN_RATE = 300, 3e-3


class Point(nn.Module):
    """A forecaster whose output is a tensor."""

    def __init__(self, forecaster: Forecaster):
        super().__init__()
        self.forecaster = forecaster

    def forward(self, past: Tensor) -> Tensor:
        return self.forecaster.point(past)


def measure(seed: int) -> Measurements:
    """Test errors of every arm on every task, and their geometric means."""
    measured: Measurements = {}
    errors: dict[str, list[float]] = {}
    for name in WINDOWS:
        for arm, (error, seconds) in arms(name, seed).items():
            measured[f"{arm}.{name}.mse"] = error
            measured[f"{arm}.{name}.seconds"] = seconds
            errors.setdefault(arm, []).append(error)
    means = {arm: math.exp(sum(map(math.log, values)) / len(values)) for arm, values in errors.items()}
    many = [name for name in WINDOWS if f"mixed.{name}.mse" in measured]
    means["independent"] = math.exp(sum(math.log(measured[f"patch.{name}.mse"]) for name in many) / len(many))
    return measured | {f"{arm}.mse": value for arm, value in means.items()}


def arms(name: str, seed: int) -> dict[str, tuple[float, float]]:
    """Test error and seconds of each arm on one task."""
    task, long = load(name, past=PAST, horizon=FUTURE), load(name, past=LONG, horizon=FUTURE)
    channels, batch = task.outputs, WINDOWS[name]

    def patch(past: int = PAST, **options: object) -> Callable[[], Forecaster]:
        return lambda: PatchTST(channels, past, FUTURE, **(SMALL | options))  # pyright: ignore[reportArgumentType]

    makers = {
        "patch": patch(),
        "point": patch(patch=1, stride=1, pad=None, channel_mode="mixed"),
        "linear": lambda: LinearForecaster(channels, PAST, FUTURE),
    }
    if channels > 1:
        makers["mixed"] = patch(channel_mode="mixed")
    results = {arm: tuned(make, task, batch, seed) for arm, make in makers.items()}
    results["long"] = tuned(patch(LONG), long, batch, seed)
    results["probe"] = probed(patch(patch=8, stride=8, pad=None), task, batch, seed)
    results["naive"] = naive(task, channels)
    return results


def tuned(make: Callable[[], Forecaster], task: Task, batch: int, seed: int) -> tuple[float, float]:
    """Train with each rate; the test error of what did best in validation, and the seconds of all trainings."""
    started = time.perf_counter()
    best, test = math.inf, math.nan
    for rate in RATES:
        torch.manual_seed(seed)
        model = Point(make())
        valid = train(model, task, rate, batch, seed)
        if valid < best:
            best, test = valid, score(model, task.test, task)
    return test, time.perf_counter() - started


def probed(make: Callable[[], Forecaster], task: Task, batch: int, seed: int) -> tuple[float, float]:
    """Pretrain on hidden patches, then train the head alone."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    pretrained = make()
    assert isinstance(pretrained, PatchTST)
    order = minibatches(len(task.train), batch, seed)
    windows = (task.train.batch(next(order)).inputs for _ in range(PRETRAIN_STEPS))
    pretrain_masked(pretrained, windows, lr=PRETRAIN_RATE, generator=torch.Generator().manual_seed(seed))
    pretrained.requires_grad_(False)
    pretrained.head.requires_grad_(True)
    error, _ = tuned(lambda: copy.deepcopy(pretrained), task, batch, seed)
    return error, time.perf_counter() - started


def train(model: nn.Module, task: Task, rate: float, batch: int, seed: int) -> float:
    """Train a model in place, go back to its best checkpoint in validation, and return that one's error."""
    best, state = math.inf, {}

    def check(model: nn.Module) -> float:
        nonlocal best, state
        if (value := score(model, task.valid, task)) < best:
            best, state = value, copy.deepcopy(model.state_dict())
        return value

    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    budget = Budget(steps=STEPS)
    fit(
        model, task.train, loss=F.mse_loss, optimizer=optimizer, budget=budget, batch_size=batch, seed=seed,
        checks=6, check=check,
    )  # fmt: skip
    model.load_state_dict(state)
    return best


def naive(task: Task, channels: int) -> tuple[float, float]:
    """The seasonal naive forecast with the period that does best in validation."""
    started = time.perf_counter()
    models = [Point(SeasonalNaive(channels, PAST, FUTURE, period=period)) for period in range(1, PAST + 1)]
    best = min(models, key=lambda model: score(model, task.valid, task))
    return score(best, task.test, task), time.perf_counter() - started
