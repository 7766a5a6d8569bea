"""anabranch: neural-network papers as interchangeable parts, runnable claims, and fair races on your own data.

Importing this package loads neither torch nor anything else that is heavy: a name is loaded when it is touched.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

from anabranch import slots
from anabranch.errors import InputError

if TYPE_CHECKING:
    from anabranch.bench import compare as compare
    from anabranch.claims import verify as verify

__version__ = "0.1.0"
__all__ = ["InputError", "compare", "verify"]

_LAZY = {"compare": "anabranch.bench", "verify": "anabranch.claims"}
_PACKAGES = {module.name for module in iter_modules(__path__) if module.ispkg}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in _PACKAGES:
        return import_module(f"anabranch.{name}")
    raise AttributeError(f"module 'anabranch' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY, *_PACKAGES})


def _find_in_catalog(slot: str, name: str) -> Any:
    return import_module("anabranch.catalog").part(slot, name).load()


# Skeletons fill slots by name without knowing the catalog, which lies in a layer above them: it is handed down here.
slots.find_by_name = _find_in_catalog
