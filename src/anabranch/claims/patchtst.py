"""Patches of single channels are better tokens for forecasting than single time steps of all channels.

The paper says that a transformer over patches of one channel at a time forecasts better than one over time steps that
hold all channels, and better than a linear map; that a longer look-back helps it; and that pretraining it on hidden
patches, then training the head alone, comes close to supervised training.

Made smaller: three short records that ship with Python packages instead of eight benchmarks of 10 to 1000 times their
length, one horizon of 24 instead of 96 to 720, look-backs of 64 and 128 instead of 336 and 512, the paper's small model
(width 16) and 150 steps. Little data favours the linear map. Twenty unrelated channels (acsf1) favour channel
independence; in one-channel co2 only patching is at stake.

Every arm has the same normalisation, order of the data and number of steps; the transformers differ in their tokens
alone. Three learning rates are tried for each, and rate and checkpoint are chosen on the validation split.
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
    # A ratio is an arm's test error over that of the patches, as a geometric mean over its tasks.
    rules=(
        Rule("point.ratio", ">", 1.03),
        Rule("linear.ratio", ">", 1.03),
        Rule("naive.ratio", ">", 1.03),
        Rule("mixed.ratio", ">", 1.0),
        Rule("long.ratio", "<=", 1.02),
        Rule("probe.ratio", "<=", 1.03),
    ),
    seeds=3,
    minutes=5,
    smaller="Three short records, horizon 24, look-backs of 64 and 128, width 16, 150 steps; the paper has eight long "
    "benchmarks, horizons up to 720, look-backs of 336 and 512, and up to 100 epochs.",
)

PAST, LONG, FUTURE = 64, 128, 24
STEPS, RATES = 150, (1e-3, 4e-3, 1.6e-2)
LINEAR_RATES = (4e-3, 1.6e-2, 6.4e-2)  # as many, around where one linear map does best
LONG_TASKS = ("weather", "co2")  # acsf1 is left out of the look-back and the pretraining, to save time
WINDOWS = {"weather": 16, "co2": 16, "acsf1": 4}  # windows in a batch: acsf1 has 20 channels
SMALL = {"dim": 16, "heads": 4, "hidden": 128}
PRETRAIN_STEPS, PRETRAIN_RATE = 200, 4e-3  # on top of the steps of the probe, as in the paper


class Point(nn.Module):
    """A forecaster whose output is a tensor."""

    def __init__(self, forecaster: Forecaster):
        super().__init__()
        self.forecaster = forecaster

    def forward(self, past: Tensor) -> Tensor:
        return self.forecaster.point(past)


def measure(seed: int) -> Measurements:
    """Test errors of every arm on every task, and how they compare with the patches'."""
    measured: Measurements = {}
    ratios: dict[str, list[float]] = {}
    for name in WINDOWS:
        results = arms(name, seed)
        for arm, (error, seconds) in results.items():
            measured[f"{arm}.{name}.mse"] = error
            measured[f"{arm}.{name}.seconds"] = seconds
            ratios.setdefault(arm, []).append(error / results["patch"][0])
    return measured | {f"{arm}.ratio": geometric_mean(values) for arm, values in ratios.items() if arm != "patch"}


def arms(name: str, seed: int) -> dict[str, tuple[float, float]]:
    """Test error and seconds of each arm on one task."""
    task = load(name, past=PAST, horizon=FUTURE)
    channels, batch = task.outputs, WINDOWS[name]

    def patch(past: int = PAST, **options: object) -> Callable[[], Forecaster]:
        return lambda: PatchTST(channels, past, FUTURE, **(SMALL | options))  # pyright: ignore[reportArgumentType]

    point = patch(patch=1, stride=1, pad=None, channel_mode="mixed")
    results = {
        "patch": tuned(patch(), task, batch, seed),
        "point": tuned(point, task, batch, seed),
        "linear": tuned(lambda: LinearForecaster(channels, PAST, FUTURE), task, batch, seed, LINEAR_RATES),
        "naive": naive(task, channels),
    }
    if channels > 1:
        results["mixed"] = tuned(patch(channel_mode="mixed"), task, batch, seed)
    if name in LONG_TASKS:
        results["long"] = tuned(patch(LONG), load(name, past=LONG, horizon=FUTURE), batch, seed)
        results["probe"] = probed(patch(patch=8, stride=8, pad=None), task, batch, seed)
    return results


def geometric_mean(values: list[float]) -> float:
    """So that each task counts the same, whatever its scale."""
    return math.exp(sum(map(math.log, values)) / len(values))


def tuned(
    make: Callable[[], Forecaster], task: Task, batch: int, seed: int, rates: tuple[float, ...] = RATES
) -> tuple[float, float]:
    """Train with each rate; the test error of what did best in validation, and the seconds of all trainings."""
    started = time.perf_counter()
    candidates: list[tuple[float, Point]] = []
    for rate in rates:
        torch.manual_seed(seed)
        model = Point(make())
        candidates.append((train(model, task, rate, batch, seed), model))
    _, best = min(candidates, key=lambda candidate: candidate[0])
    return score(best, task.test, task), time.perf_counter() - started


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
        checks=3, check=check,
    )  # fmt: skip
    model.load_state_dict(state)
    return best


def naive(task: Task, channels: int) -> tuple[float, float]:
    """The seasonal naive forecast with the period that does best in validation."""
    started = time.perf_counter()
    models = [Point(SeasonalNaive(channels, PAST, FUTURE, period=period)) for period in range(1, PAST + 1)]
    best = min(models, key=lambda model: score(model, task.valid, task))
    return score(best, task.test, task), time.perf_counter() - started
