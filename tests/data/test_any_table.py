"""Tables of any content either become a task of finite numbers or are refused in one line; nothing else happens."""

import tempfile
from pathlib import Path

import pandas as pd
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anabranch.data import Samples, load
from anabranch.errors import InputError

CELLS = st.one_of(
    st.floats(width=64),
    st.integers(-(10**25), 10**25),
    st.booleans(),
    st.none(),
    st.dates().map(str),
    st.datetimes().map(str),
    st.text(max_size=8),
    st.sampled_from(["a", "b", "NA", "", "1,5", "1e999", "-inf", "0x1F", "١٢", "12:30", '"', "\t"]),
)
COLUMN = st.one_of(
    st.lists(st.floats(-1e6, 1e6), min_size=30, max_size=30),
    st.lists(st.integers(0, 3), min_size=30, max_size=30),
    st.lists(st.sampled_from(["u", "v", "w", None]), min_size=30, max_size=30),
    st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=30, max_size=30),
    st.lists(CELLS, min_size=30, max_size=30),
)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=6)


def finite_or_refused(path: Path, **options: str) -> None:
    try:
        task = load(path, **options)  # pyright: ignore[reportArgumentType]
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 2000
        return
    for split in (task.train, task.valid, task.test):
        batch = split.batch(torch.arange(len(split)))
        assert len(batch.inputs) >= 1
        assert torch.isfinite(batch.inputs).all() and torch.isfinite(batch.targets).all()


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(NAMES, COLUMN, min_size=2, max_size=4), st.sampled_from(["csv", "tsv"]))
def test_any_table(columns: dict[str, list[object]], suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{suffix}"
        pd.DataFrame(columns).to_csv(path, index=False, sep="," if suffix == "csv" else "\t")
        finite_or_refused(path, target=list(columns)[-1])
        finite_or_refused(path, time=next(iter(columns)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "tsv", "parquet", "npz", "txt", "xyz"]))
def test_any_bytes(raw: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"t.{suffix}"
        path.write_bytes(raw)
        finite_or_refused(path, **({"target": "y"} if suffix in ("csv", "tsv", "parquet") else {}))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(-1e9, 1e9)), min_size=12, max_size=50, unique=True))
def test_numbers_come_back_from_the_task(pairs: list[tuple[float, float]]) -> None:
    table = pd.DataFrame(pairs, columns=["x", "y"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.csv"
        table.to_csv(path, index=False)
        try:
            task = load(path, target="y", goal="regress")
        except InputError as error:
            assert table["y"].nunique() < 2 or "got none" in str(error)
            return
    splits = (task.train, task.valid, task.test)
    assert all(isinstance(split, Samples) for split in splits)
    targets = torch.cat([split.batch(torch.arange(len(split))).targets for split in splits]).double()
    told = task.facts["target"]
    back = (targets * told["standard deviation"] + told["mean"]).sort().values
    reach = float(targets.abs().max()) * told["standard deviation"] + abs(told["mean"])
    assert torch.allclose(back, torch.tensor(sorted(table["y"]), dtype=torch.float64), rtol=0, atol=1e-6 * reach + 1e-9)
