"""The forward-forward rule: each layer learns to be active on real data and quiet on negative data (Hinton 2022)."""

from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch import optim
from anabranch.data.task import Batch
from anabranch.errors import InputError
from anabranch.learning.base import MakeOptimizer, Objective, Rule, Trainer
from anabranch.learning.chain import as_chain
from anabranch.learning.local import LocalStages
from anabranch.learning.negatives import LabelNegatives, Negatives, WrongLabel
from anabranch.spaces import Range, Space


class ForwardForward(Rule):
    """Two forward passes instead of a forward and a backward one (arXiv 2212.13345, section 2).

    A layer's *goodness* is the sum of its squared activities. Each layer has the loss
    softplus(θ − g⁺) + softplus(g⁻ − θ) for its goodness on positive and on negative inputs, which have the label
    written into them. What it reads is scaled to unit length, lest the goodness of the layer below give the answer
    away; no gradient leaves a layer. A label is predicted by running the network with every label and taking the one
    with the most goodness, summed over all layers but the first.

    The last stage of the chain reads the last hidden layer of an input with a neutral label and is trained with the
    plain objective. It gives the probabilities for hard negatives, and the prediction where negatives need no labels.
    The paper reads all layers but the first there; reading one keeps the network the same as backpropagation's.

    The paper's sum of squares is kept, not the mean that some use: with unit-length inputs a mean cannot reach θ = 2.

    Arguments:
        theta: the goodness that separates real data from negative data.
        negatives: how positive and negative inputs are made; see :mod:`anabranch.learning.negatives`.
        skip: how many of the first hidden layers have no say in a prediction, as long as one has.
        inverted: low goodness for real data, as in the paper's variant of predicting activity away.

    Raises:
        InputError: if the module has fewer than two stages, or its number of outputs cannot be read off the last one.
    """

    kind: Literal["local"] = "local"
    needs: Literal["chain"] = "chain"
    space: ClassVar[Space] = {"theta": Range(0.5, 20.0, default=2.0, log=True)}

    def __init__(
        self, *, theta: float = 2.0, negatives: Negatives | None = None, skip: int = 1, inverted: bool = False
    ):
        if theta <= 0 or skip < 0:
            raise ValueError(f"expected theta > 0 and skip >= 0; got {theta} and {skip}")
        self.theta, self.skip, self.inverted = theta, skip, inverted
        self.negatives = WrongLabel() if negatives is None else negatives

    def bind(
        self,
        module: nn.Module,
        objective: Objective = F.cross_entropy,
        make_optimizer: MakeOptimizer = optim.AdamW,
        *,
        clip: float | None = None,
    ) -> "ForwardForwardTrainer":
        return ForwardForwardTrainer(self, module, objective, make_optimizer, clip)


class ForwardForwardTrainer(Trainer):
    """:class:`ForwardForward` at work."""

    def __init__(
        self,
        rule: ForwardForward,
        module: nn.Module,
        objective: Objective,
        make_optimizer: MakeOptimizer,
        clip: float | None,
    ):
        super().__init__(module, objective, clip)
        self.rule = rule
        *hidden, readout = as_chain(module)
        if not hidden:
            raise InputError("forward-forward needs a chain of at least one hidden stage and a readout; got one stage")
        self.classes = _outputs(readout)
        self.hidden = LocalStages(hidden, make_optimizer, clip)
        self.readout = LocalStages([readout], make_optimizer, clip)
        self.optimizers += [*self.hidden.optimizers, *self.readout.optimizers]

    @property
    def sequential_depth(self) -> int:
        """Layers update while the next ones run, so one backward pass of one layer comes on top of a forward pass."""
        stages = len(self.hidden.stages) + 1
        return 2 * stages if self.rule.negatives.needs_scores else stages + 1

    def update(self, batch: Batch) -> Float[Tensor, ""]:
        negatives = self.rule.negatives
        with torch.no_grad():
            top = self._activities(negatives.neutral(_inputs(batch), self.classes))[-1]
        scores, readout_loss = self.readout.train(0, unit_length(top), lambda _, y: self.objective(y, batch.targets))
        pair = torch.cat(negatives.pair(batch, scores))
        _, loss = self.hidden.sweep(pair, lambda _, y: self.contrast(y), between=unit_length)
        return loss + readout_loss

    def contrast(self, activity: Tensor) -> Float[Tensor, ""]:
        """One layer's loss, on its activities for as many positive inputs as negative ones."""
        margin = (goodness(activity) - self.rule.theta).view(2, -1)
        if self.rule.inverted:
            margin = -margin
        return F.softplus(torch.stack([-margin[0], margin[1]])).sum(0).mean()

    def scores(self, batch: Batch) -> Tensor:
        x = _inputs(batch)
        negatives = self.rule.negatives
        if not isinstance(negatives, LabelNegatives):
            return self.readout.stages[0](unit_length(self._activities(x)[-1]))
        labels = torch.arange(self.classes, device=x.device).repeat_interleave(len(x))
        copies = x.repeat(self.classes, *[1] * (x.ndim - 1))
        layers = self._activities(negatives.label(copies, labels, self.classes))
        judges = layers[min(self.rule.skip, len(layers) - 1) :]
        total = torch.stack([goodness(y) for y in judges]).sum(0).view(self.classes, len(x)).T
        return -total if self.rule.inverted else total

    def once(self, batch: Batch) -> Tensor:
        return self.module(self.rule.negatives.neutral(_inputs(batch), self.classes))

    def _activities(self, x: Tensor) -> list[Tensor]:
        """What every hidden stage gives, each reading the one before at unit length."""
        layers = []
        for stage in self.hidden.stages:
            x = stage(unit_length(x))
            layers.append(x)
        return layers


def goodness(activity: Float[Tensor, "batch *dims"]) -> Float[Tensor, "batch"]:
    """Sum of the squared activities of each sample."""
    return activity.flatten(1).square().sum(1)


def unit_length(x: Float[Tensor, "batch *dims"], eps: float = 1e-8) -> Float[Tensor, "batch *dims"]:
    """Each sample divided by its length. Not centred: the next layer is to learn from which units are active."""
    norm = torch.linalg.vector_norm(x.flatten(1), dim=1)
    return x / (norm + eps).view(-1, *[1] * (x.ndim - 1))


def _inputs(batch: Batch) -> Tensor:
    if batch.lengths is not None:
        raise InputError("forward-forward trains chains on inputs of one size; got sequences of several lengths")
    return batch.inputs


def _outputs(stage: nn.Module) -> int:
    widths = [width for m in stage.modules() if isinstance(width := getattr(m, "out_features", None), int)]
    if not widths:
        raise InputError("forward-forward reads the number of classes off the last stage's `out_features`; it has none")
    return widths[-1]
