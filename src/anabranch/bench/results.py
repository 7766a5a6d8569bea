"""What a race found: a row per contender, intervals that respect the pairing, and which differences are noise."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anabranch.bench.storage import Result
from anabranch.data.task import Metric

DRAWS = 4000


@dataclass
class Row:
    """One contender's line on the leaderboard. Figures are means over the seeds; None where there is none."""

    contender: str
    kind: str  # "network", "classical", or "constant": says the same whatever it is given
    metric: float | None = None
    interval: tuple[float, float] | None = None  # 95 %
    behind: tuple[float, float] | None = None  # 95 % interval of how much worse than the leader; paired
    tied: bool = False  # the interval of the difference from the leader includes zero
    blind: bool = False  # a network that is not told apart from the constant contender: it has learned nothing
    parameters: int | None = None
    flops: int | None = None  # one sample, forward
    train_seconds: float | None = None
    latency_ms: float | None = None  # one sample
    peak_mb: float | None = None  # one training step
    setting: dict[str, Any] = field(default_factory=dict)  # the tuned options
    valid: float | None = None
    by_seed: list[float] = field(default_factory=list)
    curves: list[list[list[float]]] = field(default_factory=list)  # by seed: step, training loss, validation metric
    notes: list[str] = field(default_factory=list)  # what went wrong, and what is not equal


@dataclass
class Results:
    """A finished race."""

    race: str
    task: str
    metric: str
    higher_is_better: bool
    rows: list[Row]  # best first; contenders without a result last
    facts: dict[str, Any]  # how the race was run
    notes: list[str]  # what was done to the data

    @property
    def leader(self) -> Row | None:
        """The contender with the best mean, if any finished."""
        return self.rows[0] if self.rows and self.rows[0].metric is not None else None

    def verdict(self) -> str:
        """One sentence on who leads, and which differences may be noise."""
        leader = self.leader
        if leader is None:
            return "No contender finished."
        said = f"{leader.contender} leads"
        if tied := [row.contender for row in self.rows if row.tied]:
            said += f"; not told apart from it by this data: {', '.join(tied)}"
        networks = [row for row in self.rows if row.kind == "network" and row.metric is not None]
        constant = next((row.contender for row in self.rows if row.kind == "constant"), None)
        blind = [row.contender for row in networks if row.blind]
        if blind and len(blind) == len(networks):
            return (
                f"{said}. No network is told apart from {constant}, which says the same whatever it is given: "
                "within this budget none has learned what these data could show."
            )
        if leader.kind != "network" and networks:
            best = networks[0].contender
            said += f". The best network is {best}: for {self.metric} alone no network is needed here"
        if blind:
            said += f". Not told apart from {constant}, which says the same whatever it is given: {', '.join(blind)}"
        return said + "."

    def to_json(self) -> dict[str, Any]:
        """All of it, as plain data."""
        return asdict(self)

    def table(self) -> Any:
        """The leaderboard as a pandas data frame."""
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows]).drop(columns=["curves", "by_seed"])


def leaderboard(metric: Metric, finals: dict[str, tuple[str, dict[int, Result]]], seeds: int) -> list[Row]:
    """Rows from the final runs of every contender (its kind, and its results by seed), best first.

    Intervals come from resampling seeds and, within them, test samples; two contenders are compared on the same
    resampled seeds and samples.
    """
    rows, samples = [], {}
    for name, (kind, by_seed) in finals.items():
        good = {seed: result for seed, result in by_seed.items() if "failed" not in result}
        row = Row(name, kind)
        for seed, result in sorted(by_seed.items()):
            if "failed" in result:
                row.notes.append(f"seed {seed}: {result['failed']}")
        if len(good) == seeds:
            samples[name] = np.array([good[seed]["scores"] for seed in range(seeds)], dtype=float)
            _fill(row, [good[seed] for seed in range(seeds)])
        rows.append(row)
    if samples:
        _intervals(metric, {row.contender: row for row in rows}, samples)
    sign = -1.0 if metric.higher_is_better else 1.0
    return sorted(rows, key=lambda row: math.inf if row.metric is None else sign * row.metric)


def _fill(row: Row, results: list[Result]) -> None:
    def mean(key: str) -> float | None:
        values = [result[key] for result in results if result.get(key) is not None]
        return float(np.mean(values)) if values else None

    row.metric, row.valid = mean("test"), mean("valid")
    row.by_seed = [result["test"] for result in results]
    row.train_seconds, row.latency_ms, row.peak_mb = mean("seconds"), mean("latency_ms"), mean("peak_mb")
    row.parameters, row.flops = results[0].get("parameters"), results[0].get("flops")
    row.setting = results[0].get("setting", {})
    row.curves = [result.get("curve", []) for result in results]


def _intervals(metric: Metric, rows: dict[str, Row], samples: dict[str, NDArray[np.float64]]) -> None:
    draws = {name: _resampled(metric, scores) for name, scores in samples.items()}
    best = max if metric.higher_is_better else min
    leader = best(draws, key=lambda name: rows[name].metric or 0.0)
    sign = 1 if metric.higher_is_better else -1
    constant = next((draws[name] for name in draws if rows[name].kind == "constant"), None)
    for name, drawn in draws.items():
        rows[name].interval = _percentiles(drawn)
        if name != leader:
            low, high = _percentiles(sign * (draws[leader] - drawn))
            rows[name].behind, rows[name].tied = (low, high), low <= 0.0
        if rows[name].kind == "network" and constant is not None:
            rows[name].blind = _percentiles(sign * (drawn - constant))[0] <= 0.0


def _resampled(metric: Metric, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The metric on resampled seeds and samples. The same draws for every contender: that is what pairs them."""
    seeds, count = scores.shape
    random = np.random.default_rng(0)
    weights = random.multinomial(count, np.full(count, 1 / count), size=DRAWS) / count
    picked = random.integers(seeds, size=(DRAWS, seeds))
    by_seed = np.vectorize(metric.summary)(weights @ scores.T)
    return np.take_along_axis(by_seed, picked, axis=1).mean(1)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def blocks(scores: NDArray[np.float64], most: int = 512) -> list[float]:
    """Scores by sample, or their means over equal stretches where there are too many to keep.

    Stretches of neighbours also keep together what is not independent, such as overlapping windows of a series.
    """
    if len(scores) <= most:
        return scores.tolist()
    usable = len(scores) - len(scores) % most
    means = scores[:usable].reshape(most, -1).mean(1)
    # What is left over is spread evenly, so that the mean of the blocks is the mean of the scores.
    return (means + (scores.mean() - means.mean())).tolist()
