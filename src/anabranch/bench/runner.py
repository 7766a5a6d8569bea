"""One run of one contender: train, judge, measure. Runs are independent, so that any process can do any of them."""

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from anabranch.bench.contenders import Contender, Estimator, Network
from anabranch.bench.fairness import TOLERANCE
from anabranch.bench.fit import Budget, Diverged, run
from anabranch.bench.results import blocks
from anabranch.bench.skeletons import Size
from anabranch.bench.storage import Result
from anabranch.data.task import Split, Task
from anabranch.learning import Trainer
from anabranch.learning.meter import Flops

FEWEST_CHECKS, MOST_CHECKS = 3, 10  # validations in one run; the weights of the best one are kept
CHECK_SHARE = 1 / 4  # of the computing that training takes, what validations may take beside it
TUNING_SEED = 1_000_000  # for initial weights and data order while tuning; no final run uses it
LATENCY_RUNS = 20


class OutOfBudget(RuntimeError):
    """A run could not do its work within its budget."""


@dataclass(frozen=True)
class Job:
    """One run: of which contender, while tuning or final, and with what setting."""

    contender: int
    phase: str  # "tune" or "final"
    index: int  # number of the setting, or the seed
    setting: dict[str, Any]


@dataclass(frozen=True)
class Runner:
    """All that runs need to know, the same for every process.

    Arguments:
        target: number of parameters that every network gets.
        budget: what one run may use.
        seed: first seed of the race.
    """

    task: Task
    contenders: list[Contender]
    target: int
    budget: Budget
    batch_size: int
    seed: int
    device: str

    def run(self, job: Job, on_progress: Callable[[float], None] | None = None) -> Result:
        """Do one run; what goes wrong in it is a result too."""
        contender = self.contenders[job.contender]
        seed = self.seed + (TUNING_SEED if job.phase == "tune" else job.index)
        final = job.phase == "final"
        try:
            with one_thread(), warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                if isinstance(contender, Estimator):
                    result = self._classical(contender, job.setting, seed, final)
                else:
                    result = self._network(contender, job.setting, seed, final, on_progress)
        except (KeyboardInterrupt, SystemExit):
            raise
        except Diverged as error:
            return {"failed": f"diverged: {error}"}
        except OutOfBudget as error:
            return {"failed": f"out of budget: {error}"}
        except Exception as error:  # whatever a part does wrong is that contender's row, not the end of the race
            return {"failed": f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"}
        return {**result, "setting": job.setting}

    def _classical(self, contender: Estimator, setting: dict[str, Any], seed: int, final: bool) -> Result:
        started = time.perf_counter()
        fitted = contender.fit(self.task, setting, seed)
        seconds = time.perf_counter() - started
        if self.budget.seconds is not None and seconds > self.budget.seconds:
            raise OutOfBudget(f"needed {seconds:.1f} s, had {self.budget.seconds:.1f} s")
        summary = self.task.metric.summary
        result: Result = {"valid": summary(float(fitted.scores(self.task.valid).mean())), "seconds": seconds}
        if final:
            scores = fitted.scores(self.task.test)
            one = _first(self.task.test)
            result |= {
                "test": summary(float(scores.mean())),
                "scores": blocks(scores),
                "latency_ms": median_ms(lambda: fitted.scores(one)),
            }
        return result

    def _network(
        self,
        contender: Network,
        setting: dict[str, Any],
        seed: int,
        final: bool,
        on_progress: Callable[[float], None] | None,
    ) -> Result:
        task = self.task
        size, count = contender.size(task, setting, self.target)
        self._warm_up(contender, setting, size)
        torch.manual_seed(seed)
        model = contender.build(task, setting, size).to(self.device)
        parts = contender.parts(setting)
        trainer: Trainer = parts["rule"]().bind(model, task.loss, parts["optimizer"], clip=1.0)
        kept = Best(trainer, lambda: self._metric(trainer, task.valid), task.metric.higher_is_better)
        history = run(
            trainer,
            task.train,
            budget=self.budget,
            batch_size=self.batch_size,
            seed=seed,
            checks=validations(self.budget, self.batch_size, len(task.valid)),
            check=kept.check,
            on_progress=on_progress,
        )
        if not history.curve:
            raise OutOfBudget(f"{history.steps} steps in {history.seconds:.1f} s, not enough for one validation")
        kept.restore()
        result: Result = {
            "valid": kept.value,
            "seconds": history.seconds,
            "steps": history.steps,
            "curve": [list(point) for point in history.curve],
            "parameters": count,
            "size": {"dim": size.dim, "ratio": round(size.ratio, 3)},
        }
        if abs(count - self.target) > TOLERANCE * self.target:
            result["unequal"] = f"{count / self.target - 1:+.0%} parameters: its size cannot be matched"
        if final:
            scores = self._scores(trainer, task.test)
            result |= {"test": task.metric.summary(float(scores.mean())), "scores": blocks(scores)}
            result |= self._measure(trainer)
        return result

    def _warm_up(self, contender: Network, setting: dict[str, Any], size: Size) -> None:
        """One step of a copy, so that what is compiled or loaded at first use is on no contender's clock."""
        model = contender.build(self.task, setting, size).to(self.device)
        parts = contender.parts(setting)
        trainer = parts["rule"]().bind(model, self.task.loss, parts["optimizer"], clip=1.0)
        trainer.step(self.task.example(2).to(torch.device(self.device)))

    def _scores(self, trainer: Trainer, split: Split) -> np.ndarray:
        found = []
        for index in torch.arange(len(split)).split(4 * self.batch_size):  # no gradients, so that more fit in memory
            batch = split.batch(index).to(torch.device(self.device))
            found.append(self.task.metric.scores(trainer.predict(batch.inputs, batch.lengths), batch.targets).cpu())
        scores = torch.cat(found)
        if not torch.isfinite(scores).all():
            raise Diverged("a prediction is not finite")
        return scores.numpy()

    def _metric(self, trainer: Trainer, split: Split) -> float:
        return self.task.metric.summary(float(self._scores(trainer, split).mean()))

    def _measure(self, trainer: Trainer) -> Result:
        """Cost: operations and time for one sample, memory of one training step."""
        device = torch.device(self.device)
        one = self.task.example().to(device)
        with Flops() as flops:
            trainer.predict(one.inputs, one.lengths)
        latency = median_ms(lambda: trainer.predict(one.inputs, one.lengths))
        peak = self._peak(trainer, self.task.example(self.batch_size).to(device))
        return {"flops": flops.forward, "latency_ms": latency, "peak_mb": peak / 2**20}

    def _peak(self, trainer: Trainer, batch: Any) -> int:
        """Bytes at the worst moment of a training step: weights, optimizer state, and all that the step makes."""
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
            trainer.step(batch)
            return torch.cuda.max_memory_allocated()
        state = [
            value
            for optimizer in trainer.optimizers
            for values in optimizer.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        weights = [*trainer.module.parameters(), *trainer.module.buffers(), *trainer.extra_parameters().values()]
        resident = sum(tensor.numel() * tensor.element_size() for tensor in [*weights, *state])
        with trainer.metered():
            return resident + (trainer.step(batch).live_peak or 0)


def validations(budget: Budget, batch_size: int, samples: int) -> int:
    """How often a run is validated on so many samples: less often the more they are and the shorter the training."""
    if budget.steps is None:
        return MOST_CHECKS
    passes = 3 * budget.steps * batch_size  # a step goes forwards once and backwards, for twice as much
    return min(max(round(CHECK_SHARE * passes / samples), FEWEST_CHECKS), MOST_CHECKS)


class Best:
    """Keeps the weights of the best validation."""

    def __init__(self, trainer: Trainer, judge: Callable[[], float], higher_is_better: bool):
        self.trainer, self.judge, self.sign = trainer, judge, 1 if higher_is_better else -1
        self.value = 0.0
        self.weights: dict[str, Tensor] | None = None

    def check(self, model: nn.Module) -> float:
        value = self.judge()
        if self.weights is None or self.sign * value > self.sign * self.value:
            self.value = value
            self.weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
        return value

    def restore(self) -> None:
        if self.weights is not None:
            self.trainer.module.load_state_dict(self.weights)


def _first(split: Split) -> Split:
    """A split of one sample, the first."""

    class One:
        def __len__(self) -> int:
            return 1

        def batch(self, index: Tensor) -> Any:
            return split.batch(torch.zeros(len(index), dtype=torch.long))

    return One()


def median_ms(call: Callable[[], Any]) -> float:
    """Median time of a call in milliseconds, after warming up."""
    times = []
    for i in range(LATENCY_RUNS + 3):
        started = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if i >= 3:
            times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch and for numerical libraries, so that a result does not depend on what else is running."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
