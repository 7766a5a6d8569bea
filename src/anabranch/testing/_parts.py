"""The laws of every part, whatever slot it fills."""

import warnings
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.gradcheck import GradcheckError, gradcheck

from anabranch.testing._support import close, finite, first_tensor, forward_of, name_of, same, seeded, tensors

Make = Callable[[], nn.Module]


def check_part(make: Make, x: Tensor) -> None:
    """The laws of every part: all checks of this module that ask for a factory, except :func:`check_compile`.

    Arguments:
        make: builds the part; called several times.
        x: a small input, ``(batch, ...)`` with at least 2 samples; of three axes, the second is taken for time.
    """
    check_gradients(make, x)
    check_shapes(make, x)
    check_state_dict(make, x)
    check_autocast(make, x)
    check_same_seed(make, x)
    check_scales(make, x)


def check_gradients(make: Make, x: Tensor) -> None:
    """Gradients by the input and by every parameter agree with differences, in float64."""
    part = make().double().eval()
    x = x.double()
    names = [name for name, p in part.named_parameters() if p.requires_grad]
    values = [part.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def outputs(x: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        given = torch.func.functional_call(part, dict(zip(names, values, strict=True)), (x,))
        return tuple(y for y in tensors(given) if y.is_floating_point() or y.is_complex())

    try:
        gradcheck(outputs, (x.detach().clone().requires_grad_(), *values), atol=1e-7, fast_mode=True)
    except GradcheckError as error:
        raise AssertionError(f"{name_of(part)}: a gradient is wrong: {error}") from error


def check_shapes(make: Make, x: Tensor) -> None:
    """Works for one sample, one frame, an odd number of frames and a non-contiguous input; samples do not interact."""
    part = make().eval()
    whole = output_of(part, x, "the input as given")
    assert whole.shape[0] == x.shape[0], f"{name_of(part)}: {x.shape[0]} samples gave an output {tuple(whole.shape)}"
    close(output_of(part, x[:1], "one sample"), whole[:1], 1e-5, f"{name_of(part)}: a sample alone and in a batch")
    strided = x.transpose(0, -1).contiguous().transpose(0, -1)
    close(
        output_of(part, strided, "a non-contiguous input"),
        whole,
        1e-5,
        f"{name_of(part)}: a contiguous and a non-contiguous input",
    )
    if x.ndim == 3 and not getattr(part, "fixed_length", False):
        odd = x.shape[1] - 1 + x.shape[1] % 2
        for length in {1, odd}:
            y = output_of(part, x[:, :length], f"{length} frames")
            assert y.shape[1:] == (length, *whole.shape[2:]), (
                f"{name_of(part)}: {length} frames gave an output {tuple(y.shape)}"
            )
            finite([y], f"{name_of(part)}: the output for {length} frames")


def check_state_dict(make: Make, x: Tensor) -> None:
    """A part built anew and given the saved state computes the same, and loading is strict."""
    torch.manual_seed(0)
    part = make().eval()
    torch.manual_seed(1)
    other = make().eval()
    other.load_state_dict(part.state_dict())
    same(seeded(other, x), seeded(part, x), f"{name_of(part)}: a saved and a loaded part")


def check_autocast(make: Make, x: Tensor) -> None:
    """Forward and backward run under ``torch.autocast`` in bfloat16 and stay finite."""
    part = make()
    x = x.detach().clone().requires_grad_()
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        y = output_of(part, x, "autocast to bfloat16")
    finite([y], f"{name_of(part)}: the output in bfloat16")
    y.float().sum().backward()
    finite(gradients_of(part, x), f"{name_of(part)}: the gradient in bfloat16")


def check_same_seed(make: Make, x: Tensor) -> None:
    """Built and trained under the same seed, two parts do the same; and the input is left as it was."""
    seen = []
    for _ in range(2):
        torch.manual_seed(0)
        part, leaf = make().train(), x.clone().requires_grad_()  # some parts have no weights
        given = leaf.clone()
        y = first_tensor(part(given))
        same(given, x, f"{name_of(part)}: the input before and after")
        y.sum().backward()
        seen.append([y, *gradients_of(part, leaf)])
    for first, second in zip(*seen, strict=True):
        same(second, first, f"{name_of(make)}: two runs under one seed")


def check_scales(make: Make, x: Tensor, scales: tuple[float, ...] = (1e-4, 1.0, 1e4)) -> None:
    """Output and gradient stay finite for small and for large inputs, in float32."""
    for scale in scales:
        part = make()
        scaled = (x.float() * scale).detach().requires_grad_()
        y = output_of(part, scaled, f"an input of {scale:g} times the usual size")
        finite([y], f"{name_of(part)}: the output for an input of {scale:g} times the usual size")
        (y.float() / max(1.0, float(y.detach().abs().max()))).sum().backward()
        finite(
            gradients_of(part, scaled), f"{name_of(part)}: the gradient at an input of {scale:g} times the usual size"
        )


def check_compile(make: Make, x: Tensor) -> None:
    """``torch.compile`` changes nothing; skipped for a part that says in ``no_compile`` why it cannot."""
    part = make().eval()
    if getattr(part, "no_compile", None) is None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the compiler's own, about itself
            compiled: Any = torch.compile(deepcopy(part))
            y = output_of(compiled, x, "torch.compile")
        close(y, seeded(part, x), 1e-4, f"{name_of(part)}: with and without torch.compile")


def output_of(part: nn.Module, x: Tensor, situation: str) -> Tensor:
    try:
        return first_tensor(forward_of(part, x))
    except Exception as error:
        raise AssertionError(f"{name_of(part)} fails with {situation}: {type(error).__name__}: {error}") from error


def gradients_of(part: nn.Module, x: Tensor) -> list[Tensor]:
    return [leaf.grad for leaf in (x, *part.parameters()) if leaf.grad is not None]
