"""Where runs are done: in this process, or in worker processes on this machine."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Protocol, runtime_checkable

from anabranch.bench.runner import Job, Runner
from anabranch.bench.storage import Result

More = Callable[[Job, Result], Iterable[Job]]


@runtime_checkable
class Engine(Protocol):
    """Does jobs; for each finished one, ``more`` says which jobs it makes possible."""

    def work(self, jobs: Iterable[Job], more: More) -> Iterator[tuple[Job, Result]]: ...


class Here:
    """One run after the other, in this process."""

    def __init__(self, runner: Runner, on_progress: Callable[[Job, float], None] | None = None):
        self.runner, self.on_progress = runner, on_progress

    def work(self, jobs: Iterable[Job], more: More) -> Iterator[tuple[Job, Result]]:
        queue = list(jobs)
        while queue:
            job = queue.pop(0)
            result = self.runner.run(job, partial(self._report, job))
            yield job, result
            queue = [*more(job, result), *queue]

    def _report(self, job: Job, share: float) -> None:
        if self.on_progress is not None:
            self.on_progress(job, share)


class Workers:
    """Runs side by side in local processes.

    A worker that dies (killed for its memory, say) fails the runs that were under way; the others go on.
    """

    def __init__(self, runner: Runner, count: int):
        self.runner, self.count = runner, count

    def work(self, jobs: Iterable[Job], more: More) -> Iterator[tuple[Job, Result]]:
        queue, running, pool = list(jobs), dict[Future[Result], Job](), self._pool()
        try:
            while queue or running:
                while queue and len(running) < self.count:
                    job = queue.pop(0)
                    running[pool.submit(_run, job)] = job
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                broken = False
                for future in done:
                    job = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        broken, result = True, {"failed": "the worker process died (out of memory?)"}
                    yield job, result
                    queue = [*more(job, result), *queue]
                if broken:
                    # A dead worker takes the whole pool along: what the others were doing is done again.
                    queue = [*running.values(), *queue]
                    running.clear()
                    pool.shutdown(wait=False, cancel_futures=True)
                    pool = self._pool()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(
            self.count, mp_context=get_context("spawn"), initializer=_start, initargs=(self.runner, os.getpid())
        )


_runner: Runner | None = None


def _start(runner: Runner, parent: int) -> None:
    global _runner
    _runner = runner

    def leave_with_parent() -> None:
        # A runner that is killed cannot tell its workers to stop.
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _run(job: Job) -> Result:
    assert _runner is not None
    return _runner.run(job)
