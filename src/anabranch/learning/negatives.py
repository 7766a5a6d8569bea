"""Negative data: what a network trained by contrast learns to tell from real data (Hinton 2022, arXiv 2212.13345)."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from anabranch.data.task import Batch
from anabranch.errors import InputError

WriteLabel = Callable[[Tensor, Tensor], Tensor]  # inputs (batch, ...), label weights (batch, classes) -> inputs


def overwrite_label(x: Float[Tensor, "batch *dims"], label: Float[Tensor, "batch classes"]) -> Tensor:
    """Write the label over the first entries of the input: for pictures with an empty border."""
    flat, classes = x.flatten(1), label.shape[1]
    if flat.shape[1] <= classes:
        raise InputError(f"a label of {classes} classes does not fit over an input of {flat.shape[1]} numbers")
    return torch.cat([label, flat[:, classes:]], dim=1).view_as(x)


def append_label(x: Float[Tensor, "batch *dims"], label: Float[Tensor, "batch classes"]) -> Tensor:
    """Append the label to the flattened input; the network's first layer is wider by the number of classes."""
    return torch.cat([x.flatten(1), label], dim=1)


class Negatives(ABC):
    """How to make the pair that is told apart. Random choices come from torch's global generator, as dropout's do.

    ``needs_scores`` says whether the network has to be asked first.
    """

    needs_scores: bool = False

    @abstractmethod
    def pair(self, batch: Batch, scores: Float[Tensor, "batch classes"]) -> tuple[Tensor, Tensor]:
        """Positive and negative inputs, given the network's scores without the label."""

    def neutral(self, x: Tensor, classes: int) -> Tensor:
        """The input without a label."""
        return x


class LabelNegatives(Negatives):
    """The input with its label is positive, the same input with a wrong one negative; :meth:`odds` says which."""

    def __init__(self, write: WriteLabel = overwrite_label):
        self.write = write

    def neutral(self, x: Tensor, classes: int) -> Tensor:
        return self.write(x, x.new_full((len(x), classes), 1 / classes))

    def label(self, x: Tensor, label: Int[Tensor, "batch"], classes: int) -> Tensor:
        """The input with a label written into it."""
        return self.write(x, F.one_hot(label, classes).to(x.dtype))

    def pair(self, batch: Batch, scores: Float[Tensor, "batch classes"]) -> tuple[Tensor, Tensor]:
        classes = scores.shape[1]
        right = F.one_hot(batch.targets, classes).bool()
        wrong = torch.multinomial(self.odds(scores).masked_fill(right, 0.0), 1).squeeze(1)
        x = batch.inputs
        return self.label(x, batch.targets, classes), self.label(x, wrong, classes)

    def odds(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        """How likely each label is to be drawn, if it is wrong."""
        raise NotImplementedError


class WrongLabel(LabelNegatives):
    """The same input with any wrong label, all equally likely.

    Arguments:
        write: puts the label into the input; :func:`overwrite_label` keeps its size, :func:`append_label` does not.
    """

    def odds(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        return torch.ones_like(scores)


class HardLabel(LabelNegatives):
    """The same input with a wrong label drawn from the network's own probabilities, so that likely errors come often.

    Arguments:
        write: puts the label into the input; :func:`overwrite_label` keeps its size, :func:`append_label` does not.
    """

    needs_scores = True

    def odds(self, scores: Float[Tensor, "batch classes"]) -> Float[Tensor, "batch classes"]:
        # In proportion as the paper has it; the constant keeps a draw possible when the right label has it all.
        return scores.softmax(1) + 1e-6


class HybridImage(Negatives):
    """A picture patched together from two: right in its details, wrong as a whole. Needs no labels.

    The mask is random bits, blurred by [¼, ½, ¼] along both axes and cut at ½. Inputs are ``(batch, features)`` that
    form a picture, or ``(batch, channels, height, width)``.

    Arguments:
        size: height and width of a flat input's picture.
        blurs: how often the bits are blurred; more makes larger patches.
    """

    def __init__(self, size: tuple[int, int] | None = None, *, blurs: int = 6):
        self.size, self.blurs = size, blurs

    def pair(self, batch: Batch, scores: Float[Tensor, "batch classes"]) -> tuple[Tensor, Tensor]:
        x = batch.inputs
        height, width = self.size or x.shape[-2:]
        if x.ndim == 2 and x.shape[1] != height * width:
            raise InputError(
                f"HybridImage needs the size of the picture: {x.shape[1]} numbers are not {height}×{width}"
            )
        mask = blurred_mask(len(x), height, width, self.blurs).to(x.device)
        mask = mask.flatten(1) if x.ndim == 2 else mask[:, None]
        other = x[torch.randperm(len(x)).to(x.device)]
        return x, torch.where(mask, x, other)


def blurred_mask(number: int, height: int, width: int, blurs: int) -> Bool[Tensor, "number {height} {width}"]:
    """Random bits blurred into patches; about half of them are set."""
    mask = torch.randint(2, (number, 1, height, width)).float()
    kernel = torch.tensor([0.25, 0.5, 0.25])
    kernel = (kernel[:, None] * kernel)[None, None]
    for _ in range(blurs):
        mask = F.conv2d(F.pad(mask, (1, 1, 1, 1), mode="replicate"), kernel)
    return (mask > 0.5)[:, 0]
