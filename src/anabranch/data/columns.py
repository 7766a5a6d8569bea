"""What kind of column each column of a table is, and which say nothing."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from anabranch.errors import InputError

MOSTLY = 0.9  # share of a text column's values that must be numbers for the others to count as missing
LARGEST = 1e100  # beyond this a variance no longer fits into a double
MISSING = "(missing)"
_MANY = (list, dict, set, tuple, np.ndarray)


@dataclass
class Columns:
    """The columns worth keeping: numbers (NaN where missing) and words (strings); and why the others were left out."""

    numbers: dict[str, Any] = field(default_factory=dict)
    words: dict[str, Any] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, name: str, reason: str) -> None:
        self.left_out.setdefault(reason, []).append(name)
        self.numbers.pop(name, None)
        self.words.pop(name, None)

    def notes(self) -> list[str]:
        """A line for each reason to leave columns out."""
        return [f"left out, because {reason}: {listed(names)}" for reason, names in self.left_out.items()]


def plural(number: int, one: str, many: str = "") -> str:
    """A number with its noun: ``1 row``, ``2 rows``."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def listed(names: Iterable[object], most: int = 12) -> str:
    """Names in quotes with commas between, cut where they get too many."""
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def checked(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The same table with plain column names.

    Raises:
        InputError: if the table is empty, a column name stands twice, or a number is infinite or nearly so.
    """
    frame = frame.set_axis([str(column) for column in frame.columns], axis=1).reset_index(drop=True)
    twice = frame.columns[frame.columns.duplicated()]
    if len(twice):
        raise InputError(f"{name}: expected different column names; got {twice[0]!r} more than once")
    if frame.empty:
        raise InputError(f"{name}: expected rows under the header; got {len(frame)} rows of {frame.shape[1]} columns")
    for column in frame.columns:
        values: Any = frame[column]
        if pd.api.types.is_float_dtype(values.dtype):
            numbers = values.to_numpy(np.float64, na_value=np.nan)
            endless = np.flatnonzero(np.abs(numbers) > LARGEST)
            if len(endless):
                row = int(endless[0])
                raise InputError(
                    f"{name}: expected finite numbers; column {column!r} has {numbers[row]} in row {row + 1}"
                )
    return frame


def sort_columns(frame: pd.DataFrame, train: np.ndarray, notes: list[str]) -> Columns:
    """Sort columns into numbers and words, turn dates into numbers, and leave out what says nothing.

    Arguments:
        train: the rows that decide whether a column is constant.
        notes: gets a line on every column that is not taken as it stands.
    """
    columns = Columns()
    for name in map(str, frame.columns):
        column: Any = frame[name]
        if column.isna().all():
            columns.leave_out(name, "no row has a value")
            continue
        if _is_object(column) and column.map(lambda value: isinstance(value, _MANY)).any():
            columns.leave_out(name, "they hold lists, not single values")
            continue
        numbers = as_numbers(column, notes)
        dates = as_dates(column) if numbers is None else None
        if numbers is not None:
            columns.numbers[name] = numbers
            if _counts_rows(numbers):
                columns.leave_out(name, "they only number the rows")
        elif dates is not None:
            notes.append(f"column {name!r}: dates as day count, month and weekday")
            columns.numbers |= _calendar(name, dates)
        else:
            text = column.astype(object).where(column.notna(), MISSING).astype(str)
            columns.words[name] = text
            if text.nunique() > max(20, 0.5 * len(text)):
                columns.leave_out(name, "they hold a different text in most rows")
    for kind in (columns.numbers, columns.words):
        for name, column in list(kind.items()):
            known = column.iloc[train]
            if known.isna().all():
                columns.leave_out(name, "no training row has a value")
            elif known.nunique(dropna=False) < 2:
                columns.leave_out(name, "they never change in the training rows")
    return columns


def as_numbers(column: Any, notes: list[str] | None = None) -> Any:
    """The column as floats (NaN where missing), or None if it holds something else.

    A text column counts as numbers if nine in ten of its values are; the others become missing, with a note.
    """
    kind = column.dtype
    if pd.api.types.is_timedelta64_dtype(kind):
        return column.dt.total_seconds()
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):  # truth values too
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index, name=column.name)
    if not (_is_object(column) or isinstance(kind, pd.StringDtype)):
        return None
    codes, distinct = pd.factorize(column.astype(object))  # each text is read once, however often it stands there
    read = np.append(np.asarray(pd.to_numeric(distinct, errors="coerce"), np.float64), np.nan)
    numbers: Any = pd.Series(read[codes], column.index, name=column.name)
    numbers = numbers.where(numbers.abs() <= LARGEST)
    others = column[numbers.isna() & column.notna()]
    if len(others) > (1 - MOSTLY) * int(column.notna().sum()):
        return None
    if len(others) and notes is not None:
        notes.append(
            f"column {column.name!r}: {plural(len(others), 'value')} of {len(column)} not numbers, such as "
            f"{str(others.iloc[0])[:40]!r}; taken as missing"
        )
    return numbers


def as_dates(column: Any) -> Any:
    """The column as points in time (UTC, NaT where missing), or None if any value is something else."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.dt.tz_convert(None) if getattr(column.dtype, "tz", None) is not None else column
    if not (_is_object(column) or isinstance(column.dtype, pd.StringDtype)):
        return None
    codes, distinct = pd.factorize(column.astype(object))
    if any(isinstance(value, str) and not any(map(str.isdigit, value)) for value in distinct):
        return None
    forms: tuple[dict[str, Any], ...] = ({"format": "ISO8601"}, {}, {"dayfirst": True})
    for options in forms:
        with warnings.catch_warnings():
            # Pandas warns that it guesses the form from the first value; a value of another form still raises.
            warnings.simplefilter("ignore")
            try:
                read = pd.to_datetime(pd.Series(distinct), utc=True, **options).dt.tz_convert(None)
            except (ValueError, TypeError, OverflowError):
                continue
            return pd.Series(read.reindex(codes).to_numpy(), column.index, name=column.name)
    return None


def _is_object(column: Any) -> bool:
    return column.dtype == np.dtype(object)


def _calendar(name: str, dates: Any) -> dict[str, Any]:
    days = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return {
        f"{name} (day)": days.astype(np.float64),
        f"{name} (month)": dates.dt.month.astype(np.float64),
        f"{name} (weekday)": dates.dt.weekday.astype(np.float64),
    }


def _counts_rows(values: Any) -> bool:
    """Whether the column is 0, 1, 2, ... or 1, 2, 3, ... down the rows."""
    numbers = values.to_numpy()
    return len(numbers) > 2 and numbers[0] in (0, 1) and np.array_equal(numbers, numbers[0] + np.arange(len(numbers)))
