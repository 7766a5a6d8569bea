"""What is to be predicted: classes or numbers, read from one column."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from anabranch.data.columns import as_numbers, plural
from anabranch.errors import InputError

Answer = Literal["classify", "regress"]


@dataclass(frozen=True)
class Target:
    """Class numbers with the classes' names, or real numbers with none."""

    values: np.ndarray
    classes: tuple[str, ...] = ()


def read_target(column: Any, name: str, goal: Answer | None, notes: list[str], least: int = 3) -> Target:
    """Take a column without missing values as classes or as numbers.

    Words and truth values are classes. So are whole numbers with two distinct values, or with at most 20 that come up
    ten times each on average. Everything else is a number.

    Arguments:
        column: a pandas series.
        name: of the data, for messages.
        goal: decides instead of the rule above.
        notes: gets a line on what was decided.
        least: rows that each class must have.

    Raises:
        InputError: if the column has one value only, a class has too few rows, or a number is asked for and not there.
    """
    distinct = int(column.nunique())
    if distinct < 2:
        raise InputError(
            f"{name}: expected 2 values or more in {column.name!r}; got {str(column.iloc[0])[:40]!r} alone"
        )
    kind = column.dtype
    if pd.api.types.is_datetime64_any_dtype(kind) or pd.api.types.is_timedelta64_dtype(kind):
        raise InputError(f"{name}: expected classes or numbers in the target {column.name!r}; got dates or durations")
    number = pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_bool_dtype(kind)
    if goal == "classify":
        return _classes(column, name, number, least)
    if goal is None and not number:
        notes.append(f"the target {column.name!r} holds {_kind(column)}: classify")
        return _classes(column, name, False, least)
    values = as_numbers(column)
    if values is None or bool(values.isna().any()):
        raise InputError(f"{name}: expected numbers in the target {column.name!r}; got {str(column.iloc[0])[:40]!r}")
    values = values.to_numpy(np.float64)
    if goal is None and _are_codes(values, distinct):
        notes.append(f"the target {column.name!r} has {distinct} distinct whole numbers: classify")
        return _classes(pd.Series(values.astype(np.int64), name=column.name), name, True, least)
    if goal is None:
        notes.append(f"the target {column.name!r} is a number: regress")
    return Target(values)


def _kind(column: Any) -> str:
    return "truth values" if pd.api.types.is_bool_dtype(column.dtype) else "words"


def _are_codes(values: np.ndarray, distinct: int) -> bool:
    if not np.array_equal(values, np.round(values)) or np.abs(values).max() > 2**31:
        return False
    return distinct == 2 or (distinct <= 20 and len(values) >= 10 * distinct)


def _classes(column: Any, name: str, number: bool, least: int) -> Target:
    values = column.to_numpy() if number else column.astype(str).to_numpy(object)
    labels, numbers = np.unique(values, return_inverse=True)
    counts = np.bincount(numbers)
    if counts.min() < least:
        rare = int(counts.argmin())
        others = int((counts < least).sum()) - 1
        more = f", and {plural(others, 'other class', 'other classes')} too few as well" if others else ""
        raise InputError(
            f"{name}: expected {least} rows or more of each class, so that every split has some; "
            f"{str(labels[rare])[:40]!r} in {column.name!r} has {counts[rare]}{more}"
        )
    return Target(numbers.astype(np.int64), tuple(str(label) for label in labels))
