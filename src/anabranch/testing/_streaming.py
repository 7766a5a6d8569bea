"""The laws of parts that read a signal in time. All checks work on copies in eval mode and leave the part as it was."""

import inspect
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn

from anabranch.nn.streaming import State, Streaming, map_state, state_bytes
from anabranch.testing._support import close, first_tensor, forward_of, in_type, name_of, same, seeded, tensors

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}


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
        wanted = gradients(
            copy, signal, lambda s, c=copy: first_tensor(forward_of(c, s))[:, : time - lag], loss_weights
        )
        frames = list(range(time + 1))
        for cut in [frames, *(random_cut(time, random) for _ in range(cuts))]:
            single = cut is frames
            how = "single frames" if single else f"chunks of {[b - a for a, b in pairwise(cut)]} frames"
            streamed, state = stream(copy, signal, cut, single, bound)
            assert streamed.shape == y.shape, (
                f"{name_of(part)}: {how} give {tuple(streamed.shape)}, the whole gives {tuple(y.shape)}"
            )
            message = f"{name_of(part)} in {dtype}: the output for {how} and for the whole"
            close(streamed[:, lag:], y[:, : time - lag], limit, message)
            if last is not None:
                for a, b in zip(tensors(state), tensors(last), strict=True):
                    close(a, b, limit, f"{name_of(part)} in {dtype}: the state after {how} and after the whole")
            got = gradients(
                copy, signal, lambda s, c=copy, f=cut, one=single: stream(c, s, f, one, bound)[0][:, lag:], loss_weights
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


def stream(part: Streaming, x: Tensor, cut: list[int], single: bool, bound: int | None) -> tuple[Tensor, State]:
    """Joined outputs and last state over the pieces of a cut; the state must stay within its bound, and be new."""
    # A part without parameters cannot know the type of the signal.
    state = map_state(lambda t: t.to(x.dtype) if t.is_floating_point() else t, part.initial_state(x.shape[0]))
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


def gradients(part: nn.Module, x: Tensor, run: Callable[[Tensor], Tensor], weights: Tensor) -> dict[str, Tensor]:
    """Gradient of a weighted sum of the output, by the input and by every parameter."""
    leaf = x.clone().requires_grad_()
    leaves = {"the input": leaf} | {name: p for name, p in part.named_parameters() if p.requires_grad}
    total = (run(leaf) * weights).sum()
    found = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, found, strict=True))
