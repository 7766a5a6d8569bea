"""Training a stack of reversible blocks in memory that does not grow with its depth (arXiv 1707.04585, section 3.2)."""

from functools import partial
from typing import Any, TypeVar, no_type_check

import torch
from torch import Tensor, nn

from anabranch.models.metaformer import MetaFormer
from anabranch.nn.block.reversible import Reversible

Model = TypeVar("Model", bound=nn.Module)


def rewind(model: Model) -> Model:
    """Keep only the last output of a model's trunk; for the gradient every block's input is computed from its output.

    Outputs and the saved state stay as they were, gradients up to rounding; a step costs about one more forward pass and
    one more pass backwards through the blocks.

    Arguments:
        model: holds one :class:`anabranch.models.MetaFormer` of reversible blocks, or is one. Changed in place.

    Returns: the model.
    Raises: ``ValueError`` if the trunk has other blocks, several stages, leaves branches out at random, or has a mixer
        that changes with every pass.
    """
    trunks = [module for module in model.modules() if isinstance(module, MetaFormer)]
    if len(trunks) != 1 or len(trunks[0].stages) != 1:
        raise ValueError("expected a model with one MetaFormer of one stage")
    if getattr(trunks[0].forward, "func", None) is _forward:
        return model
    blocks = trunks[0].blocks
    others = [type(block).__name__ for block in blocks if not isinstance(block, Reversible)]
    if others:
        raise ValueError(f"expected reversible blocks only; got {', '.join(sorted(set(others)))}")
    if any(getattr(module, "drop_path", 0) for module in trunks[0].modules()):
        raise ValueError("expected drop_path=0: a branch that was left out at random cannot be found out afterwards")
    check_repeatable(trunks[0])
    trunks[0].forward = partial(_forward, trunks[0].forward)
    return model


def check_repeatable(model: nn.Module) -> None:
    """Raise ``ValueError`` for a part of which a second forward pass would not do what the first did."""
    for module in model.modules():
        if reason := getattr(module, "no_repeat", None):
            raise ValueError(f"expected parts whose forward pass can be run again; {type(module).__name__}: {reason}")


def _forward(forward: Any, x: Tensor, *, mask: Tensor | None = None, grid: tuple[int, ...] | None = None) -> Tensor:
    trunk = forward.__self__
    if not torch.is_grad_enabled():
        return forward(x, mask=mask, grid=grid)
    weights = [p for p in trunk.parameters() if p.requires_grad]
    return _Rewound.apply(x, trunk.blocks, mask, trunk.grid if grid is None else grid, *weights)


@no_type_check
class _Rewound(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, blocks, mask, grid, *weights):
        for block in blocks:
            x = block(x, mask=mask, grid=grid)
        ctx.save_for_backward(x)
        ctx.blocks, ctx.mask, ctx.grid, ctx.weights = blocks, mask, grid, weights
        return x

    @staticmethod
    def backward(ctx, by_y):
        (y,) = ctx.saved_tensors
        found = dict.fromkeys(ctx.weights)  # a weight may serve several blocks
        for block in reversed(ctx.blocks):
            x = block.inverse(y, mask=ctx.mask, grid=ctx.grid).requires_grad_()
            own = [p for p in block.parameters() if p.requires_grad]
            with torch.enable_grad():
                again = block(x, mask=ctx.mask, grid=ctx.grid)
                by_y, *by_own = torch.autograd.grad(again, [x, *own], by_y, allow_unused=True)
            for weight, by in zip(own, by_own, strict=True):
                if by is not None:
                    before = found[weight]
                    found[weight] = by if before is None else before + by
            y = x.detach()
        return by_y, None, None, None, *found.values()
