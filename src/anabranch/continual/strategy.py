"""The slot ``strategy``: how a model learns from a stream without losing what it learned before."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from anabranch.spaces import Space

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Cost:
    """What learning has cost so far.

    Arguments:
        flops: of matrix products and convolutions, forward and backward, as torch's counter counts them (2 per
            multiply-add); predicting is not included.
        seconds: time spent in ``observe`` and ``boundary``.
        params: numbers in the model.
        stored_bytes: what the strategy keeps besides the model and the optimizer's own state.
    """

    flops: int
    seconds: float
    params: int
    stored_bytes: int


class Strategy:
    """Contract of the slot ``strategy``, and plain gradient descent on it.

    A strategy that needs to know when a task ends defines ``boundary()``, and cannot be run on an online stream. One
    that does not define it is task-free. A subclass changes ``loss`` (a penalty), or ``update`` (other samples), and
    gives ``memory`` if it keeps anything.

    The classes that a prediction may name grow with the stream: those never seen have a logit of minus infinity. Where
    the task is told, they are that task's ``heads``.

    Arguments:
        model: maps ``(batch, *shape)`` to logits for all classes that will ever come. It is trained in place.
        optimizer: makes the optimizer from the parameters, for example ``partial(torch.optim.SGD, lr=0.1)``.
        heads: each task's classes, for streams that tell the task: ``stream.heads``.
        seed: fixes every random choice of the strategy.
    """

    space: ClassVar[Space] = {}
    mixed: ClassVar[bool] = False  # wants the whole stream in random order: an upper bound, not a continual learner
    grows: ClassVar[Literal["never", "by task", "by sample"]] = "never"  # what stored_bytes grows with after task one

    def __init__(
        self,
        model: nn.Module,
        optimizer: MakeOptimizer,
        *,
        heads: Sequence[Sequence[int]] | None = None,
        seed: int = 0,
    ):
        self.model = model
        self.optimizer = optimizer(model.parameters())
        self.heads = heads
        self.generator = torch.Generator().manual_seed(seed)
        self.seen: Tensor | None = None  # which classes have come up so far
        self._flops, self._seconds = 0, 0.0
        self._known_flops: dict[Any, int] = {}

    @property
    def task_free(self) -> bool:
        """Whether the strategy can do without being told when a task ends."""
        return not hasattr(self, "boundary")

    def observe(self, x: Float[Tensor, "batch *shape"], y: Int[Tensor, "batch"], task: int | None = None) -> None:
        """Learn from one batch."""
        if len(x) != len(y) or len(y) == 0:
            raise ValueError(f"expected a label for each of at least one input; got {len(x)} inputs, {len(y)} labels")
        if self.seen is None:
            with torch.no_grad(), _evaluating(self.model):
                self.seen = torch.zeros(self.model(x[:1]).shape[-1], dtype=torch.bool)
        if not 0 <= int(y.min()) <= int(y.max()) < len(self.seen):
            raise ValueError(
                f"the model has {len(self.seen)} outputs; got labels from {int(y.min())} to {int(y.max())}"
            )
        self.seen[y] = True
        self.model.train()
        with self.metered((x.shape, self.workload(len(x)))):
            self.update(x, y, task)

    @torch.no_grad()
    def predict(self, x: Float[Tensor, "batch *shape"], task: int | None = None) -> Float[Tensor, "batch classes"]:
        """Logits, by the model in eval mode; changes nothing."""
        with _evaluating(self.model):
            return self.logits(x, task)

    def cost(self) -> Cost:
        """What learning has cost so far."""
        params = sum(p.numel() for p in self.model.parameters())
        return Cost(self._flops, self._seconds, params, self.stored_bytes())

    def update(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> None:
        """One step of the optimizer on ``loss``."""

        def closure() -> Tensor:
            self.optimizer.zero_grad(set_to_none=True)
            value = self.loss(x, y, task)
            value.backward()
            return value

        self.optimizer.step(closure)  # pyright: ignore[reportArgumentType, reportCallIssue]

    def loss(self, x: Tensor, y: Tensor, task: int | Tensor | None) -> Float[Tensor, ""]:
        """What one step minimises."""
        return F.cross_entropy(self.logits(x, task), y)

    def logits(self, x: Tensor, task: int | Tensor | None) -> Tensor:
        """The model's output, without the classes that cannot come."""
        output = self.model(x)
        allowed = self.allowed(task)
        return output if allowed is None else output.masked_fill(~allowed, -torch.inf)

    def allowed(self, task: int | Tensor | None) -> Bool[Tensor, "*batch classes"] | None:
        """Classes that may be named; ``task`` is one number, or one per sample with -1 for untold."""
        if self.seen is None:
            return None
        if self.heads is None or task is None:
            return self.seen
        table = torch.zeros(len(self.heads) + 1, len(self.seen), dtype=torch.bool)
        table[-1] = self.seen
        for number, head in enumerate(self.heads):
            table[number, list(head)] = True
        return table[task]

    def workload(self, batch: int) -> Any:
        """What besides the batch's shape decides how many FLOPs an update takes; equal ones are counted once."""
        return None

    def memory(self) -> dict[str, Any]:
        """Everything that is kept besides model and optimizer: tensors, numbers, and dicts of those."""
        return {}

    def stored_bytes(self) -> int:
        """Bytes of the memory."""
        return _bytes(self.memory())

    def restore(self, memory: dict[str, Any]) -> None:
        """Take back what ``memory`` gave."""

    @contextmanager
    def metered(self, key: Any) -> Iterator[None]:
        """Charge what happens inside to the strategy; its FLOPs are counted once per key, since counting is slow."""
        started = time.perf_counter()
        if key in self._known_flops:
            yield
            flops = self._known_flops[key]
        else:
            with FlopCounterMode(display=False) as counter:
                yield
            flops = self._known_flops[key] = counter.get_total_flops()
        self._flops += flops
        self._seconds += time.perf_counter() - started

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on; the tensors are copies."""
        return {
            "model": {name: value.clone() for name, value in self.model.state_dict().items()},
            "optimizer": _copied(self.optimizer.state_dict()),
            "seen": None if self.seen is None else self.seen.clone(),
            "generator": self.generator.get_state(),
            "memory": _copied(self.memory()),
            "spent": (self._flops, self._seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where a strategy of the same kind was."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.seen = None if state["seen"] is None else state["seen"].clone()
        self.generator.set_state(state["generator"])
        self.restore(_copied(state["memory"]))
        self._flops, self._seconds = state["spent"]


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_copied(part) for part in value)
    return value


def _bytes(value: Any) -> int:
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(_bytes(part) for part in value.values())
    return 0
