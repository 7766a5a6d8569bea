"""The leaderboard: means, paired intervals, and which differences are noise."""

import numpy as np
import pytest

from anabranch.bench.results import Results, blocks, leaderboard
from anabranch.data.task import ACCURACY, rmse

RANDOM = np.random.default_rng(0)


def runs(scores: np.ndarray, **more) -> dict[int, dict]:
    return {
        seed: {"test": float(row.mean()), "valid": 0.5, "scores": row.tolist(), "seconds": 1.0, **more}
        for seed, row in enumerate(scores)
    }


def test_the_best_mean_leads_whichever_way_is_better():
    low, high = runs(np.full((3, 50), 0.2)), runs(np.full((3, 50), 0.8))
    up = leaderboard(ACCURACY, {"low": ("network", low), "high": ("network", high)}, 3)
    assert [row.contender for row in up] == ["high", "low"]
    down = leaderboard(rmse(2.0), {"high": ("network", high), "low": ("network", low)}, 3)
    assert [row.contender for row in down] == ["low", "high"]


def test_a_shared_hard_sample_does_not_hide_a_small_but_sure_difference():
    # Both fail on the same half of the samples: unpaired intervals overlap widely, the paired difference is sure.
    base = (RANDOM.random((3, 400)) < 0.5).astype(float)
    worse = base.copy()
    worse[:, :40] = 0.0
    rows = leaderboard(ACCURACY, {"a": ("network", runs(base)), "b": ("network", runs(worse))}, 3)
    a, b = rows
    assert a.contender == "a" and a.behind is None
    assert a.interval[0] < b.interval[1]  # they overlap
    assert b.behind[0] > 0 and not b.tied


def test_noise_is_called_noise():
    a = (RANDOM.random((3, 100)) < 0.8).astype(float)
    b = (RANDOM.random((3, 100)) < 0.8).astype(float)
    rows = leaderboard(ACCURACY, {"a": ("network", runs(a)), "b": ("network", runs(b))}, 3)
    assert rows[1].tied and rows[1].behind[0] <= 0 <= rows[1].behind[1]


def test_an_interval_covers_the_spread_of_the_seeds():
    scores = np.repeat(np.array([[0.2], [0.5], [0.8]]), 30, axis=1)
    (row,) = leaderboard(ACCURACY, {"a": ("network", runs(scores))}, 3)
    assert row.metric == pytest.approx(0.5)
    assert row.interval[0] == pytest.approx(0.2, abs=0.05) and row.interval[1] == pytest.approx(0.8, abs=0.05)


def test_a_contender_with_a_failed_seed_has_no_figure_but_a_reason():
    broken = runs(np.full((3, 10), 0.9))
    broken[1] = {"failed": "diverged: the loss became nan"}
    rows = leaderboard(ACCURACY, {"x": ("network", broken), "y": ("network", runs(np.full((3, 10), 0.1)))}, 3)
    assert [row.contender for row in rows] == ["y", "x"]
    assert rows[1].metric is None and rows[1].notes == ["seed 1: diverged: the loss became nan"]


def test_many_scores_become_blocks_with_the_same_mean():
    scores = RANDOM.random(1777)
    kept = blocks(scores, most=512)
    assert len(kept) == 512 and np.mean(kept) == pytest.approx(scores.mean())
    assert blocks(scores[:100]) == scores[:100].tolist()


def test_the_verdict_says_when_no_network_is_needed():
    rows = leaderboard(
        ACCURACY,
        {"net": ("network", runs(np.full((3, 9), 0.5))), "knn": ("classical", runs(np.full((3, 9), 0.9)))},
        3,
    )
    results = Results("r", "t", "accuracy", True, rows, {}, [])
    assert results.verdict() == "knn leads. The best network is net: for accuracy alone no network is needed here."
    assert Results("r", "t", "accuracy", True, [], {}, []).verdict() == "No contender finished."


def raced(**accuracies: float) -> Results:
    """A race of networks with these accuracies, the same samples right in all, and of the commonest class: half right."""
    samples = {name: np.tile(np.arange(200) < share * 200, (3, 1)).astype(float) for name, share in accuracies.items()}
    kinds = {name: "constant" if name == "common" else "classical" if name == "knn" else "network" for name in samples}
    rows = leaderboard(ACCURACY, {name: (kinds[name], runs(scores)) for name, scores in samples.items()}, 3)
    return Results("r", "t", "accuracy", True, rows, {}, [])


def test_networks_that_are_no_better_than_a_constant_have_not_learned_and_the_verdict_says_so():
    results = raced(common=0.5, knn=0.55, a=0.5, b=0.45)
    assert {row.contender: row.blind for row in results.rows} == {"knn": False, "common": False, "a": True, "b": True}
    assert results.verdict() == (
        "knn leads. No network is told apart from common, which says the same whatever it is given: "
        "within this budget none has learned what these data could show."
    )


def test_the_verdict_names_the_networks_that_have_not_learned():
    results = raced(common=0.5, a=0.8, b=0.5)
    assert [row.contender for row in results.rows if row.blind] == ["b"]
    assert results.verdict() == "a leads. Not told apart from common, which says the same whatever it is given: b."
    assert raced(common=0.5, a=0.8, b=0.7).verdict() == "a leads."
    assert not any(row.blind for row in raced(a=0.5, b=0.4).rows)  # nothing to compare them with


def test_less_is_better_than_a_constant_too_where_less_is_better():
    few, many = np.full((3, 50), 0.2), np.full((3, 50), 0.8)
    rows = leaderboard(rmse(1.0), {"net": ("network", runs(few)), "mean": ("constant", runs(many))}, 3)
    assert not rows[0].blind
    rows = leaderboard(rmse(1.0), {"net": ("network", runs(many)), "mean": ("constant", runs(few))}, 3)
    assert rows[1].blind
