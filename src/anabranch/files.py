"""Writing files so that nothing is lost."""

import os
import tempfile
from pathlib import Path

from anabranch.errors import InputError


def check_writable(path: Path) -> None:
    """Find out before the work begins whether its outcome can be written; leaves nothing behind.

    Raises:
        InputError: if it cannot.
    """
    if path.is_dir():
        raise InputError(f"expected a file to write to; {str(path)!r} is a folder")
    folder = next(parent for parent in path.resolve().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from None


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
