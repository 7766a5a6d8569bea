"""One call for every kind of data: a built-in task's name, or the path of a file or folder."""

from inspect import signature
from pathlib import Path
from typing import Any, Literal

from anabranch.data.columns import checked, listed
from anabranch.data.images import images_task
from anabranch.data.npz import npz_task
from anabranch.data.public import PUBLIC, public_images
from anabranch.data.read import FORMATS, read_bytes, read_table
from anabranch.data.series import series_task
from anabranch.data.shipped import TASKS
from anabranch.data.table import table_task
from anabranch.data.task import Task
from anabranch.data.text import bytes_task
from anabranch.errors import InputError, unknown

_TABLES = frozenset({".csv", ".tsv", ".tab", ".parquet", ".pq"})
_TEXTS = frozenset({".txt", ".md", ".rst", ".text"})


def load(
    what: str | Path,
    *,
    target: str | None = None,
    time: str | None = None,
    horizon: int | None = None,
    past: int | None = None,
    goal: Literal["classify", "regress"] | None = None,
    seed: int = 0,
    download: bool = False,
) -> Task:
    """Make a task of a name in `builtin` or of the user's own data.

    By path: a CSV, TSV or Parquet file is a table (give ``target``) or a record to forecast (give ``time``); an NPZ
    file holds arrays x and y; a folder holds a sub-folder of images for each class; any other text is for a language
    model on bytes. By name on request: mnist, fashion-mnist and cifar10. The ETT records and their like are CSV
    files: give ``time="date"``.

    Arguments:
        what: name or path; a built-in name wins.
        target: column to predict. With ``time``, the one column to forecast, instead of all columns of numbers.
        time: column that orders the rows, for a forecast.
        horizon: frames to forecast; 24 unless the record is short.
        past: frames that a forecast reads (96 unless the record is short), or bytes that a language model reads (128).
        goal: classify or regress, where the target's values would suggest the other.
        seed: draws the splits of tables, arrays and images; all other splits are fixed, those of built-in tasks always.
        download: whether mnist, fashion-mnist and cifar10 may be downloaded.

    Raises:
        InputError: if something is wrong with the data or an option does not apply to it, in one line.
    """
    if not isinstance(what, str | Path):
        raise InputError(f"expected the name of a task or a path; got an object of type {type(what).__name__}")
    if goal not in (None, "classify", "regress"):
        raise InputError(f"expected the goal classify or regress; got {goal!r}")
    for option, count in (("past", past), ("horizon", horizon)):
        if count is not None and not isinstance(count, int):
            raise InputError(f"expected a whole number for {option}; got {count!r}")
    name = str(what)
    given = {"target": target, "time": time, "horizon": horizon, "past": past, "goal": goal}
    given = {option: value for option, value in given.items() if value is not None}
    if name in TASKS:
        make = TASKS[name]
        _refuse(given, tuple(signature(make).parameters), f"the built-in task {name!r}")
        return make(**given)
    if name in PUBLIC:
        _refuse(given, (), f"the task {name!r}")
        return public_images(name, download)
    path = _existing(name)
    if path.is_dir():
        _refuse(given, (), "a folder of images")
        return images_task(path, seed)
    if not path.is_file():
        raise InputError(f"expected {FORMATS}; {name!r} is neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix in _TABLES:
        return _table(path, given, seed)
    if suffix == ".npz":
        _refuse(given, ("goal",), "an NPZ file")
        return npz_task(path, goal, seed)
    _refuse(given, ("past",), f"a file that ends in {suffix!r} and is read as text")
    return _text(path, past, anything=suffix in _TEXTS)


def _refuse(given: dict[str, Any], known: tuple[str, ...], what: str) -> None:
    for option, value in given.items():
        if option not in known:
            raise InputError(f"{what} takes no {option}; got {option}={value!r}")


def _existing(name: str) -> Path:
    """The path, or an error with the nearest names of tasks and of files beside it."""
    path = Path(name).expanduser()
    try:
        if name and path.exists():
            return path
        looks_like_path = len(path.parts) > 1 or path.suffix
        beside = [str(path.parent / other.name) for other in path.parent.iterdir()] if looks_like_path else []
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise InputError(f"no file or folder {name!r}; {str(path.parent)!r} is not there either") from None
        raise InputError(f"cannot read {name[:200]!r}: {getattr(error, 'strerror', None) or error}") from None
    raise unknown("file or folder" if looks_like_path else "task", name, [*TASKS, *PUBLIC, *beside])


def _table(path: Path, given: dict[str, Any], seed: int) -> Task:
    notes: list[str] = []
    frame = read_table(path, notes)
    if "time" in given:
        _refuse(given, ("target", "time", "horizon", "past"), "a forecast")
        return series_task(frame, name=path.name, source=str(path), notes=notes, **given)
    _refuse(given, ("target", "goal"), "a table without a time column")
    if "target" not in given:
        columns = listed(checked(frame, path.name).columns, 40)
        raise InputError(f"{path.name}: expected a target, the column to predict; the columns are {columns}")
    return table_task(frame, name=path.name, seed=seed, source=str(path), notes=notes, **given)


def _text(path: Path, past: int | None, anything: bool) -> Task:
    """90/5/5 of the bytes, in their order; ``anything`` also takes bytes that are not UTF-8."""
    raw = read_bytes(path)
    if not anything:
        try:
            raw.decode()
        except UnicodeDecodeError:
            raise InputError(f"expected {FORMATS}; {str(path)!r} is binary") from None
    ends = int(0.9 * len(raw)), int(0.95 * len(raw))
    notes = ["the first 90 % of the bytes train, the next 5 % validate, the last 5 % test"]
    return bytes_task(
        path.name, raw[: ends[0]], raw[ends[0] : ends[1]], raw[ends[1] :], past=past, source=str(path), notes=notes
    )
