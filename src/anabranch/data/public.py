"""Larger public image sets, through torchvision and only on request."""

import os
from pathlib import Path

import numpy as np

from anabranch.data.arrays import arrays_task
from anabranch.data.read import one_line
from anabranch.data.sources import need
from anabranch.data.split import Rows, carved
from anabranch.data.task import Task
from anabranch.errors import InputError

PUBLIC = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def public_images(name: str, download: bool = False) -> Task:
    """MNIST, Fashion-MNIST or CIFAR-10: its own test split; a tenth of the training split, by class, validates.

    The files lie under the folder that the environment variable ANABRANCH_DATA names, ``~/.cache/anabranch`` otherwise.

    Raises:
        InputError: if torchvision or the files are not there and ``download`` is False, or the download fails.
    """
    need(name, "torchvision")
    try:
        from torchvision import datasets  # pyright: ignore[reportMissingImports]
    except (ImportError, RuntimeError, OSError) as error:  # it was built for another torch
        raise InputError(f"the task {name!r} needs a torchvision that fits torch; got {one_line(error)}") from None

    root = Path(os.environ.get("ANABRANCH_DATA", "~/.cache/anabranch")).expanduser()
    make = getattr(datasets, PUBLIC[name])
    try:
        train, test = (make(root, train=train, download=download) for train in (True, False))
    except (RuntimeError, OSError) as error:
        if download:
            raise InputError(f"cannot download {name}: {one_line(error)}") from None
        raise InputError(
            f"no {PUBLIC[name]} files in {str(root)!r}: put them there, or allow the download with download=True"
        ) from None
    pixels = np.concatenate([np.asarray(train.data), np.asarray(test.data)])
    labels = np.concatenate([np.asarray(train.targets), np.asarray(test.targets)])
    rows = Rows(*carved(labels[: len(train)], 0.1, seed=0), np.arange(len(train), len(labels)))
    images = pixels[:, None] if pixels.ndim == 3 else np.moveaxis(pixels, 3, 1)
    return arrays_task(name, "image", images, labels, rows, classes=train.classes, source=f"torchvision {PUBLIC[name]}")
