"""Folders of images by class."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anabranch.data import load
from anabranch.errors import InputError


def folder(root: Path, count: int = 10, size: tuple[int, int] = (20, 30), mode: str = "RGB") -> Path:
    for number, kind in enumerate(("cat", "dog")):
        (root / kind).mkdir(parents=True)
        for i in range(count):
            Image.new(mode, size, 60 * number + i if mode == "L" else (60 * number + i, 200, 10)).save(
                root / kind / f"{i}.png"
            )
    return root


def test_classes_are_the_sub_folders_and_splits_share_no_image(tmp_path: Path) -> None:
    task = load(folder(tmp_path / "pets"))
    assert (task.name, task.kind, task.goal, task.classes) == ("pets", "image", "classify", ("cat", "dog"))
    assert task.example().inputs.shape == (1, 3, 30, 20)
    assert task.facts["sizes"] == {"train": 12, "valid": 4, "test": 4} and not task.notes
    shades = [
        set(split.batch(torch.arange(len(split))).inputs[:, 0, 0, 0].tolist())
        for split in (task.train, task.valid, task.test)
    ]
    assert len(set().union(*shades)) == sum(map(len, shades)) == 20
    for split in (task.train, task.valid, task.test):
        batch = split.batch(torch.arange(len(split)))
        assert (batch.inputs[batch.targets == 0, 0].max() < batch.inputs[batch.targets == 1, 0].min()).all()


def test_images_are_resized_to_the_median_and_64_at_most(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", size=(200, 40))
    Image.new("RGB", (90, 10)).save(root / "cat" / "odd.jpg")
    task = load(root)
    assert task.example().inputs.shape == (1, 3, 40, 64)
    assert "21 of 21 images resized to 40x64 pixels" in task.notes


def test_grey_images_keep_one_channel_and_mixed_ones_become_colours(tmp_path: Path) -> None:
    root = folder(tmp_path / "a", mode="L")
    assert load(root).example().inputs.shape == (1, 1, 30, 20)
    Image.new("RGBA", (20, 30)).save(root / "cat" / "clear.png")
    Image.new("P", (20, 30)).save(root / "dog" / "old.gif")
    task = load(root)
    assert task.example().inputs.shape == (1, 3, 30, 20)
    assert "pixels of the kind L (20), P (1), RGBA (1) taken as RGB" in task.notes


def test_16_bits_are_not_clipped(tmp_path: Path) -> None:
    for kind, value in (("a", 10_000), ("b", 60_000)):
        (tmp_path / kind).mkdir()
        for i in range(5):
            Image.fromarray(np.full((8, 8), value + 200 * i, np.uint16)).save(tmp_path / kind / f"{i}.png")
    inputs = load(tmp_path).example(6).inputs
    assert inputs.shape == (6, 1, 8, 8)
    assert len(inputs.mean((1, 2, 3)).unique()) > 3


def test_other_files_are_left_out_with_a_note(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    (root / "cat" / "about.txt").write_text("a cat")
    (root / "readme.md").write_text("cats and dogs")
    (root / ".hidden").write_text("")
    assert "2 files left out, not an image in a class" in load(root).notes


def test_bad_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="'empty' has no sub-folder and 0 files"):
        load(tmp_path / "empty")
    one = tmp_path / "one"
    (one / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match="one: expected sub-folders for 2 classes or more; got 'cat' alone"):
        load(one)
    (one / "dog").mkdir()
    with pytest.raises(InputError, match=r"one: expected 3 images or more of each class.*; 'cat' has 0"):
        load(one)
    for part in ("train", "test"):
        (tmp_path / "split" / part).mkdir(parents=True)
    with pytest.raises(InputError, match="expected a sub-folder for each class; got splits: 'test', 'train'"):
        load(tmp_path / "split")
    with pytest.raises(InputError, match="a folder of images takes no target"):
        load(one, target="cat")


@pytest.mark.parametrize("raw", [b"", b"not an image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40], ids=["empty", "text", "cut"])
def test_an_unreadable_image_is_named(tmp_path: Path, raw: bytes) -> None:
    root = folder(tmp_path / "a")
    (root / "cat" / "bad.png").write_bytes(raw)
    with pytest.raises(InputError, match=r"expected an image; .*bad\.png' cannot be read") as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    root = folder(tmp_path / "a")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 50, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (root / "dog" / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:3000])
    with pytest.raises(InputError, match=r"half\.png' cannot be read"):
        load(root)
