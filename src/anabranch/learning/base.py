"""The learning rule: the slot that says how a network is trained, and what a step of it costs."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch import optim
from anabranch.data.task import Batch
from anabranch.errors import InputError
from anabranch.learning.chain import as_chain
from anabranch.learning.meter import Flops, LiveBytes, SavedBytes
from anabranch.spaces import Space

Objective = Callable[[Tensor, Tensor], Float[Tensor, ""]]
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What one step did. Everything but ``loss`` is measured only inside ``with trainer.metered():``.

    Arguments:
        loss: the rule's own loss, before the update; a detached scalar that stays on the device, so that a step waits
            for nothing.
        objective: the plain objective of ``predict`` on the same batch, before the update.
        saved_peak, saved_total: bytes that autograd kept for its backward passes: at the worst moment, and in all.
        live_peak: bytes of all new tensors at the worst moment, gradients and workspace included.
        forward_units, backward_units: floating-point operations of matrix products, in forward passes of the module.
        sequential_depth: longest chain of stage evaluations that have to wait for each other.
        seconds: time of the step while it was being measured, so with the meters' own.
    """

    loss: Tensor
    objective: float | None = None
    saved_peak: int | None = None
    saved_total: int | None = None
    live_peak: int | None = None
    forward_units: float | None = None
    backward_units: float | None = None
    sequential_depth: int | None = None
    seconds: float | None = None


class Rule(ABC):
    """Contract of the slot ``rule``: ``rule.bind(module, objective, make_optimizer) -> Trainer``.

    A rule is a set of options; the trainer it binds does the work. Declared facts:

    * ``kind``: *gradient* (computes the objective's gradient, exactly or nearly), *local* (each stage has a loss of its
      own) or *wrapper* (goes around another rule);
    * ``needs``: what it asks of the module: *any*, a *chain* of stages (:func:`anabranch.learning.as_chain`) or a chain
      of *residual* branches (:func:`anabranch.learning.as_residual`).

    Laws, proved for all of them by the contract tests: binding changes no output; a metered step updates exactly as an
    unmetered one; a trainer restored from ``state_dict`` continues bit for bit; the same seed gives the same run.
    """

    kind: ClassVar[Literal["gradient", "local", "wrapper"]]
    needs: ClassVar[Literal["any", "chain", "residual"]] = "any"
    space: ClassVar[Space] = {}

    @abstractmethod
    def bind(
        self,
        module: nn.Module,
        objective: Objective = F.cross_entropy,
        make_optimizer: MakeOptimizer = optim.AdamW,
        *,
        clip: float | None = None,
    ) -> "Trainer":
        """Prepare to train a module in place.

        Arguments:
            objective: maps the output and the targets to the batch's mean loss.
            make_optimizer: called once for every group of parameters that the rule trains by itself, with the module or
                with a list of ``(name, parameter)``; see :mod:`anabranch.optim`.
            clip: largest norm of a group's gradient; None leaves it alone.

        Raises:
            InputError: if the module is not what the rule ``needs``.
        """


class Trainer(ABC):
    """A rule at work on one module.

    ``optimizers`` holds every optimizer the rule made: a schedule changes ``lr`` in all of their groups. A subclass
    implements :meth:`update`, and where the module alone is not the predictor, :meth:`scores`.
    """

    module: nn.Module

    def __init__(self, module: nn.Module, objective: Objective, clip: float | None = None):
        if clip is not None and clip <= 0:
            raise ValueError(f"clip must be positive, or None; got {clip}")
        self.module, self.objective, self.clip = module, objective, clip
        self.optimizers: list[torch.optim.Optimizer] = []
        self._metering = False
        module.train()

    def step(self, batch: Batch) -> StepReport:
        """Update the module once."""
        return self._metered_step(batch) if self._metering else StepReport(self.update(batch))

    @abstractmethod
    def update(self, batch: Batch) -> Float[Tensor, ""]:
        """One update; returns the rule's own loss, detached."""

    @torch.no_grad()
    def predict(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Scores in eval mode, without a graph; changes nothing."""
        with evaluating(self.module):
            return self.scores(Batch(inputs, inputs, lengths))

    def scores(self, batch: Batch) -> Tensor:
        """The prediction itself; the batch's targets are not to be read."""
        return forward(self.module, batch)

    def once(self, batch: Batch) -> Tensor:
        """One forward pass of the module, the unit that work is counted in."""
        return forward(self.module, batch)

    def grads(self, batch: Batch) -> dict[str, Tensor]:
        """The rule's gradient for every trained parameter of the module, without an update. Gradient rules only."""
        raise InputError(f"{type(self).__name__} has no gradient of the objective: it is a local rule")

    def extra_parameters(self) -> dict[str, nn.Parameter]:
        """Parameters that the rule trains beside the module's own."""
        return {}

    def extra_state(self) -> dict[str, Any]:
        """What the rule itself has to remember; whatever :meth:`load_extra_state` takes."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`extra_state` gave."""
        if state:
            raise InputError(f"{type(self).__name__} remembers nothing; got {', '.join(state)}: from another rule")

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: module, optimizers, and the rule's own state."""
        return {
            "module": self.module.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rule": self.extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        if len(state["optimizers"]) != len(self.optimizers):
            raise InputError(
                f"the state has {len(state['optimizers'])} optimizers, this trainer {len(self.optimizers)}: "
                "it is from another rule or another module"
            )
        self.module.load_state_dict(state["module"])
        for optimizer, one in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(one)
        self.load_extra_state(state["rule"])

    @property
    def sequential_depth(self) -> int:
        """Longest chain of dependent stage evaluations in one step; a forward and a backward pass unless said."""
        return 2 * stages_in(self.module)

    @contextmanager
    def metered(self) -> Iterator[None]:
        """Measure the steps inside: slower, with the same updates."""
        self._metering = True
        try:
            yield
        finally:
            self._metering = False

    def descend(self, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter]) -> None:
        """One step along the gradients that are there, clipped."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(parameters, self.clip)
        optimizer.step()

    def _metered_step(self, batch: Batch) -> StepReport:
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        with torch.random.fork_rng(devices=devices):
            objective = float(self.objective(self.predict(batch.inputs, batch.lengths), batch.targets))
            with Flops() as one, torch.no_grad(), evaluating(self.module):
                self.once(batch)
        started = time.perf_counter()
        with LiveBytes() as live, Flops() as flops, SavedBytes(self.module) as saved:
            loss = self.update(batch)
        seconds = time.perf_counter() - started
        unit = max(one.forward, 1)
        return StepReport(
            loss=loss,
            objective=objective,
            saved_peak=saved.peak,
            saved_total=saved.total,
            live_peak=live.peak,
            forward_units=flops.forward / unit,
            backward_units=flops.backward / unit,
            sequential_depth=self.sequential_depth,
            seconds=seconds,
        )


def forward(module: nn.Module, batch: Batch) -> Tensor:
    """Run a module on a batch, with the lengths where there are some."""
    return module(batch.inputs) if batch.lengths is None else module(batch.inputs, lengths=batch.lengths)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode, and afterwards every submodule as it was."""
    flags = [(m, m.training) for m in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for m, training in flags:
            m.training = training


def trained(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """The parameters that want a gradient."""
    return {name: p for name, p in named if p.requires_grad}


def stages_in(module: nn.Module) -> int:
    """Number of stages; a module that is no chain is one stage."""
    try:
        return len(as_chain(module))
    except InputError:
        return 1
