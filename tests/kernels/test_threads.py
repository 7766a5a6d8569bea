"""A loop split over threads: every part is done once, errors arrive, and a forked process can still do it."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from anabranch.kernels import _threads
from anabranch.kernels._threads import in_threads


@pytest.fixture(params=["torch's threads", "Python's threads"], autouse=True)
def three_threads(request, monkeypatch):
    if request.param == "Python's threads":
        monkeypatch.setattr(_threads, "_openmp", lambda: None)
    elif _threads._openmp() is None:
        pytest.skip("torch brings no GNU OpenMP here")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def ranges(length: int, pieces: int | None = None) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    in_threads(lambda first, last: seen.append((first, last)), length, pieces)
    return sorted(seen)


def test_ranges_cover_the_whole_once_and_are_no_more_than_threads():
    assert ranges(10) == [(0, 3), (3, 6), (6, 10)]
    assert ranges(10, 2) == [(0, 5), (5, 10)] and ranges(10, 8) == ranges(10)
    assert ranges(2) == [(0, 1), (1, 2)] and ranges(0) == [(0, 0)]


def test_ranges_run_side_by_side():
    meeting = threading.Barrier(3, timeout=20)  # broken, and so an error, unless three threads come to it
    in_threads(lambda first, last: meeting.wait() and None, 3)


def test_an_error_in_any_thread_is_raised():
    def fails(first: int, last: int) -> None:
        if last == 9:
            raise KeyError(f"from {first}")

    with pytest.raises(KeyError, match="from 6"):
        in_threads(fails, 9)


def test_several_threads_may_split_loops_at_once():
    with ThreadPoolExecutor(4) as pool:
        assert all(seen == [(0, 3), (3, 6), (6, 10)] for seen in pool.map(ranges, [10] * 40))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_splits_loops_too():
    assert len(ranges(10)) == 3  # so that there are threads, which do not survive
    child = os.fork()
    if child == 0:
        os._exit(0 if ranges(10) == [(0, 3), (3, 6), (6, 10)] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_process_forked_before_the_first_loop_splits_loops_too():
    program = """
import os, signal, torch
from anabranch.kernels import linear_scan
torch.set_num_threads(3)
torch.randn(1 << 20) + 1  # starts the threads that do not survive
child = os.fork()
if child == 0:
    signal.alarm(60)
    from anabranch.kernels._threads import in_threads
    seen = []
    in_threads(lambda first, last: seen.append(last - first), 10)
    os._exit(0 if sum(seen) == 10 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "0", done.stderr
