"""From a table with columns of any kind to numbers, and a note for everything that was done on the way."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from anabranch.data.arrays import arrays_task
from anabranch.data.columns import Columns, as_numbers, checked, listed, plural, sort_columns
from anabranch.data.split import Rows, shuffled, stratified
from anabranch.data.target import Answer, read_target
from anabranch.data.task import Task
from anabranch.errors import InputError, unknown

LEAST_ROWS = 10
MOST_WORDS = 20


def table_task(
    frame: pd.DataFrame,
    target: str,
    *,
    name: str,
    goal: Answer | None = None,
    seed: int = 0,
    rows: Rows | None = None,
    source: str = "",
    notes: Sequence[str] = (),
) -> Task:
    """Predict one column of a table from the others.

    Numbers are standardised; a missing one becomes the median, and a column of its own tells. Words become one column
    each, of which the rarest share one beyond 20. Dates become a day count, a month and a weekday. All of it is learnt
    from the training rows alone.

    Arguments:
        target: the column to predict, see `anabranch.data.target.read_target`. Rows without it are left out.
        name: of the data, for messages.
        goal: whether to classify or to regress, where the target alone would not tell.
        seed: draws the splits: 60/20/20, of every class where there are classes.
        rows: the splits, where they are given; the target must not have gaps then.

    Raises:
        InputError: if the table or the target cannot be used; the message says why.
    """
    frame = checked(frame, name)
    if target not in frame.columns:
        raise unknown("column", target, map(str, frame.columns))
    said = list(notes)
    column: Any = frame[target]
    if rows is None:
        frame, column = _with_target(frame, column, goal, name, said)
    if len(frame) < LEAST_ROWS:
        raise InputError(f"{name}: expected {LEAST_ROWS} rows or more with a target; got {len(frame)}")
    answer = read_target(column, name, goal, said, least=3 if rows is None else 1)
    if rows is None:
        rows = stratified(answer.values, seed) if answer.classes else shuffled(len(frame), seed)
    columns = sort_columns(frame.drop(columns=target), rows.train, said)
    said += columns.notes()
    inputs, features = _encoded(columns, rows.train, said)
    if not features:
        raise InputError(f"{name}: expected a column that helps to predict {target!r}; got none; {'; '.join(said)}")
    facts = {"rows": len(frame), "target column": target, "features": features, "left out": columns.left_out}
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
        facts=facts,
    )


def _with_target(
    frame: pd.DataFrame, column: Any, goal: Answer | None, name: str, notes: list[str]
) -> tuple[pd.DataFrame, Any]:
    """The rows that have a target, and the target."""
    if column.nunique() > MOST_WORDS and goal != "classify" and not pd.api.types.is_bool_dtype(column.dtype):
        numbers = as_numbers(column, notes)
        column = column if numbers is None else numbers
    missing = column.isna()
    if missing.all():
        raise InputError(f"{name}: expected values in the target {column.name!r}; got none")
    if missing.any():
        notes.append(f"{plural(int(missing.sum()), 'row')} without the target {column.name!r} left out")
    known: Any = frame[~missing]
    try:
        repeated = int(known.duplicated().sum())
    except TypeError:  # lists cannot be compared this way
        repeated = 0
    if repeated:
        notes.append(f"{plural(repeated, 'row')} repeating an earlier one kept: the splits may share them")
    return known, column[~missing]


def _encoded(columns: Columns, train: np.ndarray, notes: list[str]) -> tuple[np.ndarray, list[str]]:
    """Numbers for every row, with everything learnt from the training rows; and what each number is called."""
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    parts, features = [], []
    if columns.numbers:
        values = np.stack([column.to_numpy(np.float64) for column in columns.numbers.values()], axis=1)
        names = list(columns.numbers)
        imputer = SimpleImputer(strategy="median", add_indicator=True).fit(values[train])
        filled: Any = imputer.transform(values)
        parts.append(StandardScaler().fit(filled[train]).transform(filled))
        told = [] if imputer.indicator_ is None else [names[i] for i in imputer.indicator_.features_]
        features += names + [f"{column} is missing" for column in told]
        gaps = {column: int(np.isnan(values[:, i]).sum()) for i, column in enumerate(names)}
        gaps = [f"{column} ({count})" for column, count in gaps.items() if count]
        if gaps:
            notes.append(f"missing numbers set to the median: {listed(gaps)}")
    if columns.words:
        # Numbers in the place of words, because the encoder is slow on words.
        coded = {column: pd.factorize(words, sort=True) for column, words in columns.words.items()}
        values = np.stack([codes for codes, _ in coded.values()], axis=1)
        encoder = OneHotEncoder(max_categories=MOST_WORDS, handle_unknown="infrequent_if_exist", sparse_output=False)
        parts.append(encoder.fit(values[train]).transform(values))
        told, rare = [], []
        known: Any = zip(coded.items(), encoder.categories_, encoder.infrequent_categories_, strict=True)
        for (column, (_, words)), common, shared in known:
            if shared is not None:
                common = np.setdiff1d(common, shared)
                rare.append(f"{column} ({len(shared)} of {len(common) + len(shared)})")
            told += [f"{column}={words[code]}"[:80] for code in common] + [f"{column}=(rare)"] * (shared is not None)
        features += told
        notes.append(f"one column for each word of: {listed(coded)}")
        if rare:
            notes.append(f"rare words sharing one column: {listed(rare)}")
    return (np.concatenate(parts, axis=1) if parts else np.zeros((0, 0))), features
