"""Equal tuning: the settings depend on the space, the number of trials and the seed, and on nothing else."""

import pytest

from anabranch.bench.tuning import distributions, settings
from anabranch.spaces import Choice, Range, Space

SPACE: Space = {"lr": Range(1e-4, 1e-1, 1e-3, log=True), "drop": Range(0.0, 0.5, 0.1), "heads": Choice(4, 1, 8)}


def test_the_defaults_come_first_and_the_rest_lies_in_the_space():
    points = settings(SPACE, 16, seed=0)
    assert points[0] == {"lr": 1e-3, "drop": 0.1, "heads": 4}
    assert len(points) == 16
    for point in points:
        assert 1e-4 <= point["lr"] <= 1e-1 and 0 <= point["drop"] <= 0.5 and point["heads"] in (4, 1, 8)
    assert {point["heads"] for point in points} == {1, 4, 8}
    assert sum(point["lr"] < 3e-3 for point in points) >= 5  # spread in the logarithm


def test_the_same_settings_again_and_others_with_another_seed():
    assert settings(SPACE, 8, seed=3) == settings(SPACE, 8, seed=3)
    assert settings(SPACE, 8, seed=3)[1:] != settings(SPACE, 8, seed=4)[1:]


def test_more_trials_extend_fewer():
    assert settings(SPACE, 8, seed=0)[:5] == settings(SPACE, 5, seed=0)


def test_contenders_that_share_the_first_dimension_try_the_same_values_of_it():
    alone = settings({"lr": SPACE["lr"]}, 6, seed=0)
    assert [point["lr"] for point in alone] == [point["lr"] for point in settings(SPACE, 6, seed=0)]


def test_what_cannot_be_tuned_is_tried_once():
    assert settings({}, 5, seed=0) == [{}]
    assert len(settings({"heads": Choice(4)}, 5, seed=0)) == 1


def test_every_setting_is_inside_what_the_storage_is_told():
    told = distributions(SPACE)
    for point in settings(SPACE, 8, seed=0):
        for name, value in point.items():
            assert told[name]._contains(told[name].to_internal_repr(value))


def test_a_space_that_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="low <= default <= high; got 1, 3, 2"):
        Range(1, 2, 3)
    with pytest.raises(ValueError, match="low > 0; got 0"):
        Range(0, 2, 1, log=True)
    with pytest.raises(ValueError, match="at least one option"):
        Choice()
