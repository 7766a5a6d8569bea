"""The benchmarks can be found and started; what they measure is for ``make bench``."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src")}


def start(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=ENVIRONMENT)


def test_every_module_that_can_run_is_listed():
    listed = start("--help").stdout
    assert "linear_scan" in listed
    assert "linear_attention" in listed
    assert "timing" not in listed


def test_an_unknown_name_is_answered_with_the_known_ones():
    wrong = start("linear_skan")
    assert wrong.returncode == 2
    assert "unknown benchmark linear_skan" in wrong.stderr
    assert "linear_scan" in wrong.stderr


def test_ways_take_turns_and_the_median_counts():
    code = (
        "from benchmarks.timing import row, seconds\n"
        "import time\n"
        "found = seconds({'slow': lambda: time.sleep(0.02), 'fast': lambda: time.sleep(0.001)}, rounds=3)\n"
        "assert row('x', found, 'fast')['times faster']['slow'] > 2\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, env=ENVIRONMENT)
