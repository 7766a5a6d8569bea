"""What kind of column each column of a table is, and which say nothing."""

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

MOSTLY = 0.9  # share of a column's values that must be numbers for the others to count as missing
MISSING = "(missing)"


@dataclass(frozen=True)
class Columns:
    """The columns worth keeping: numbers (floats, NaN where missing) and words (strings)."""

    numbers: pd.DataFrame
    words: pd.DataFrame


def sort_columns(frame: pd.DataFrame, train: np.ndarray, notes: list[str]) -> Columns:
    """Sort columns into numbers and words, turn dates into numbers, and drop what says nothing.

    Arguments:
        train: the rows that decide whether a column is constant.
        notes: a line is added for every column that is dropped or not taken as it stands.
    """
    numbers: dict[str, pd.Series] = {}
    words: dict[str, pd.Series] = {}
    for name in frame.columns:
        column = frame[name]
        if column.isna().all():
            notes.append(f"column {name!r}: left out, no value in it")
            continue
        read = _numbers(column, notes)
        dates = _dates(column) if read is None else None
        if read is not None:
            if _counts_rows(read):
                notes.append(f"column {name!r}: left out, it numbers the rows")
            else:
                numbers[name] = read
        elif dates is not None:
            notes.append(f"column {name!r}: dates as day, month and weekday")
            numbers |= _calendar(name, dates)
        elif column.map(lambda value: isinstance(value, (list, dict, set, tuple, np.ndarray))).any():
            notes.append(f"column {name!r}: left out, it holds lists")
        else:
            text = column.astype(object).where(column.notna(), MISSING).astype(str)
            distinct = text.nunique()
            if distinct > 0.5 * len(text) and distinct > 20:
                notes.append(
                    f"column {name!r}: left out, {distinct} different texts in {len(text)} rows only tell rows apart"
                )
            else:
                words[name] = text
    for kind in (numbers, words):
        for name in list(kind):
            known = kind[name].iloc[train]
            distinct, some_missing = known.nunique(), bool(known.isna().any())
            if distinct + some_missing < 2 or distinct == 0:
                what = "no value" if distinct == 0 else "always the same value"
                notes.append(f"column {name!r}: left out, {what} in the training rows")
                del kind[name]
    return Columns(pd.DataFrame(numbers, index=frame.index), pd.DataFrame(words, index=frame.index))


def _numbers(column: pd.Series, notes: list[str]) -> pd.Series | None:
    """The column as floats, or None if it holds something else."""
    kind = column.dtype
    if pd.api.types.is_timedelta64_dtype(kind):
        return column.dt.total_seconds()
    if pd.api.types.is_numeric_dtype(kind) and not pd.api.types.is_complex_dtype(kind):  # truth values too
        return pd.Series(column.to_numpy(np.float64, na_value=np.nan), column.index)
    if not (pd.api.types.is_string_dtype(kind) or pd.api.types.is_object_dtype(kind)):
        return None
    read = pd.to_numeric(column.astype(object).where(column.notna(), None), errors="coerce").astype(np.float64)
    read = read.where(np.isfinite(read))
    others = column[read.isna() & column.notna()]
    if len(others) > (1 - MOSTLY) * column.notna().sum():
        return None
    if len(others):
        notes.append(
            f"column {column.name!r}: {len(others)} of {len(column)} values are not numbers, such as "
            f"{str(others.iloc[0])[:40]!r}; taken as missing"
        )
    return read


def _dates(column: pd.Series) -> pd.Series | None:
    """The column as points in time (UTC), or None if any value is something else."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return column.dt.tz_convert(None) if getattr(column.dtype, "tz", None) is not None else column
    return parse_dates(column) if pd.api.types.is_string_dtype(column.dtype) or column.dtype == object else None


def parse_dates(column: pd.Series) -> pd.Series | None:
    """Texts as points in time (UTC), or None if any of them is not one."""
    known = column.dropna()
    if known.map(lambda value: isinstance(value, str) and not any(map(str.isdigit, value))).any():
        return None
    for form in ("ISO8601", None):
        with warnings.catch_warnings():
            # Pandas warns that it guesses the form from the first value; a value of another form still raises.
            warnings.simplefilter("ignore")
            try:
                return pd.to_datetime(column, format=form, utc=True).dt.tz_convert(None)
            except (ValueError, TypeError, OverflowError):
                continue
    return None


def _calendar(name: str, dates: pd.Series) -> dict[str, pd.Series]:
    days = (dates - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return {
        f"{name} (day)": days.astype(np.float64),
        f"{name} (month)": dates.dt.month.astype(np.float64),
        f"{name} (weekday)": dates.dt.weekday.astype(np.float64),
    }


def _counts_rows(values: pd.Series) -> bool:
    """Whether the column runs 0, 1, 2, ... or 1, 2, 3, ... down the rows, in any order."""
    return (
        len(values) > 20
        and bool(values.notna().all())
        and bool(np.array_equal(np.sort(values), values.min() + np.arange(len(values))))
        and values.min() in (0, 1)
    )
