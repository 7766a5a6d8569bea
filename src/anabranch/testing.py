"""Checks that every part must pass; a part of your own can be held to them too. A failed check raises AssertionError.

Parts are called with default options in eval mode on copies, so that a check leaves the part as it was. A part may give
a tensor, or any nesting of tuples, lists and dicts of tensors; where the laws speak of *the output*, they mean the first
tensor.
"""

import inspect
from collections.abc import Callable, Iterator
from copy import deepcopy
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from anabranch.nn.streaming import State, Streaming, map_state, state_bytes

__all__ = [
    "check_autocast",
    "check_causal",
    "check_compile",
    "check_gradients",
    "check_padding",
    "check_part",
    "check_same_seed",
    "check_scales",
    "check_shapes",
    "check_state_dict",
    "check_streaming",
]

Make = Callable[[], nn.Module]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


def check_part(make: Make, x: Tensor) -> None:
    """The laws of every part: all checks of this module that ask for a factory, except :func:`check_compile`.

    Arguments:
        make: builds the part; called several times.
        x: a small input, ``(batch, ...)`` with at least 2 samples; the second axis is taken for time if there are three.
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
        torch.autograd.gradcheck(outputs, (x.detach().clone().requires_grad_(), *values), fast_mode=True)
    except torch.autograd.gradcheck.GradcheckError as error:
        raise AssertionError(f"{name_of(part)}: a gradient is wrong: {error}") from error


def check_shapes(make: Make, x: Tensor) -> None:
    """Works for one sample, one frame, an odd number of frames and a non-contiguous input; samples do not interact."""
    part = make().eval()
    whole = output_of(part, x)
    assert whole.shape[0] == x.shape[0], f"{name_of(part)}: {x.shape[0]} samples gave an output {tuple(whole.shape)}"
    close(output_of(part, x[:1]), whole[:1], 1e-5, f"{name_of(part)}: a sample alone and in a batch")
    strided = torch.stack([x, x], dim=-1)[..., 0]
    assert not strided.is_contiguous()
    close(output_of(part, strided), whole, 1e-5, f"{name_of(part)}: a contiguous and a non-contiguous input")
    if x.ndim == 3 and not getattr(part, "fixed_length", False):
        odd = x.shape[1] - 1 + x.shape[1] % 2
        for length in {1, odd}:
            y = output_of(part, x[:, :length])
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
        y = output_of(part, x)
    finite(list(tensors(y)), f"{name_of(part)}: the output in bfloat16")
    y.float().sum().backward()
    finite(gradients_of(part, x), f"{name_of(part)}: the gradient in bfloat16")


def check_same_seed(make: Make, x: Tensor) -> None:
    """Built and trained under the same seed, two parts do the same; and the input is left as it was."""
    given, seen = x.clone(), []
    for _ in range(2):
        torch.manual_seed(0)
        part = make().train()
        part.zero_grad()
        y = output_of(part, x)
        y.sum().backward()
        seen.append([y, *gradients_of(part, x)])
    for first, second in zip(*seen, strict=True):
        same(second, first, f"{name_of(make)}: two runs under one seed")
    same(x, given, f"{name_of(make)}: the input before and after")


def check_scales(make: Make, x: Tensor, scales: tuple[float, ...] = (1e-4, 1.0, 1e4)) -> None:
    """Output and gradient stay finite for small and for large inputs, in float32."""
    for scale in scales:
        part = make()
        scaled = (x.float() * scale).detach().requires_grad_()
        y = output_of(part, scaled)
        finite([y], f"{name_of(part)}: the output for an input of {scale:g} times the usual size")
        (y.float() / max(1.0, float(y.detach().abs().max()))).sum().backward()
        finite(gradients_of(part, scaled), f"{name_of(part)}: the gradient at an input of {scale:g} times the usual size")


def check_compile(make: Make, x: Tensor) -> None:
    """``torch.compile`` changes nothing; skipped for a part that says in ``no_compile`` why it cannot."""
    part = make().eval()
    if getattr(part, "no_compile", None) is None:
        compiled = torch.compile(deepcopy(part))
        close(output_of(compiled, x), output_of(part, x), 1e-4, f"{name_of(part)}: with and without torch.compile")


def check_streaming(
    part: Streaming, x: Tensor, *, bound: int | None = None, cuts: int = 3, tolerance: float | None = None
) -> None:
    """The law of streaming: however the signal is cut, the joined outputs are those of the whole, so are the gradients.

    The output of the stream lags by ``part.latency`` frames. Checked in float64 (to 1e-10) and float32 (to 1e-5).

    Arguments:
        part: a part that can stream. If it returns a state beside its output, that is compared too.
        x: a signal ``(batch, time, dim)``, longer than the latency.
        bound: most bytes that the state may hold for this batch, in float64; those of the initial state if not given.
        cuts: how many random ways of cutting the signal are tried, beside single frames.
        tolerance: overrides both tolerances, for a part whose arithmetic cannot do better.
    """
    assert part.streams, f"{name_of(part)} says that it cannot stream"
    lag, time = part.latency, x.shape[1]
    if time <= lag:
        raise ValueError(f"the signal must be longer than the latency of {lag} frames; got {time}")
    random = torch.Generator().manual_seed(0)
    for dtype, limit in TOLERANCE.items():
        limit = tolerance or limit
        copy, signal = in_type(part, dtype), x.detach().to(dtype)
        given = forward_of(copy, signal)
        y, last = first_tensor(given), given[1] if isinstance(given, tuple) else None
        loss_weights = torch.randn(y[:, : time - lag].shape, generator=random, dtype=y.dtype).to(y.device)
        wanted = gradients(copy, signal, lambda s, c=copy: first_tensor(forward_of(c, s))[:, : time - lag], loss_weights)
        frames = list(range(time + 1))
        for cut in [frames, *(random_cut(time, random) for _ in range(cuts))]:
            single = cut is frames
            how = "single frames" if single else f"chunks of {[b - a for a, b in pairwise(cut)]} frames"
            streamed, state = stream(copy, signal, cut, single, bound if dtype is torch.float64 else None)
            assert streamed.shape == y.shape, (
                f"{name_of(part)}: {how} give {tuple(streamed.shape)}, the whole gives {tuple(y.shape)}"
            )
            message = f"{name_of(part)} in {dtype}: the output for {how} and for the whole"
            close(streamed[:, lag:], y[:, : time - lag], limit, message)
            if last is not None:
                for a, b in zip(tensors(state), tensors(last), strict=True):
                    close(a, b, limit, f"{name_of(part)} in {dtype}: the state after {how} and after the whole")
            got = gradients(
                copy, signal, lambda s, c=copy, f=cut, one=single: stream(c, s, f, one, None)[0][:, lag:], loss_weights
            )
            for name, gradient in wanted.items():
                message = f"{name_of(part)} in {dtype}: the gradient of {name} over {how} and over the whole"
                # A gradient adds up a term per frame, and its rounding errors.
                close(got[name], gradient, 10 * limit, message)


def check_causal(part: nn.Module, x: Tensor, *, atol: float = 0.0) -> None:
    """No output depends on a frame that lies more than ``part.latency`` ahead: by disturbing it, and by its gradient.

    Arguments:
        part: maps ``(batch, time, dim)`` to an output with the same time axis.
        x: a signal, at least 2 frames longer than the latency.
        atol: what may leak through; more than 0 only for rounding, as in convolution by Fourier transforms.
    """
    part, x = in_type(part, torch.float64), x.detach().double()
    time, lag = x.shape[1], getattr(part, "latency", 0)
    whole = seeded(part, x).detach()
    for now in range(time - 1 - lag):
        future = slice(now + lag + 1, None)
        disturbed = x.clone()
        disturbed[:, future] = 100 * torch.randn_like(disturbed[:, future])
        change = (seeded(part, disturbed)[:, : now + 1] - whole[:, : now + 1]).abs().max().item()
        assert change <= atol, f"{name_of(part)}: output {now} changes by {change:.2g} with frames after {now + lag}"
        leaf = x.clone().requires_grad_()
        y = seeded(part, leaf)[:, now]
        (gradient,) = torch.autograd.grad((y * torch.randn_like(y)).sum(), leaf, materialize_grads=True)
        leak = gradient[:, future].abs().max().item()
        assert leak <= atol, f"{name_of(part)}: output {now} has a gradient of {leak:.2g} by frames after {now + lag}"


def check_padding(part: nn.Module, x: Tensor) -> None:
    """What stands behind a row's last frame changes nothing: neither earlier outputs nor the state returned.

    For a part that takes ``lengths`` or else ``mask`` (True where a frame exists) beside the input.
    """
    part, x = in_type(part, torch.float64), x.detach().double()
    batch, time = x.shape[:2]
    options = inspect.signature(part.forward).parameters
    option = next((name for name in ("lengths", "mask") if name in options), None)
    if option is None:
        raise ValueError(f"{name_of(part)} takes neither lengths nor a mask")
    lengths = torch.tensor([1 + (row * (time - 1)) // max(batch - 1, 1) for row in range(batch)], device=x.device)
    exists = torch.arange(time, device=x.device) < lengths[:, None]
    facts = {option: lengths if option == "lengths" else exists}
    results = []
    for seed in range(2):
        junk = 100 * torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype).to(x.device)
        results.append(forward_of(part, torch.where(exists[..., None], x, junk), **facts))
    for row, length in enumerate(lengths.tolist()):
        alone = forward_of(part, x[row : row + 1, :length])
        for result in results:
            message = f"{name_of(part)}: the output for {length} of {time} frames, and for these alone"
            close(first_tensor(result)[row : row + 1, :length], first_tensor(alone), 1e-10, message)
            if isinstance(result, tuple):
                message = f"{name_of(part)}: the state at {length} of {time} frames, and after these alone"
                for a, b in zip(tensors(result[1]), tensors(alone[1]), strict=True):
                    close(a[row : row + 1], b, 1e-10, message)


def stream(
    part: Streaming, x: Tensor, cut: list[int], single: bool, bound: int | None
) -> tuple[Tensor, State]:
    """Joined outputs and last state over the pieces of a cut; the state must stay within its bound, and be new."""
    state = part.initial_state(x.shape[0])
    for tensor in tensors(state):
        assert tensor.shape[:1] == x.shape[:1], (
            f"{name_of(part)}: the first axis of a state must be the batch of {x.shape[0]}; got {tuple(tensor.shape)}"
        )
    most = state_bytes(state) if bound is None else bound
    outputs = []
    for start, end in pairwise(cut):
        before = map_state(lambda tensor: tensor.detach().clone(), state)
        if single:
            y, new = part.step(x[:, start], state)
            outputs.append(y[:, None])
        else:
            y, new = part.chunk(x[:, start:end], state)
            outputs.append(y)
        for old, kept in zip(tensors(state), tensors(before), strict=True):
            same(old, kept, f"{name_of(part)}: the given state before and after a step")
        size = state_bytes(new)
        assert size <= most, f"{name_of(part)}: the state holds {size} bytes after {end} frames; allowed are {most}"
        state = new
    return torch.cat(outputs, dim=1), state


def random_cut(time: int, random: torch.Generator) -> list[int]:
    inside = torch.randperm(max(time - 1, 0), generator=random)[: max(1, time // 3)] + 1
    return [0, *sorted(inside.tolist()), time]


def gradients(
    part: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor], weights: Tensor
) -> dict[str, Tensor]:
    """Gradient of a weighted sum of the output, by the input and by every parameter."""
    leaf = x.clone().requires_grad_()
    leaves = {"the input": leaf} | {name: p for name, p in part.named_parameters() if p.requires_grad}
    total = (run(leaf) * weights).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


def in_type(part: nn.Module, dtype: torch.dtype) -> Any:
    return deepcopy(part).to(dtype).eval()


def forward_of(part: nn.Module, x: Tensor, **facts: Any) -> Any:
    """Everything a part gives; random draws are the same in every call."""
    torch.manual_seed(0)
    return part(x, **facts)


def output_of(part: nn.Module, x: Tensor) -> Tensor:
    return first_tensor(part(x))


def seeded(part: nn.Module, x: Tensor) -> Tensor:
    return first_tensor(forward_of(part, x))


def tensors(nested: Any) -> Iterator[Tensor]:
    """The tensors in any nesting of tuples, lists and dicts."""
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, (dict, tuple, list)):
        for part in nested.values() if isinstance(nested, dict) else nested:
            yield from tensors(part)


def first_tensor(nested: Any) -> Tensor:
    return next(tensors(nested))


def gradients_of(part: nn.Module, x: Tensor) -> list[Tensor]:
    return [leaf.grad for leaf in (x, *part.parameters()) if leaf.grad is not None]


def name_of(part: Any) -> str:
    return type(part).__name__ if isinstance(part, nn.Module) else getattr(part, "__name__", repr(part))


def finite(values: list[Tensor], what: str) -> None:
    for value in values:
        bad = int((~torch.isfinite(value)).sum())
        assert bad == 0, f"{what} has {bad} of {value.numel()} numbers that are not finite"


def same(a: Tensor, b: Tensor, what: str) -> None:
    assert torch.equal(a, b), f"{what} differ by up to {distance(a, b)}"


def close(a: Tensor, b: Tensor, tolerance: float, what: str) -> None:
    """Equal up to rounding, measured against the larger of 1 and the size of the numbers."""
    assert a.shape == b.shape, f"{what} have different shapes, {tuple(a.shape)} and {tuple(b.shape)}"
    assert torch.allclose(a.to(b.dtype), b, rtol=tolerance, atol=tolerance * max(1.0, float(b.detach().abs().max()))), (
        f"{what} differ by up to {distance(a, b)}"
    )


def distance(a: Tensor, b: Tensor) -> str:
    return f"{(a.detach() - b.detach()).abs().max().item():.2g}" if a.shape == b.shape else "their shapes"
