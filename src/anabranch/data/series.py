"""Forecasts from the user's own table: rows in the order of time, one channel for each column of numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from anabranch.data.columns import as_dates, as_numbers, checked, listed, plural
from anabranch.data.forecasting import record_task
from anabranch.data.task import Task
from anabranch.errors import InputError, unknown


def series_task(
    frame: pd.DataFrame,
    time: str,
    *,
    name: str,
    target: str | None = None,
    past: int | None = None,
    horizon: int | None = None,
    source: str = "",
    notes: Sequence[str] = (),
) -> Task:
    """Forecast the columns of numbers of a table, all from all of them; or one column from its own past.

    Rows are sorted by time and taken as evenly spaced. Gaps are filled by straight lines. Splits: see `record_task`.

    Arguments:
        time: column of dates or numbers, each at most once.
        target: forecast this column alone, from its own past alone; the others are left out.
        past, horizon: frames to read and to predict.

    Raises:
        InputError: if the times cannot be read or stand twice, no column holds numbers, or there are too few rows.
    """
    frame = checked(frame, name)
    for column in (time, target):
        if column is not None and column not in frame.columns:
            raise unknown("column", column, map(str, frame.columns))
    if time == target:
        raise InputError(f"{name}: expected a target other than the time; got {time!r} for both")
    said = list(notes)
    when = _times(frame[time], name)
    order = np.argsort(when, kind="stable")
    if (order[1:] < order[:-1]).any():
        said.append(f"rows sorted by {time!r}")
    _say_if_uneven(when[order], time, said)
    channels, left_out = {}, []
    for column in frame.columns if target is None else [target]:
        values: Any = frame[column]
        values = None if column == time or values.isna().all() else as_numbers(values, said)
        if values is not None and np.nanstd(values.to_numpy()[order][: len(frame) * 7 // 10]) > 1e-12:
            channels[column] = values.iloc[order].reset_index(drop=True)
        elif column != time:
            left_out.append(column)
    if not channels:
        what = "columns of numbers that change" if target is None else f"numbers that change in the target {target!r}"
        raise InputError(f"{name}: expected {what} in the first 70 % of the rows; got none")
    if left_out:
        said.append(f"left out, because they hold no numbers or never change: {listed(left_out)}")
    if target is not None and frame.shape[1] > 2:
        said.append(
            f"left out, because only {target!r} is forecast: {listed(c for c in frame if c not in (time, target))}"
        )
    record = pd.DataFrame(channels)
    gaps = {column: int(count) for column, count in record.isna().sum().items() if count}
    if gaps:
        filled = listed(f"{column} ({count})" for column, count in gaps.items())
        said.append(f"gaps filled by straight lines between their neighbours: {filled}")
        record = record.interpolate(limit_direction="both")
    return record_task(
        name, record.to_numpy(np.float64), list(channels), past=past, horizon=horizon, source=source, notes=said
    )


def _times(column: Any, name: str) -> np.ndarray:
    """The times as numbers that sort and subtract: as they are, or dates as days."""
    if column.isna().any():
        row = int(np.flatnonzero(column.isna())[0]) + 1
        raise InputError(f"{name}: expected a time in every row; {column.name!r} has none in row {row}")
    dates = _compact_dates(column)
    if dates is None and pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        times = column.to_numpy(np.float64)
    else:
        dates = as_dates(column) if dates is None else dates
        if dates is None:
            wrong = next((value for value in column if as_dates(pd.Series([value])) is None), column.iloc[0])
            raise InputError(
                f"{name}: expected dates such as 2024-05-31 or numbers in the time column {column.name!r}; "
                f"got {str(wrong)[:40]!r}"
            )
        times = ((dates - pd.Timestamp(0)) / pd.Timedelta(days=1)).to_numpy(np.float64)
    values, counts = np.unique(times, return_counts=True)
    if counts.max() > 1:
        first = str(column.iloc[int(np.flatnonzero(times == values[counts.argmax()])[0])])[:40]
        raise InputError(
            f"{name}: expected each time once; {column.name!r} has {plural(int((counts > 1).sum()), 'time')} more than "
            f"once, such as {first!r}; give each of several series a column of its own"
        )
    return times


def _compact_dates(column: Any) -> Any:
    """Whole numbers that all read as dates, such as 20240531, as dates; None for any others."""
    if not pd.api.types.is_integer_dtype(column.dtype) or not column.between(1000_01_01, 2999_12_31).all():
        return None
    dates: Any = pd.to_datetime(column.astype(str), format="%Y%m%d", errors="coerce")
    return None if dates.isna().any() else dates


def _say_if_uneven(times: np.ndarray, name: str, notes: list[str]) -> None:
    """Months and leap years differ by a tenth; more than that is worth a line."""
    steps = np.diff(times)
    if len(steps) and steps.max() > 1.2 * steps.min():
        notes.append(f"steps of {name!r} differ, from {steps.min():.3g} to {steps.max():.3g}; taken as even")
