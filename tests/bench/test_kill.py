"""Killed without warning at any moment, a race goes on where it was and ends as if nothing had happened."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

COMMAND = [
    sys.executable,
    "-m",
    "anabranch",
    "compare",
    "wine",
    "--vary",
    "dense=perceptron,kan",
    "--classical",
    "none",
]
COMMAND += ["--budget", "150 steps", "--trials", "3", "--json", "--resume"]


def outcome(folder, *more: str) -> dict:
    done = subprocess.run([*COMMAND, *more], cwd=folder, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    for row in found["rows"]:
        row["train_seconds"] = row["latency_ms"] = None
    return found


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ten_kills(tmp_path, workers):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    undisturbed.mkdir()
    killed.mkdir()
    wanted = outcome(undisturbed)
    moments = random.Random(0)
    hits = 0
    while hits < 10:
        process = subprocess.Popen(
            [*COMMAND, "--workers", workers], cwd=killed, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(moments.uniform(1.0, 9.0))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        else:  # it finished: begin again, so that the next moment hits something
            assert outcome(killed) == wanted
            for path in killed.iterdir():
                path.unlink()
        process.wait()
    assert outcome(killed, "--workers", workers) == wanted
