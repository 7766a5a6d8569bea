"""Arrays, texts and paths: what is read, and what is refused."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from anabranch.data import Samples, Windows, load
from anabranch.errors import InputError

RNG = np.random.default_rng(0)


def saved(folder: Path, **arrays: object) -> Path:
    np.savez(folder / "a.npz", **arrays)  # pyright: ignore[reportArgumentType]
    return folder / "a.npz"


def classes(count: int) -> np.ndarray:
    return np.arange(count) % 3


@pytest.mark.parametrize(
    ("x", "kind", "shape"),
    [
        (RNG.normal(size=(60, 7)), "table", (7,)),
        (RNG.normal(size=(60, 20, 3)), "sequence", (20, 3)),
        (RNG.normal(size=(60, 20, 3)).astype(np.float32), "sequence", (20, 3)),
        (RNG.normal(size=(60, 8, 8)), "image", (1, 8, 8)),
        (RNG.integers(0, 255, (60, 8, 6)).astype(np.uint8), "image", (1, 8, 6)),
        (RNG.integers(0, 255, (60, 8, 6, 3)), "image", (3, 8, 6)),
        (RNG.normal(size=(60, 3, 8, 6)), "image", (3, 8, 6)),
    ],
    ids=["table", "sequence", "single precision", "square", "bytes", "channels last", "channels first"],
)
def test_the_axes_of_x_tell_what_it_is(tmp_path: Path, x: np.ndarray, kind: str, shape: tuple[int, ...]) -> None:
    task = load(saved(tmp_path, X=x, y=classes(60)))
    assert (task.kind, task.goal, task.classes) == (kind, "classify", ("0", "1", "2"))
    assert task.example().inputs.shape == (1, *shape)
    assert task.facts["sizes"] == {"train": 36, "valid": 12, "test": 12}
    assert isinstance(task.train, Samples)
    assert abs(task.train.inputs.mean()) < 1e-5 and abs(task.train.inputs.std() - 1) < 0.01


def test_given_splits_are_kept(tmp_path: Path) -> None:
    x = np.arange(100.0)[:, None, None] * np.ones((1, 5, 2))
    y = np.array(list("ab") * 50)
    task = load(saved(tmp_path, x_train=x[:70], y_train=y[:70], x_test=x[70:], y_test=y[70:]))
    assert task.facts["sizes"] == {"train": 56, "valid": 14, "test": 30}
    assert isinstance(task.test, Samples) and isinstance(task.train, Samples) and isinstance(task.valid, Samples)
    assert (task.test.inputs[:, 0, 0].diff() > 0).all(), "the test samples, in their order"
    assert task.test.inputs.min() > max(task.train.inputs.max(), task.valid.inputs.max())
    task = load(
        saved(tmp_path, x_train=x[:60], y_train=y[:60], x_val=x[60:70], y_val=y[60:70], x_test=x[70:], y_test=y[70:])
    )
    assert task.facts["sizes"] == {"train": 60, "valid": 10, "test": 30}


def test_real_targets_are_regressed_on(tmp_path: Path) -> None:
    task = load(saved(tmp_path, data=RNG.normal(size=(50, 9, 2)), labels=RNG.normal(size=(50, 1))))
    assert task.goal == "regress" and task.example().targets.dtype == torch.float32


BAD_ARRAYS = {
    "objects": (
        {"x": np.array([[1, "a"]] * 18, dtype=object), "y": classes(18)},
        "'x' .* holds Python objects",
    ),
    "names": (
        {"left": RNG.normal(size=(9, 2)), "right": classes(9)},
        "expected arrays x and y, .*; got 'left', 'right'",
    ),
    "no y": ({"x": RNG.normal(size=(9, 2))}, "expected targets y beside x; got 'x'"),
    "lengths": (
        {"x": RNG.normal(size=(9, 2)), "y": classes(8)},
        "one target for each of 9 samples; y is int64",
    ),
    "one axis": ({"x": RNG.normal(size=9), "y": classes(9)}, r"2 to 4 axes in x; got float64 of shape \(9,\)"),
    "texts": ({"x": np.array([["a"], ["b"]]), "y": classes(2)}, "expected numbers with 2 to 4 axes in x; got <U1"),
    "infinite": ({"x": np.full((30, 4, 2), np.inf), "y": classes(30)}, "expected finite numbers; x has some"),
    "nan target": ({"x": RNG.normal(size=(9, 2)), "y": np.full(9, np.nan)}, "expected finite numbers; y has some"),
    "one class": ({"x": RNG.normal(size=(30, 4, 2)), "y": np.zeros(30)}, "expected 2 values or more in 'y'"),
    "rare class": ({"x": RNG.normal(size=(30, 4, 2)), "y": [*"ab" * 14, "a", "c"]}, "'c' in 'y' has 1$"),
    "shapes": (
        {
            "x_train": RNG.normal(size=(30, 4, 2)),
            "y_train": classes(30),
            "x_test": RNG.normal(size=(30, 5, 2)),
            "y_test": classes(30),
        },
        r"expected samples of one shape; got \(4, 2\) and \(5, 2\)",
    ),
    "none": ({}, "expected arrays x and y"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_arrays_are_refused_in_one_line(case: str, tmp_path: Path) -> None:
    arrays, message = BAD_ARRAYS[case]
    with pytest.raises(InputError, match=message) as caught:
        load(saved(tmp_path, **arrays))
    assert "\n" not in str(caught.value)


def test_files_that_only_pretend_to_hold_arrays_are_refused(tmp_path: Path) -> None:
    whole = saved(tmp_path, x=RNG.normal(size=(30, 4)), y=classes(30)).read_bytes()
    np.save(tmp_path / "b.npy", np.zeros(3))
    for raw in (b"no archive at all", whole[: len(whole) // 2], whole[:200] + b"???" + whole[203:], b"PK\x03\x04"):
        (tmp_path / "a.npz").write_bytes(raw)
        with pytest.raises(InputError, match="expected"):
            load(tmp_path / "a.npz")
    (tmp_path / "a.npz").write_bytes((tmp_path / "b.npy").read_bytes())
    with pytest.raises(InputError, match="one array without a name"):
        load(tmp_path / "a.npz")


def test_a_text_is_a_language_model_on_bytes(tmp_path: Path) -> None:
    raw = bytes(range(256)) * 40  # not UTF-8
    (tmp_path / "a.txt").write_bytes(raw)
    task = load(tmp_path / "a.txt", past=32)
    assert (task.kind, task.goal, task.outputs) == ("bytes", "continue", 256)
    assert isinstance(task.train, Windows) and isinstance(task.test, Windows) and isinstance(task.valid, Windows)
    parts = [bytes(split.record.tolist()) for split in (task.train, task.valid, task.test)]
    assert b"".join(parts) == raw and len(parts[0]) == 9216 and len(parts[1]) == 512
    assert task.test.stride == 32 and len(task.test) == 15


def test_any_utf8_is_text_and_other_bytes_are_not(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("# ünïcode\n" * 500)
    assert load(tmp_path / "a.py").kind == "bytes"
    (tmp_path / "a.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    with pytest.raises(InputError, match=r"expected a CSV, .*; .*a\.xlsx' is binary"):
        load(tmp_path / "a.xlsx")


def test_bad_texts_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("short")
    with pytest.raises(InputError, match=r"a\.txt: expected more than 128 bytes of training text; got 4"):
        load(path)
    path.write_text("")
    with pytest.raises(InputError, match="is empty"):
        load(path)
    path.write_text("long enough " * 900)
    with pytest.raises(InputError, match="takes no target; got target='y'"):
        load(path, target="y")
    with pytest.raises(InputError, match="a past of 1 byte or more; got 0"):
        load(path, past=0)


def test_paths_that_do_not_exist_get_the_nearest_that_do(tmp_path: Path) -> None:
    (tmp_path / "prices.csv").write_text("x")
    with pytest.raises(InputError, match=r"unknown file or folder .*; did you mean '.*prices\.csv'"):
        load(tmp_path / "price.csv")
    with pytest.raises(InputError, match=r"no file or folder .*; '.*nowhere' is not there either"):
        load(tmp_path / "nowhere" / "a.csv")
    with pytest.raises(InputError, match="unknown task 'gun-point'; did you mean 'gunpoint'"):
        load("gun-point")
    with pytest.raises(InputError, match="cannot read 'aaaa"):
        load("a" * 5000)
    with pytest.raises(InputError):
        load("nul\0byte.csv")


def test_what_may_not_be_read_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y\n1,2\n")

    def refuse(*_: object) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(InputError, match=r"cannot read '.*a\.csv': Permission denied"):
        load(path, target="y")
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(InputError, match=r"cannot read '.*': Permission denied"):
        load(tmp_path)


def test_devices_are_not_data() -> None:
    with pytest.raises(InputError, match="'/dev/null' is neither a file nor a folder"):
        load("/dev/null")


class FakeMNIST:
    """Stands in for torchvision's class: fails as it does where there are no files."""

    classes: ClassVar[list[str]] = [f"{digit} - name" for digit in range(10)]

    def __init__(self, root: Path, train: bool, download: bool) -> None:
        if download:
            raise OSError("no network")
        if not (root / "MNIST").exists():
            raise RuntimeError("Dataset not found. You can use download=True to download it")
        self.targets = torch.arange(100 if train else 50) % 10
        self.data = (self.targets[:, None, None] + torch.arange(28) * torch.ones(28, 1)).to(torch.uint8)

    def __len__(self) -> int:
        return len(self.targets)


def test_mnist_is_read_where_it_lies_and_never_fetched_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision = ModuleType("torchvision")
    vision.datasets = SimpleNamespace(MNIST=FakeMNIST)  # pyright: ignore[reportAttributeAccessIssue]
    vision.__spec__ = ModuleSpec("torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision", vision)
    monkeypatch.setenv("ANABRANCH_DATA", str(tmp_path))
    with pytest.raises(InputError, match=r"no MNIST files in .*download=True"):
        load("mnist")
    with pytest.raises(InputError, match="cannot download mnist: no network"):
        load("mnist", download=True)
    with pytest.raises(InputError, match="the task 'mnist' takes no target"):
        load("mnist", target="y")
    (tmp_path / "MNIST").mkdir()
    task = load("mnist")
    assert task.example().inputs.shape == (1, 1, 28, 28)
    assert task.facts["sizes"] == {"train": 90, "valid": 10, "test": 50}


def test_a_torchvision_that_is_not_there_or_broken_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = ModuleType("torchvision")  # without datasets
    broken.__spec__ = ModuleSpec("torchvision", None)
    monkeypatch.setitem(sys.modules, "torchvision", broken)
    with pytest.raises(InputError, match="needs a torchvision that fits torch"):
        load("cifar10")
    monkeypatch.setattr("anabranch.data.sources.find_spec", lambda name: None)
    with pytest.raises(InputError, match="needs the package torchvision: pip install torchvision"):
        load("cifar10")
