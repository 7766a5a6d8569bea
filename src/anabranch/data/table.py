"""From a table with columns of any kind to numbers, and a note for everything that was done on the way."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from anabranch.data.arrays import arrays_task
from anabranch.data.columns import Columns, sort_columns
from anabranch.data.split import Rows, shuffled, stratified
from anabranch.data.task import Task
from anabranch.errors import InputError, unknown

LEAST_ROWS = 10
MOST_CATEGORIES = 20


def table_task(
    frame: pd.DataFrame,
    target: str,
    *,
    name: str,
    goal: Literal["classify", "regress"] | None = None,
    seed: int = 0,
    source: str = "",
    notes: tuple[str, ...] = (),
) -> Task:
    """Predict one column of a table from the others.

    Numbers are standardised, a missing one is the median and is told by a column of its own; words become one column
    each, rare ones sharing one; dates become a day count, a month and a weekday. All of it is learnt from the training
    rows alone (60/20/20, by class where there are classes).

    Arguments:
        target: the column to predict. Words, truth values, and whole numbers with few distinct values are classes.
        goal: decides it the other way.
        seed: draws the splits.

    Raises:
        InputError: if the target is unknown, has one value only, or is not a number where it should be; if there are
            too few rows; if a number is infinite; if no other column says anything.
    """
    frame = checked(frame, name)
    if target not in frame.columns:
        raise unknown("column", target, map(str, frame.columns))
    said = list(notes)
    missing = frame[target].isna()
    if missing.all():
        raise InputError(f"{name}: expected values in the target {target!r}; got none")
    if missing.any():
        said.append(f"{_count(int(missing.sum()), 'row')} without the target {target!r} left out")
        frame = frame[~missing]
    if len(frame) < LEAST_ROWS:
        raise InputError(f"{name}: expected {LEAST_ROWS} rows or more with a target; got {len(frame)}")
    repeated = int(frame.duplicated().sum())
    if repeated:
        said.append(f"{_count(repeated, 'row')} repeat an earlier one; kept, so a test row may have been trained on")
    answer = _Target.read(frame[target], name, goal)
    said += answer.notes
    rows = stratified(answer.values, seed) if answer.classes else shuffled(len(frame), seed)
    columns = sort_columns(frame.drop(columns=target), rows.train, said)
    inputs, features = _encode(columns, rows, said)
    if not features:
        raise InputError(f"{name}: expected a column that helps to predict {target!r}; got none ({'; '.join(said)})")
    return arrays_task(
        name,
        "table",
        inputs,
        answer.values,
        rows,
        classes=answer.classes,
        standardise=False,
        source=source,
        notes=said,
        facts={"rows": len(frame), "target column": target, "features": features},
    )


def checked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same table with plain column names, or an InputError where there is nothing in it or a name stands twice."""
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{name}: expected different column names; got {twice[0]!r} more than once")
    if frame.empty:
        raise InputError(f"{name}: expected rows under the header; got {len(frame)} rows of {frame.shape[1]} columns")
    for column in frame.columns:
        values = frame[column]
        if pd.api.types.is_float_dtype(values.dtype):
            endless = np.isinf(values.to_numpy(np.float64, na_value=np.nan))
            if endless.any():
                row = int(np.flatnonzero(endless)[0]) + 1
                raise InputError(f"{name}: expected finite numbers; column {column!r} is infinite in row {row}")
    return frame


@dataclass(frozen=True)
class _Target:
    values: np.ndarray
    classes: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, column: pd.Series, name: str, goal: str | None) -> "_Target":
        """Class numbers or real numbers, whichever the column is."""
        distinct = column.nunique()
        if distinct < 2:
            raise InputError(
                f"{name}: expected a target with 2 values or more; {column.name!r} is always {column.iloc[0]!r}"
            )
        boolean = pd.api.types.is_bool_dtype(column.dtype)
        number = pd.api.types.is_numeric_dtype(column.dtype) and not boolean
        if goal is None and not number:
            kind = "truth values" if boolean else "words"
            return cls._classes(column, name, f"the target {column.name!r} holds {kind}: classify")
        if goal == "classify":
            return cls._classes(column, name, "")
        if not number:
            raise InputError(
                f"{name}: expected numbers to regress on; the target {column.name!r} holds {column.iloc[0]!r}"
            )
        values = column.to_numpy(np.float64)
        if goal is None and _few_whole_numbers(values, distinct):
            note = f"the target {column.name!r} has {distinct} distinct whole numbers: classify"
            return cls._classes(column.astype(np.int64), name, note)
        return cls(values, notes=[] if goal else [f"the target {column.name!r} is a number: regress"])

    @classmethod
    def _classes(cls, column: pd.Series, name: str, note: str) -> "_Target":
        labels, numbers = np.unique(column.astype(str).to_numpy(str), return_inverse=True)
        if pd.api.types.is_numeric_dtype(column.dtype):
            order = np.argsort(np.argsort(labels.astype(np.float64) if labels.dtype.kind == "U" else labels))
            labels, numbers = labels[np.argsort(order)], order[numbers]
        counts = np.bincount(numbers)
        if counts.min() < 3:
            rare = int(counts.argmin())
            others = int((counts < 3).sum()) - 1
            more = f", and so have {others} others" if others else ""
            raise InputError(
                f"{name}: expected 3 rows or more of each class, one for each split; "
                f"{str(labels[rare])!r} in {column.name!r} has {counts[rare]}{more}"
            )
        return cls(numbers.astype(np.int64), tuple(str(label) for label in labels), [note] if note else [])


def _few_whole_numbers(values: np.ndarray, distinct: int) -> bool:
    """Codes of classes rather than amounts: two values, or at most 20 that come up ten times each on average."""
    if not np.array_equal(values, np.round(values)) or np.abs(values).max() > 2**31:
        return False
    return distinct == 2 or (distinct <= 20 and len(values) >= 10 * distinct)


def _encode(columns: Columns, rows: Rows, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers for every row, with everything learnt from the training rows; and what each number is called."""
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts, features = [], []
    if not columns.numbers.empty:
        scale = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
        scale.fit(columns.numbers.iloc[rows.train])
        parts.append(scale.transform(columns.numbers))
        names = [str(name) for name in scale[0].get_feature_names_out()]
        features += [
            name.removeprefix("missingindicator_") + " is missing" if i >= columns.numbers.shape[1] else name
            for i, name in enumerate(names)
        ]
        for column, count in columns.numbers.isna().sum().items():
            if count:
                notes.append(f"column {column!r}: {_count(int(count), 'missing value')} set to the median")
    if not columns.words.empty:
        words = OneHotEncoder(max_categories=MOST_CATEGORIES, handle_unknown="infrequent_if_exist", sparse_output=False)
        words.fit(columns.words.iloc[rows.train])
        parts.append(words.transform(columns.words))
        names = [str(name) for name in words.get_feature_names_out()]
        features += names
        for column, rare in zip(columns.words.columns, words.infrequent_categories_, strict=True):
            width = columns.words[column].iloc[rows.train].nunique() - (0 if rare is None else len(rare) - 1)
            shared = "" if rare is None else f", {len(rare)} rare ones sharing the last"
            notes.append(f"column {column!r}: words as {_count(int(width), 'column')}{shared}")
    if not parts:
        return np.zeros((0, 0)), []
    return np.concatenate(parts, axis=1), features


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
