"""Running a claim: every seed, the decision rule, and the record of it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

from anabranch.claims import _evidence as evidence_
from anabranch.claims._evidence import Evidence, RuleResult
from anabranch.claims._plot import svg
from anabranch.errors import InputError
from anabranch.files import check_writable, write_atomically


def verify(
    slug: str,
    *,
    jobs: int = 1,
    draft: bool = False,
    folder: Path | str | None = None,
    on_seed: Callable[[int, float], None] | None = None,
) -> Evidence:
    """Run a paper's experiment with all its seeds and record the verdict.

    Arguments:
        slug: the paper.
        jobs: processes that work on seeds side by side, one thread each.
        draft: judge, but write nothing.
        folder: where ``<slug>.json`` and ``<slug>.svg`` are written; the checkout's ``evidence``, else ``./evidence``.
        on_seed: called with the seed and its seconds when one is done.

    Raises:
        InputError: if there is no such claim, or the code it would speak for is not committed.
    """
    claim = evidence_.claim(slug)
    if not draft and (dirty := evidence_.uncommitted(slug)):
        raise InputError(
            f"expected committed code to record evidence for {slug}; not committed: {', '.join(dirty)} "
            "(commit first, or run a draft)"
        )
    if jobs < 1:
        raise InputError(f"expected at least 1 job; got {jobs}")
    if folder is None:
        folder = evidence_.evidence_folder() if evidence_.checkout() else Path("evidence")
    if not draft:
        check_writable(Path(folder) / f"{slug}.json")
    code, commit = evidence_.code_hashes(slug), evidence_.commit()
    measurements: list[dict[str, float]] = [{} for _ in range(claim.seeds)]
    busy = 0.0
    for seed, measured, seconds in _run(slug, claim.seeds, jobs):
        measurements[seed] = measured
        busy += seconds
        if on_seed is not None:
            on_seed(seed, seconds)
    results = []
    for rule in claim.rules:
        values = [rule.value(measured) for measured in measurements]
        outcome, mean, interval = rule.judge(values)
        results.append(RuleResult(**asdict(rule), values=values, mean=mean, interval=interval, outcome=outcome))
    evidence = Evidence(
        paper=slug,
        statement=claim.statement,
        verdict=claim.verdict([result.outcome for result in results]),
        rules=results,
        measurements=measurements,
        minutes=round(busy / 60, 2),
        smaller=claim.smaller,
        rule_hash=claim.fingerprint(),
        code=code,
        commit=commit,
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        versions=evidence_.versions(),
        machine=evidence_.machine(),
    )
    if not draft:
        evidence.write(Path(folder) / f"{slug}.json")
        write_atomically(Path(folder) / f"{slug}.svg", svg(evidence))
    return evidence


def _run(slug: str, seeds: int, jobs: int) -> Iterator[tuple[int, dict[str, float], float]]:
    if jobs == 1:
        with _one_thread():
            for seed in range(seeds):
                yield _seed(slug, seed)
        return
    with ProcessPoolExecutor(min(jobs, seeds), mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_seed, slug, seed) for seed in range(seeds)]):
            yield done.result()


def _seed(slug: str, seed: int) -> tuple[int, dict[str, float], float]:
    with _one_thread():
        started = time.process_time()  # of the processor: what else the machine does has no part in it
        return seed, evidence_.measure(slug, seed), time.process_time() - started


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, so that a result depends neither on the machine's cores nor on how many seeds run side by side."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
