"""A folder of images, with a sub-folder for each class."""

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from anabranch.data.arrays import arrays_task
from anabranch.data.columns import listed, plural
from anabranch.data.read import FORMATS, one_line
from anabranch.data.split import stratified
from anabranch.data.task import Task
from anabranch.errors import InputError

LARGEST_SIDE = 64
_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"})
_SPLITS = frozenset({"train", "training", "valid", "validation", "val", "test", "testing"})
_GREY = frozenset({"1", "L", "LA", "I", "I;16", "I;16B"})


def images_task(folder: Path, seed: int = 0) -> Task:
    """Classify images by the sub-folder they lie in.

    All are resized to the median height and width, 64 at most. They are grey if every one is, otherwise they have three
    colours. Splits: 60/20/20 of every class, drawn by ``seed``.
    """
    name = folder.name or str(folder.resolve())
    notes: list[str] = []
    try:
        files, classes = _files(folder, name, notes)
    except OSError as error:
        raise InputError(f"cannot read {str(folder)!r}: {error.strerror or error}") from None
    labels = np.array([number for number, _ in files])
    sizes, modes, images = zip(*(_opened(path) for _, path in files), strict=True)
    grey = set(modes) <= _GREY
    if set(modes) - {"L", "RGB"} or len(set(modes)) > 1:
        kinds = ", ".join(f"{mode} ({count})" for mode, count in sorted(Counter(modes).items()))
        notes.append(f"pixels of the kind {kinds} taken as {'grey' if grey else 'RGB'}")
    width, height = (int(min(LARGEST_SIDE, np.median(sides))) for sides in zip(*sizes, strict=True))
    resized = sum(size != (width, height) for size in sizes)
    if resized:
        notes.append(f"{resized} of {len(images)} images resized to {height}x{width} pixels")
    pixels = np.stack([np.asarray(image.convert("L" if grey else "RGB").resize((width, height))) for image in images])
    pixels = pixels[:, None] if grey else np.moveaxis(pixels, 3, 1)
    facts = {"height": height, "width": width, "channels": pixels.shape[1]}
    rows = stratified(labels, seed)
    return arrays_task(
        name, "image", pixels, labels, rows, classes=classes, source=str(folder), notes=notes, facts=facts
    )


def _files(folder: Path, name: str, notes: list[str]) -> tuple[list[tuple[int, Path]], list[str]]:
    """Every image with the number of its class, and the classes."""
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    classes = [path for path in inside if path.is_dir()]
    if not classes:
        raise InputError(f"expected {FORMATS}; {name!r} has no sub-folder and {plural(len(inside), 'file')}")
    if {path.name.lower() for path in classes} <= _SPLITS:
        raise InputError(f"{name}: expected a sub-folder for each class; got splits: {listed(p.name for p in classes)}")
    if len(classes) < 2:
        raise InputError(f"{name}: expected sub-folders for 2 classes or more; got {classes[0].name!r} alone")
    files, ignored = [], len(inside) - len(classes)
    for number, kind in enumerate(classes):
        entries = sorted(path for path in kind.rglob("*") if path.is_file() and not path.name.startswith("."))
        found = [path for path in entries if path.suffix.lower() in _ENDINGS]
        if len(found) < 3:
            raise InputError(
                f"{name}: expected 3 images or more of each class, so that every split has some; "
                f"{kind.name!r} has {len(found)}"
            )
        ignored += len(entries) - len(found)
        files += [(number, path) for path in found]
    if ignored:
        notes.append(f"{plural(ignored, 'file')} left out, not an image in a class")
    return files, [path.name for path in classes]


def _opened(path: Path) -> tuple[tuple[int, int], str, Any]:
    """Width and height, kind of pixels, and the image the right way up, shrunk so that many can be kept."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings(), Image.open(path) as image:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            mode, upright = image.mode, ImageOps.exif_transpose(image)
            size = upright.size
            if mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
                upright = Image.fromarray((np.asarray(upright, np.float64) / 257).clip(0, 255).astype(np.uint8))
            upright = upright.convert("L" if mode in _GREY else "RGB")
            upright.thumbnail((2 * LARGEST_SIDE, 2 * LARGEST_SIDE))
            return size, mode, upright
    except Exception as error:  # Pillow's readers raise errors of many kinds on broken files
        raise InputError(f"expected an image; {str(path)!r} cannot be read: {one_line(error)}") from None
