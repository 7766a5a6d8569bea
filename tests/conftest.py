"""Shapes and types are checked while the tests run: jaxtyping's annotations, by beartype."""

from collections.abc import Iterator

import jaxtyping
import pytest

_HOOK = jaxtyping.install_import_hook("anabranch", "beartype.beartype")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the annotations' checks, as a user runs the library: for tests of the library's own error messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
