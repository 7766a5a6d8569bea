"""Reading files that may be anything: each surprise becomes one line that says what was expected and what came."""

import csv
import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from anabranch.data.columns import listed, plural
from anabranch.errors import InputError

FORMATS = "a CSV, TSV, Parquet, NPZ or text file, or a folder of images by class"
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r\f"))


def one_line(error: BaseException) -> str:
    """What an error of another library says, short enough for one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_bytes(path: Path) -> bytes:
    """All of a file that is there, can be read and is not empty."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror or error}") from None
    if not raw.strip():
        raise InputError(f"expected {FORMATS}; {str(path)!r} is empty")
    return raw


def read_table(path: Path, notes: list[str]) -> pd.DataFrame:
    """A CSV, TSV or Parquet file as a table."""
    raw = read_bytes(path)
    if path.suffix.lower() in (".parquet", ".pq"):
        try:
            return pd.read_parquet(io.BytesIO(raw))
        except Exception as error:  # pyarrow raises errors of many kinds on broken files
            raise InputError(f"expected a Parquet file; {str(path)!r} cannot be read: {one_line(error)}") from None
    text = _decoded(raw, path, notes)
    separator = _separator(text, "\t" if path.suffix.lower() in (".tsv", ".tab") else ",", notes)
    return _parsed(text, separator, path)


def _decoded(raw: bytes, path: Path, notes: list[str]) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return raw.decode("utf-16")
        except UnicodeDecodeError:
            raise InputError(f"expected text with commas; {str(path)!r} is binary") from None
    head = raw[: 1 << 16]
    if b"\0" in raw or len(head) - len(head.translate(None, _CONTROL)) > 0.01 * len(head):
        raise InputError(f"expected text with commas; {str(path)!r} is binary")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        notes.append("the file is not UTF-8; read as Latin-1")
        return raw.decode("latin-1")


def _separator(text: str, usual: str, notes: list[str]) -> str:
    header = text.lstrip().split("\n", 1)[0]
    if usual in header:
        return usual
    found = max(",;\t|", key=header.count)
    if found not in header:
        return usual
    notes.append(f"columns are separated by {found!r}")
    return found


def _parsed(text: str, separator: str, path: Path) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # Without this, pandas drops the last fields of rows that are too long, and only warns.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            first = pd.read_csv(
                io.StringIO(text), sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False
            )
            names = [str(name).strip() for name in first.iloc[0]]
            frame = pd.read_csv(io.StringIO(text), sep=separator, index_col=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.ParserWarning, pd.errors.EmptyDataError) as error:
        raise InputError(f"expected rows of one length; {str(path)!r} has others: {one_line(error)}") from None
    except (ValueError, OverflowError, MemoryError, csv.Error) as error:
        raise InputError(f"expected a table; {str(path)!r} cannot be read: {one_line(error)}") from None
    if all(map(_is_number, names)):
        raise InputError(
            f"expected column names in the first line; {str(path)!r} has numbers there: {listed(names, 4)}"
        )
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise InputError(f"expected different column names; {str(path)!r} has {listed(twice)} more than once")
    return frame


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an NPZ file by lower-case name; nothing in it is ever unpickled."""
    raw = read_bytes(path)
    try:
        archive: Any = np.load(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"expected an NPZ archive; {str(path)!r} cannot be read: {one_line(error)}") from None
    if not hasattr(archive, "files"):
        raise InputError(f"expected an NPZ archive; {str(path)!r} holds one array without a name")
    arrays = {}
    for name in archive.files:
        try:
            arrays[name.lower()] = archive[name]
        except Exception as error:  # whatever a broken archive may cause
            what = "Python objects, which are not read" if "pickle" in str(error) else one_line(error)
            raise InputError(f"expected arrays of numbers; {name!r} in {str(path)!r} holds {what}") from None
    if not arrays:
        raise InputError(f"expected arrays x and y; {str(path)!r} has {plural(0, 'array')}")
    return arrays
