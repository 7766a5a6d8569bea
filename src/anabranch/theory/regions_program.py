"""A network as a straight list of affine maps and piecewise-linear units, whatever its layers were.

Every unit's argument is written as an affine function of the input and of the units before it. Skips, convolutions,
batch norm and unrolled recurrence need no case of their own then: they only decide which coefficients are zero.
"""

import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

aten = torch.ops.aten


class Unsupported(ValueError):
    """The network does something that is not piecewise linear in its input."""


@dataclass(frozen=True)
class Pieces:
    """A piecewise-linear function: ``slopes[i] * z + offsets[i]`` between ``breaks[i - 1]`` and ``breaks[i]``.

    ``error`` is its largest distance to the smooth function it stands for; 0 if it is exact.
    """

    breaks: tuple[float, ...]
    slopes: tuple[float, ...]
    offsets: tuple[float, ...]
    error: float = 0.0

    def __call__(self, z: Tensor) -> Tensor:
        index = torch.searchsorted(torch.tensor(self.breaks, dtype=z.dtype), z.contiguous())
        return z.new_tensor(self.slopes)[index] * z + z.new_tensor(self.offsets)[index]


@dataclass(frozen=True)
class Layer:
    """Units whose arguments are ``weight @ (input, units before) + bias``."""

    weight: Float[np.ndarray, "units before"]
    bias: Float[np.ndarray, "units"]
    pieces: Pieces


@dataclass(frozen=True)
class Program:
    """The whole network, for one input of ``in_shape`` (without the batch axis)."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    layers: tuple[Layer, ...]
    weight: Float[np.ndarray, "outputs before"]
    bias: Float[np.ndarray, "outputs"]

    @property
    def units(self) -> int:
        return sum(len(layer.bias) for layer in self.layers)

    def __call__(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        known = x
        for layer in self.layers:
            z = known @ torch.from_numpy(layer.weight).T + torch.from_numpy(layer.bias)
            known = torch.cat([known, layer.pieces(z)], dim=1)
        return known @ torch.from_numpy(self.weight).T + torch.from_numpy(self.bias)


def quantise(function: Callable[[Tensor], Tensor], pieces: int, reach: float = 10.0) -> Pieces:
    """Chords of a smooth activation: ``pieces`` of them, the outer two continued with the slope at infinity, 0 or 1.

    The knots lie on ``[-reach, reach]``, as dense as the square root of the curvature, which evens out the chords'
    errors.

    Raises:
        ValueError: if ``pieces`` is below 3.
    """
    if pieces < 3:
        raise ValueError(f"expected at least 3 pieces: two tails and a chord; got {pieces}")
    grid = torch.linspace(-reach, reach, 10_001, dtype=torch.float64)
    density = function(grid).diff(n=2).abs().sqrt()
    share = torch.cat([density.new_zeros(1), (density + 1e-6 * density.max()).cumsum(0)])
    wanted = torch.linspace(0, 1, pieces - 1, dtype=torch.float64) * share[-1]
    knots = torch.from_numpy(np.interp(wanted.numpy(), share.numpy(), np.linspace(-reach, reach, len(share))))
    values = function(knots)
    far = function(torch.tensor([-40.0, -39.0, 39.0, 40.0], dtype=torch.float64))
    slopes = torch.cat([(far[1:2] - far[:1]).round(), values.diff() / knots.diff(), (far[3:] - far[2:3]).round()])
    # Each piece passes through its left knot; the first one through its right knot.
    offsets = torch.cat([values[:1], values]) - slopes * torch.cat([knots[:1], knots])
    chords = Pieces(tuple(knots.tolist()), tuple(slopes.tolist()), tuple(offsets.tolist()))
    wide = torch.linspace(-3 * reach, 3 * reach, 20_001, dtype=torch.float64)
    return replace(chords, error=float((chords(wide) - function(wide)).abs().max()))


def _clamp(low: float | None, high: float | None) -> Pieces:
    breaks, slopes, offsets = [], [1.0], [0.0]
    if low is not None:
        breaks, slopes, offsets = [low], [0.0, 1.0], [low, 0.0]
    if high is not None:
        breaks, slopes, offsets = [*breaks, high], [*slopes, 0.0], [*offsets, high]
    return Pieces(tuple(map(float, breaks)), tuple(slopes), tuple(map(float, offsets)))


def _prelu(weight: Tensor) -> Pieces:
    if weight.numel() != 1:
        raise Unsupported(f"PReLU is supported with one slope for all channels; got {weight.numel()}")
    return Pieces((0.0,), (float(weight), 1.0), (0.0, 0.0))


_EXACT: dict[Any, Callable[..., Pieces]] = {
    aten.relu.default: lambda: Pieces((0.0,), (0.0, 1.0), (0.0, 0.0)),
    aten.leaky_relu.default: lambda slope=0.01: Pieces((0.0,), (slope, 1.0), (0.0, 0.0)),
    aten.prelu.default: _prelu,
    aten.abs.default: lambda: Pieces((0.0,), (-1.0, 1.0), (0.0, 0.0)),
    aten.hardtanh.default: lambda low=-1.0, high=1.0: _clamp(low, high),
    aten.relu6.default: lambda: _clamp(0.0, 6.0),
    aten.clamp.default: lambda low=None, high=None: _clamp(low, high),
}
_SMOOTH: dict[Any, Callable[..., Tensor]] = {
    aten.tanh.default: torch.tanh,
    aten.sigmoid.default: torch.sigmoid,
    aten.gelu.default: F.gelu,
    aten.silu.default: F.silu,
    aten.softplus.default: F.softplus,
    aten.elu.default: F.elu,
}

# Affine in all tensors together.
_JOINT = {
    aten.add.Tensor, aten.sub.Tensor, aten.neg.default, aten.view.default, aten._unsafe_view.default,
    aten.reshape.default, aten.permute.default, aten.transpose.int, aten.t.default, aten.select.int, aten.slice.Tensor,
    aten.squeeze.dims, aten.squeeze.dim, aten.unsqueeze.default, aten.cat.default, aten.stack.default,
    aten.expand.default, aten.clone.default, aten.alias.default, aten.mean.dim, aten.sum.dim_IntList,
    aten.constant_pad_nd.default, aten.flip.default, aten.avg_pool1d.default, aten.avg_pool2d.default,
    aten._adaptive_avg_pool2d.default, aten._to_copy.default, aten.split_with_sizes.default,
    aten.flatten.using_ints, aten.dropout.default,
}  # fmt: skip
# Affine in one tensor while the named positions hold constants.
_CONSTANT_POSITIONS: dict[Any, tuple[tuple[int, ...], ...]] = {
    aten.mul.Tensor: ((0,), (1,)),
    aten.mul.Scalar: ((1,),),
    aten.div.Tensor: ((1,),),
    aten.mm.default: ((0,), (1,)),
    aten.bmm.default: ((0,), (1,)),
    aten.addmm.default: ((1,), (2,)),
    aten.linear.default: ((1, 2),),
    aten.conv1d.default: ((1, 2),),
    aten.conv2d.default: ((1, 2),),
    aten.batch_norm.default: ((1, 2, 3, 4),),
}
_KNOWN = {operator.getitem, *_EXACT, *_SMOOTH, *_JOINT, *_CONSTANT_POSITIONS}
# Work on the samples of the first axis one by one: the rows can be put there.
_PER_SAMPLE = {aten.conv1d.default, aten.conv2d.default, aten.batch_norm.default}


@dataclass
class _Affine:
    """A tensor of the network as an affine function: row i is the response to variable i, ``const`` to none."""

    rows: Tensor
    const: Tensor

    def padded(self, variables: int) -> Tensor:
        missing = variables - len(self.rows)
        return torch.cat([self.rows, self.rows.new_zeros(missing, *self.const.shape)]) if missing else self.rows


def trace(module: nn.Module, example: Float[Tensor, "1 *shape"], pieces: int | None = None) -> Program:
    """Write a module in eval mode as a ``Program``, in float64.

    Arguments:
        example: one input, with a batch axis of 1; only its shape matters.
        pieces: how many linear pieces a smooth activation is cut into; None refuses smooth activations.

    Raises:
        Unsupported: for an operation that is not piecewise linear in the input, with its name.
    """
    if len(example) != 1:
        raise ValueError(f"expected one example, of shape (1, ...); got {tuple(example.shape)}")
    example = example.detach().double()
    with warnings.catch_warnings():  # torch's own, about its recurrent layers' flattened weights
        warnings.simplefilter("ignore")
        exported = torch.export.export(module, (example,))
        if any(node.op == "call_function" and node.target not in _KNOWN for node in exported.graph.nodes):
            # Take apart what is not known as it is (recurrent layers, for one), and nothing else.
            table = torch.export.default_decompositions()
            for op in _KNOWN & table.keys():
                table.pop(op)
            exported = exported.run_decompositions(table)
    env: dict[str, Any] = {}
    constants = {**dict(exported.named_parameters()), **dict(exported.named_buffers()), **exported.constants}
    signature = exported.graph_signature
    named = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    named |= signature.inputs_to_lifted_tensor_constants
    size = example.numel()
    layers: list[Layer] = []
    variables = size
    result: Any = None
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            if node.name in named:
                env[node.name] = constants[named[node.name]].detach()
            else:
                eye = torch.eye(size, dtype=torch.float64).reshape(size, *example.shape)
                env[node.name] = _Affine(eye, torch.zeros_like(example))
        elif node.op == "call_function":
            args = torch.fx.map_arg(node.args, lambda n: env[n.name])
            kwargs = torch.fx.map_arg(node.kwargs, lambda n: env[n.name])
            kwargs = {key: value for key, value in kwargs.items() if key not in ("device", "pin_memory")}
            varying = args and isinstance(args[0], _Affine)
            if varying and (node.target in _EXACT or node.target in _SMOOTH):
                act = _pieces_of(node.target, args[1:], kwargs, pieces)
                layer, env[node.name] = _units(args[0], act, variables)
                layers.append(layer)
                variables += len(layer.bias)
            else:
                env[node.name] = _apply(node.target, args, kwargs, variables)
        elif node.op == "output":
            result = torch.fx.map_arg(node.args[0], lambda n: env[n.name])[0]
    if not isinstance(result, _Affine):
        raise Unsupported(f"expected one output tensor that depends on the input; got {type(result).__name__}")
    return Program(
        tuple(example.shape[1:]),
        tuple(result.const.shape[1:]),
        tuple(layers),
        _matrix(result, variables),
        result.const.flatten().numpy(),
    )


def _matrix(value: _Affine, variables: int) -> np.ndarray:
    return value.padded(variables).reshape(variables, -1).T.contiguous().numpy()


def _pieces_of(op: Any, options: Any, kwargs: dict[str, Any], pieces: int | None) -> Pieces:
    if op in _EXACT:
        return _EXACT[op](*options, **kwargs)
    name = op.name().removeprefix("aten::").split(".")[0]
    if pieces is None:
        raise Unsupported(f"{name} is smooth, not piecewise linear; say how many pieces may stand for it (pieces=16)")
    return quantise(lambda z: op(z, *options, **kwargs), pieces)


def _units(value: _Affine, act: Pieces, variables: int) -> tuple[Layer, _Affine]:
    units = value.const.numel()
    eye = torch.eye(units, dtype=torch.float64).reshape(units, *value.const.shape)
    rows = torch.cat([eye.new_zeros(variables, *value.const.shape), eye])
    layer = Layer(_matrix(value, variables), value.const.flatten().numpy().copy(), act)
    return layer, _Affine(rows, torch.zeros_like(value.const))


def _apply(op: Any, args: Any, kwargs: dict[str, Any], variables: int) -> Any:
    """Run an operation on constants, or on affine functions if it is affine in them."""
    flat, spec = tree_flatten(args)
    where = [i for i, value in enumerate(flat) if isinstance(value, _Affine)]
    if op is operator.getitem:
        return args[0][args[1]]
    if not where:
        return op(*args, **kwargs)
    positions = {i for i, value in enumerate(args) if _varies(value)}
    if op not in _JOINT and not any(positions.isdisjoint(rest) for rest in _CONSTANT_POSITIONS.get(op, ())):
        name = op.name() if hasattr(op, "name") else str(op)
        raise Unsupported(f"{name} is not piecewise linear in the input as it is used here")

    def at(*values: Tensor) -> Any:
        filled = list(flat)
        for i, value in zip(where, values, strict=True):
            filled[i] = value
        return op(*tree_unflatten(filled, spec), **kwargs)

    const = at(*(flat[i].const for i in where))
    zero = at(*(torch.zeros_like(flat[i].const) for i in where))
    padded = [flat[i].padded(variables) for i in where]
    if op in _PER_SAMPLE:
        return _Affine(at(padded[0].flatten(0, 1)).unflatten(0, (-1, len(const))) - zero, const)
    rows = torch.func.vmap(at)(*padded)
    if isinstance(const, Tensor):
        return _Affine(rows - zero, const)
    return tuple(_Affine(r - z, c) for r, z, c in zip(rows, zero, const, strict=True))


def _varies(value: Any) -> bool:
    return any(isinstance(leaf, _Affine) for leaf in tree_leaves(value))
