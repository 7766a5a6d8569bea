"""Computing activations anew: less memory for a second forward pass (Chen et al. 2016, arXiv 1604.06174)."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from anabranch.models.rewind import check_repeatable
from anabranch.nn.feedforward.base import ChannelMixer
from anabranch.nn.mixing.base import TokenMixer

Model = TypeVar("Model", bound=nn.Module)


def recompute(model: Model, kinds: tuple[type[nn.Module], ...] = (TokenMixer, ChannelMixer)) -> Model:
    """Keep only the inputs of some modules while training; what is inside is computed again for the gradient.

    Outputs, gradients and the saved state stay as they were. Random draws are repeated, and so is what a module adds to
    a list that it was given, as blocks do that later ones look back at: each time to the list as it first found it.

    Arguments:
        model: changed in place.
        kinds: the classes whose instances are computed anew; by default all token and channel mixers, as the sparse
            transformer does (arXiv 1904.10509, section 5.4).

    Returns: the model.
    Raises: ``ValueError`` if one of them changes with every pass.
    """
    chosen = [module for module in model.modules() if isinstance(module, kinds)]
    for module in chosen:
        check_repeatable(module)
    for module in chosen:
        module.forward = partial(_anew, module.forward)
    return model


def _anew(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs, **options)
    found = {name: [*value] for name, value in options.items() if isinstance(value, list)}
    first = True

    def run(*inputs: Any) -> Any:
        nonlocal first
        given = options if first else options | {name: [*value] for name, value in found.items()}
        first = False
        return forward(*inputs, **given)

    return checkpoint(run, *inputs, use_reentrant=False)
