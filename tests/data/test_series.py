"""Forecasts from the user's own tables."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from anabranch.data import Windows, load
from anabranch.errors import InputError

DAYS = pd.date_range("2020-01-01", periods=600)


def saved(folder: Path, **columns: object) -> Path:
    path = folder / "t.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def wave(count: int = 600, seed: int = 0) -> np.ndarray:
    return np.sin(np.arange(count) / 5) + np.random.default_rng(seed).normal(size=count) / 9


def test_all_columns_of_numbers_are_forecast(tmp_path: Path) -> None:
    task = load(saved(tmp_path, day=DAYS, a=wave(), sky=["clear", "grey"] * 300, b=wave(600, 1)), time="day")
    assert task.facts["channels"] == ["a", "b"] and task.outputs == 2
    assert task.example().inputs.shape == (1, 96, 2) and task.example().targets.shape == (1, 24, 2)
    assert any("'sky'" in note for note in task.notes)
    sizes = task.facts["sizes"]
    assert sizes == {"train": 420 - 119, "valid": 60 - 23, "test": 120 - 23}


def test_rows_are_put_in_the_order_of_time(tmp_path: Path) -> None:
    values, order = wave(), np.random.default_rng(0).permutation(600)
    straight = load(saved(tmp_path, day=DAYS, a=values), time="day")
    mixed = load(saved(tmp_path, day=DAYS[order], a=values[order]), time="day")
    assert isinstance(straight.train, Windows) and isinstance(mixed.train, Windows)
    assert (straight.train.record == mixed.train.record).all()
    assert "rows sorted by 'day'" in mixed.notes and not straight.notes


def test_the_scaler_sees_the_first_70_percent_alone(tmp_path: Path) -> None:
    values = wave()
    later = values.copy()
    later[420:] *= 50
    one, two = (load(saved(tmp_path, day=DAYS, a=a), time="day").train for a in (values, later))
    assert isinstance(one, Windows) and isinstance(two, Windows)
    assert (one.record == two.record).all()


def test_a_target_is_forecast_from_its_own_past_alone(tmp_path: Path) -> None:
    task = load(saved(tmp_path, day=DAYS, a=wave(), b=wave(600, 1)), time="day", target="b", past=20, horizon=5)
    assert task.facts["channels"] == ["b"]
    assert task.example().inputs.shape == (1, 20, 1) and task.example().targets.shape == (1, 5, 1)
    assert "left out, because only 'b' is forecast: 'a'" in task.notes


def test_gaps_are_filled_and_counted(tmp_path: Path) -> None:
    values = np.arange(600.0)
    values[[0, 10, 11, 599]] = np.nan
    task = load(saved(tmp_path, day=DAYS, a=values), time="day")
    assert any("'a (4)'" in note for note in task.notes)
    assert isinstance(task.train, Windows)
    frames = task.train.record[:, 0] * task.facts["standard deviation"][0] + task.facts["mean"][0]
    assert np.allclose(frames[9:13], [9, 10, 11, 12], atol=1e-3) and frames[0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    "times",
    [
        np.arange(600),
        DAYS.strftime("%Y%m%d").astype(int),
        DAYS.strftime("%d/%m/%Y"),
        DAYS.strftime("%b %d, %Y"),
        DAYS.strftime("%Y-%m-%dT%H:%M:%S+02:00"),
    ],
    ids=["numbers", "compact", "day first", "words", "zone"],
)
def test_times_may_be_numbers_or_dates_of_many_forms(tmp_path: Path, times: object) -> None:
    task = load(saved(tmp_path, t=times, a=wave()), time="t")
    assert not task.notes, "evenly spaced and sorted, so there is nothing to say"


def test_uneven_steps_are_mentioned(tmp_path: Path) -> None:
    task = load(saved(tmp_path, day=[*DAYS[:300], *(DAYS[300:] + pd.Timedelta(days=9))], a=wave()), time="day")
    assert "steps of 'day' differ, from 1 to 10; taken as even" in task.notes


def test_a_short_record_gets_a_shorter_past_and_horizon(tmp_path: Path) -> None:
    task = load(saved(tmp_path, day=DAYS[:60], a=wave(60)), time="day")
    assert (task.facts["past"], task.facts["horizon"]) == (19, 3)
    assert any("the horizon is 3 frames" in note for note in task.notes)


BAD = {
    "unknown time": ({"day": DAYS, "a": wave()}, {"time": "dya"}, "unknown column 'dya'; did you mean .*'day'"),
    "unknown target": (
        {"day": DAYS, "a": wave()},
        {"time": "day", "target": "aa"},
        "unknown column 'aa'; did you mean 'a'",
    ),
    "time as target": ({"day": DAYS, "a": wave()}, {"time": "day", "target": "day"}, "got 'day' for both"),
    "twice": (
        {"day": [*DAYS[:599], DAYS[0]], "a": wave()},
        {"time": "day"},
        "expected each time once; 'day' has 1 time more than once, such as '2020-01-01'",
    ),
    "not a time": (
        {"day": [*DAYS.strftime("%Y-%m-%d")[:599], "someday"], "a": wave()},
        {"time": "day"},
        "dates such as 2024-05-31 or numbers in the time column 'day'; got 'someday'",
    ),
    "no time": ({"day": [*DAYS[:599], None], "a": wave()}, {"time": "day"}, "'day' has none in row 600"),
    "too short": (
        {"day": DAYS[:100], "a": wave(100)},
        {"time": "day", "past": 96, "horizon": 24},
        r"expected more frames for windows of 96 \+ 24; got 100",
    ),
    "no numbers": ({"day": DAYS, "a": ["x", "y"] * 300}, {"time": "day"}, "expected columns of numbers that change"),
    "constant": (
        {"day": DAYS, "a": [3] * 600},
        {"time": "day", "target": "a"},
        "numbers that change in the target 'a'",
    ),
    "goal": ({"day": DAYS, "a": wave()}, {"time": "day", "goal": "regress"}, "a forecast takes no goal"),
    "infinite": ({"day": DAYS, "a": [*wave(599), np.inf]}, {"time": "day"}, "column 'a' has inf in row 600"),
    "tiny": ({"day": DAYS[:2], "a": [1, 2]}, {"time": "day"}, "expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_records_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    columns, options, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        load(saved(tmp_path, **columns), **options)
    assert "\n" not in str(caught.value)
