"""Muon: hidden matrices step along the orthogonal factor of their momentum (Jordan et al. 2024)."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.optim.base import Model, named
from anabranch.spaces import Choice, Range, Space

Hidden = Callable[[str, nn.Parameter], bool]

# Coefficients of the quintic of Jordan et al.: steepest at zero, at the price of ending near 1 and not at it.
_A, _B, _C = 3.4445, -4.7750, 2.0315


def newton_schulz(matrices: Float[Tensor, "*batch rows cols"], steps: int = 5) -> Float[Tensor, "*batch rows cols"]:
    """Nearly the orthogonal factor UVᵀ of each matrix USVᵀ: singular values that are not tiny come out near 1.

    X ← aX + (bA + cA²)X with A = XXᵀ, from X = M/‖M‖_F, in the input's own precision. A zero matrix stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # Scaling by the largest entry first keeps the norm's squares from under- and overflowing.
    x = x / x.abs().amax((-2, -1), keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp_min(1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = _A * x + (_B * gram + _C * (gram @ gram)) @ x
    return x.mT if tall else x


def hidden_matrices(model: Model) -> Hidden:
    """Which parameters are matrices between hidden layers, by the field's habits.

    They have two axes and are called weights. Of a module, its embeddings are left out, and so is its last matrix,
    which is the head; a list of named parameters is taken for a part of a network, without a head.
    """
    if not isinstance(model, nn.Module):
        return _is_matrix
    embeddings = {
        id(p) for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for p in m.parameters()
    }
    matrices = [p for name, p in model.named_parameters() if _is_matrix(name, p) and id(p) not in embeddings]
    left_out = embeddings | {id(p) for p in matrices[-1:]}
    return lambda name, p: _is_matrix(name, p) and id(p) not in left_out


def _is_matrix(name: str, p: nn.Parameter) -> bool:
    return p.ndim == 2 and min(p.shape) > 1 and "weight" in name.rpartition(".")[-1]


class Muon(torch.optim.Optimizer):
    """Muon for hidden matrices, AdamW for embeddings, the head, biases and everything else.

    A matrix moves by ``lr · 0.2·√max(rows, columns)`` times the orthogonal factor of its momentum. The scale (Liu et
    al. 2025, arXiv 2502.16982) gives the step the root mean square of a usual AdamW step, so both kinds of parameters
    share one range of learning rates. The first group in ``param_groups`` is Muon's, the second AdamW's; a kind without
    parameters has none.

    Why not ``torch.optim.Muon``: it rounds to bfloat16, which a CPU without such instructions computes many times
    slower than float32; it takes one matrix at a time; and it takes matrices only. On a GPU this one rounds as well.

    Arguments:
        lr: learning rate of the matrices.
        adam_lr: learning rate of the rest; ``lr`` if None.
        momentum: decay of the running mean of gradients; with ``nesterov`` the step looks ahead once more.
        weight_decay: decoupled, for all parameters, each by its own learning rate.
        betas: AdamW's.
        hidden: says of a name and a parameter whether Muon takes it; see :func:`hidden_matrices` for the default.
    """

    space: ClassVar[Space] = {
        "lr": Range(1e-4, 3e-2, default=1e-3, log=True),
        "weight_decay": Range(1e-4, 0.3, default=1e-2, log=True),
        "momentum": Choice(0.95, 0.9),
    }

    def __init__(
        self,
        model: Model,
        *,
        lr: float = 1e-3,
        adam_lr: float | None = None,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        hidden: Hidden | None = None,
    ):
        if lr < 0 or not 0 <= momentum < 1:
            raise ValueError(f"expected lr >= 0 and 0 <= momentum < 1; got {lr} and {momentum}")
        pairs = named(model)
        hidden = hidden or hidden_matrices(model if isinstance(model, nn.Module) else pairs)
        matrices = [p for name, p in pairs if hidden(name, p)]
        rest = [p for name, p in pairs if not hidden(name, p)]
        wrong = [tuple(p.shape) for p in matrices if p.ndim != 2]
        if wrong:
            raise ValueError(f"Muon takes matrices only; `hidden` chose parameters of shape {wrong[0]}")
        groups: list[dict[str, Any]] = []
        if matrices:
            groups.append({"params": matrices, "lr": lr, "weight_decay": weight_decay, "muon": True})
            groups[0] |= {"momentum": momentum, "nesterov": nesterov}
        self._adamw = None
        if rest:
            rate = lr if adam_lr is None else adam_lr
            self._adamw = torch.optim.AdamW(rest, lr=rate, betas=betas, weight_decay=weight_decay)
            groups.append(self._adamw.param_groups[0] | {"muon": False})
        super().__init__(groups, {})

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_adamw": self._adamw}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["muon"]:
                self._step_matrices(group)
        if self._adamw is not None:
            # Loading a state replaces the groups, so they are handed over anew.
            self._adamw.param_groups = [group for group in self.param_groups if not group["muon"]]
            self._adamw.state = self.state
            self._adamw.step()
        return loss

    def _step_matrices(self, group: dict[str, Any]) -> None:
        by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            if "momentum" not in self.state[p]:
                self.state[p]["momentum"] = torch.zeros_like(p)
            mean = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
            by_shape[p.shape].append((p, p.grad.lerp(mean, group["momentum"]) if group["nesterov"] else mean))
        for shape, members in by_shape.items():
            stack = torch.stack([direction for _, direction in members])
            steps = newton_schulz(stack.bfloat16() if stack.is_cuda else stack)
            for (p, _), step in zip(members, steps.to(stack.dtype), strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(step, alpha=group["lr"] * 0.2 * max(shape) ** 0.5)
