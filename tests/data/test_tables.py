"""The user's own tables: what is read from them, what is said about it, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from anabranch.data import Task, load
from anabranch.errors import InputError


def write(folder: Path, text: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def saved(folder: Path, **columns: object) -> Path:
    path = folder / "t.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def numbers(count: int = 60, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=count)


def rows_of(task: Task, feature: str) -> list[set[float]]:
    """The distinct values of one feature in each split."""
    column = task.facts["features"].index(feature)
    splits = (task.train, task.valid, task.test)
    return [set(split.batch(torch.arange(len(split))).inputs[:, column].tolist()) for split in splits]


def test_splits_are_60_20_20_disjoint_and_drawn_by_the_seed(tmp_path: Path) -> None:
    path = saved(tmp_path, x=numbers(100), y=numbers(100, 1))
    task = load(path, target="y")
    train, valid, test = rows_of(task, "x")
    assert (len(train), len(valid), len(test)) == (60, 20, 20)
    assert not train & valid and not train & test and not valid & test
    assert rows_of(load(path, target="y"), "x") == [train, valid, test]
    assert rows_of(load(path, target="y", seed=1), "x")[2] != test


def test_numbers_and_the_target_are_scaled_by_the_training_rows_alone(tmp_path: Path) -> None:
    x, y = 5 + 3 * numbers(100), 100 + 20 * numbers(100, 1)
    task = load(saved(tmp_path, x=x, y=y), target="y")
    batch = task.train.batch(torch.arange(60))
    for values in (batch.inputs[:, 0], batch.targets):
        assert values.mean().abs() < 1e-5 and abs(values.std(correction=0) - 1) < 1e-5
    mean, scale = task.facts["target"]["mean"], task.facts["target"]["standard deviation"]
    everything = torch.cat([s.batch(torch.arange(len(s))).targets for s in (task.train, task.valid, task.test)])
    assert np.allclose(np.sort(everything.double() * scale + mean), np.sort(y), atol=1e-4)
    # An error of 1 in scaled units is one standard deviation in the target's own.
    assert task.metric.name == "rmse" and task.metric.summary(1.0) == pytest.approx(scale)


def test_missing_numbers_become_the_training_median_and_a_column_tells(tmp_path: Path) -> None:
    x = numbers(100)
    x[::4] = np.nan
    task = load(saved(tmp_path, x=x, y=numbers(100, 1)), target="y")
    assert task.facts["features"] == ["x", "x is missing"]
    inputs = torch.cat([s.batch(torch.arange(len(s))).inputs for s in (task.train, task.valid, task.test)])
    absent = inputs[:, 1] > 0
    assert absent.sum() == 25
    assert len(inputs[absent][:, 0].unique()) == 1
    known = task.train.batch(torch.arange(60)).inputs
    assert inputs[absent][0, 0] == pytest.approx(float(np.median(known[known[:, 1] < 0][:, 0].numpy())), abs=1e-5)
    assert any("'x (25)'" in note for note in task.notes)


def test_words_become_columns_and_rare_ones_share_one(tmp_path: Path) -> None:
    words = ["a", "b"] * 40 + [f"rare{i}" for i in range(40)]
    task = load(saved(tmp_path, word=words, y=numbers(120)), target="y")
    features = task.facts["features"]
    assert "word=a" in features and "word=b" in features and len(features) == 20
    assert features[-1] == "word=(rare)"
    inputs = task.test.batch(torch.arange(len(task.test))).inputs
    assert (inputs.sum(1) == 1).all(), "each row has one word, known or rare"
    assert any("rare words" in note for note in task.notes)


def test_dates_become_day_month_and_weekday(tmp_path: Path) -> None:
    days = pd.date_range("2020-01-01", periods=400).strftime("%Y-%m-%d")
    task = load(saved(tmp_path, when=days, y=numbers(400)), target="y")
    assert task.facts["features"] == ["when (day)", "when (month)", "when (weekday)"]
    assert [len(set().union(*rows_of(task, feature))) for feature in task.facts["features"]] == [400, 12, 7]


def test_columns_that_say_nothing_are_left_out_by_name(tmp_path: Path) -> None:
    task = load(
        saved(
            tmp_path,
            id=range(1, 61),
            same=["k"] * 60,
            none=[None] * 60,
            name=[f"person {i}" for i in range(60)],
            x=numbers(),
            y=numbers(60, 1),
        ),
        target="y",
    )
    assert task.facts["features"] == ["x"]
    assert sorted(name for names in task.facts["left out"].values() for name in names) == ["id", "name", "none", "same"]
    for name in ("id", "same", "none", "name"):
        assert any(note.startswith("left out") and repr(name) in note for note in task.notes)


def test_a_few_texts_among_numbers_are_missing_numbers(tmp_path: Path) -> None:
    x = [str(value) for value in numbers()]
    x[7] = "?"
    task = load(saved(tmp_path, x=x, y=numbers(60, 1)), target="y")
    assert task.facts["features"][0] == "x"
    assert any("1 value of 60 not numbers, such as '?'" in note for note in task.notes)


@pytest.mark.parametrize(
    ("values", "goal", "classes", "word"),
    [
        (["no", "yes"] * 30, "classify", ("no", "yes"), "words"),
        ([True, False] * 30, "classify", ("False", "True"), "truth values"),
        ([0, 1] * 30, "classify", ("0", "1"), "2 distinct whole numbers"),
        ([2, 10, 1] * 20, "classify", ("1", "2", "10"), "3 distinct whole numbers"),
        (list(range(30)) * 2, "regress", (), "a number"),
        ([0.5, 1.5] * 30, "regress", (), "a number"),
    ],
)
def test_the_target_decides_the_goal_and_a_note_says_so(
    tmp_path: Path, values: list[object], goal: str, classes: tuple[str, ...], word: str
) -> None:
    task = load(saved(tmp_path, x=numbers(), y=values), target="y")
    assert (task.goal, task.classes) == (goal, classes)
    assert any("the target 'y'" in note and word in note for note in task.notes)


def test_the_goal_can_be_given(tmp_path: Path) -> None:
    path = saved(tmp_path, x=numbers(), y=[1, 2, 3] * 20)
    assert load(path, target="y").goal == "classify"
    assert load(path, target="y", goal="regress").goal == "regress"
    path = saved(tmp_path, x=numbers(), y=[0.5, 1.5] * 30)
    assert load(path, target="y", goal="classify").classes == ("0.5", "1.5")


def test_every_split_has_every_class(tmp_path: Path) -> None:
    task = load(saved(tmp_path, x=numbers(), y=["a"] * 57 + ["b"] * 3), target="y")
    for split in (task.train, task.valid, task.test):
        assert set(split.batch(torch.arange(len(split))).targets.tolist()) == {0, 1}
    assert task.facts["class counts"] == {"a": 57, "b": 3}


def test_rows_without_a_target_are_left_out_with_a_note(tmp_path: Path) -> None:
    y = numbers(60, 1)
    y[:5] = np.nan
    task = load(saved(tmp_path, x=numbers(), y=y), target="y")
    assert sum(task.facts["sizes"].values()) == 55
    assert any("5 rows without the target 'y' left out" in note for note in task.notes)


def test_repeated_rows_are_mentioned(tmp_path: Path) -> None:
    x = numbers()
    task = load(saved(tmp_path, x=np.r_[x, x[:7]], y=np.r_[x, x[:7]]), target="y")
    assert any("7 rows repeating an earlier one" in note for note in task.notes)


def test_parquet_keeps_its_types(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "n": pd.array([1, None, 3, 4] * 15, dtype="Int64"),
            "flag": [True, False] * 30,
            "kind": pd.Categorical(["u", "v", "w"] * 20),
            "when": pd.date_range("2020-01-01", periods=60, tz="Europe/Paris"),
            "lists": [[1, 2]] * 60,
            "wait": pd.to_timedelta(np.arange(60) ** 2, unit="s"),
            "y": numbers(),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    task = load(tmp_path / "t.parquet", target="y")
    words = ["kind=u", "kind=v", "kind=w"]
    dates = ["when (day)", "when (month)", "when (weekday)"]
    assert task.facts["features"] == ["n", "flag", *dates, "wait", "n is missing", *words]
    assert task.facts["left out"] == {"they hold lists, not single values": ["lists"]}


def test_other_separators_and_encodings_are_found(tmp_path: Path) -> None:
    lines = ["größe;y", *(f"{i % 7},{i};{i}" for i in range(20))]
    table = "\n".join(line.replace(",", ".") for line in lines)
    task = load(write(tmp_path, table.encode("latin-1")), target="y")
    assert task.facts["features"] == ["größe"]
    assert any("';'" in note for note in task.notes) and any("Latin-1" in note for note in task.notes)
    tabs = table.replace(";", "\t")
    for text, name in ((tabs.encode(), "t.tsv"), (tabs.encode("utf-16"), "u.csv"), (tabs.encode("utf-8-sig"), "v.csv")):
        assert load(write(tmp_path, text, name), target="y").facts["features"] == ["größe"]


GOOD = "\n".join(["x,y", *(f"{i * 0.37 % 1},{i}.5" for i in range(30))])
BAD = {
    "empty file": ("", "y", "is empty"),
    "blank file": (" \n\n", "y", "is empty"),
    "header alone": ("x,y\n", "y", "expected rows under the header; got 0 rows of 2 columns"),
    "binary": (bytes(range(256)) * 9, "y", "is binary"),
    "unknown target": (GOOD.replace("y", "price", 1), "prise", "unknown column 'prise'; did you mean 'price'"),
    "no target": (GOOD, None, "expected a target, the column to predict; the columns are 'x', 'y'"),
    "same names": (GOOD.replace("x,y", "y,y"), "y", "expected different column names; .* has 'y' more than once"),
    "no header": (
        GOOD.replace("x,y", "1,2"),
        "1",
        "expected column names in the first line; .* has numbers there: '1', '2'",
    ),
    "infinite": (GOOD + "\ninf,3", "y", "expected finite numbers; column 'x' has inf in row 31"),
    "too large": (GOOD + "\n1e200,3", "y", "expected finite numbers; column 'x' has 1e\\+200 in row 31"),
    "row too long": (GOOD + "\n1,2,3", "y", "expected rows of one length"),
    "open quote": (GOOD + '\n"1,2', "y", "expected rows of one length"),
    "constant target": ("x,y\n" + "1,5\n2,5\n" * 20, "y", "expected 2 values or more in 'y'; got '5' alone"),
    "one class": ("x,y\n" + "1,a\n2,a\n" * 20, "y", "expected 2 values or more in 'y'; got 'a' alone"),
    "rare class": (
        "x,y\n" + "1,a\n2,b\n" * 20 + "3,c\n",
        "y",
        "expected 3 rows or more .*'c' in 'y' has 1$",
    ),
    "empty target": ("x,y\n" + "1,\n2,\n" * 20, "y", "expected values in the target 'y'; got none"),
    "few rows": ("x,y\n1,2\n3,4\n", "y", "expected 10 rows or more with a target; got 2"),
    "only a target": ("y\n" + "1.5\n2.5\n3.5\n" * 9, "y", "expected a column that helps to predict 'y'; got none"),
    "dates as target": (
        "x,y\n" + "".join(f"{i},2020-01-{i + 1:02}\n" for i in range(31)),
        "y",
        "expected 3 rows or more of each class",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_tables_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, target, message = BAD[case]
    with pytest.raises(InputError, match=message) as caught:
        load(write(tmp_path, text), target=target)
    assert "\n" not in str(caught.value)


def test_words_cannot_be_regressed_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected numbers in the target 'y'; got 'no'"):
        load(saved(tmp_path, x=numbers(), y=["no", "yes"] * 30), target="y", goal="regress")


def test_a_huge_field_does_no_harm(tmp_path: Path) -> None:
    text = "note,x,y\n" + "".join(f"{'z' * (3_000_000 if i == 5 else 1)},{i * 0.37 % 1},{i}.5\n" for i in range(30))
    task = load(write(tmp_path, text), target="y")
    assert "x" in task.facts["features"]
    assert all(len(note) < 1000 for note in task.notes)


def test_options_of_a_forecast_need_a_time(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a table without a time column takes no horizon; got horizon=3"):
        load(write(tmp_path, GOOD), target="y", horizon=3)


def test_a_broken_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a Parquet file; .* cannot be read"):
        load(write(tmp_path, b"PAR1 nothing else", "t.parquet"), target="y")
