"""Shapes and types are checked while the tests run: jaxtyping's annotations, by beartype."""

import sys
from collections.abc import Iterator
from types import ModuleType

import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

# An int is welcome where a float is asked for. The hook wants the checker's import path, so it gets a module.
_CHECKER = ModuleType("anabranch_type_checker")
_CHECKER.check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # type: ignore[attr-defined]
sys.modules[_CHECKER.__name__] = _CHECKER
_HOOK = jaxtyping.install_import_hook("anabranch", "anabranch_type_checker.check")

import torch  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Without the annotations' checks, as a user runs the library: for tests of the library's own error messages."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)
