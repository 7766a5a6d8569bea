"""What ``import anabranch`` gives: everything by name, nothing heavy before it is touched."""

import subprocess
import sys

import pytest

SEES = "import sys, anabranch; print('torch' in sys.modules); print(anabranch.data.load.__name__, anabranch.compare.__name__)"


def test_packages_and_functions_are_there_without_an_import_of_their_own():
    shown = subprocess.run([sys.executable, "-c", SEES], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "load", "compare"]


def test_what_is_not_there_is_an_attribute_error():
    import anabranch

    with pytest.raises(AttributeError, match="no attribute 'dta'"):
        anabranch.dta  # noqa: B018
    assert {"compare", "data", "nn"} <= set(dir(anabranch))
