"""How far a rule's gradient is from backpropagation's."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from anabranch.data.task import Batch
from anabranch.learning.backprop import Backprop
from anabranch.learning.base import Objective, Rule


@dataclass(frozen=True)
class GradientGap:
    """Distance of two gradients.

    Arguments:
        relative: global L2 norm of the difference, divided by the norm of backpropagation's gradient.
        cosine: between the two, all parameters taken together.
        tensors: for every parameter, the largest difference divided by the largest entry of the *whole* gradient. Some
            gradients are zero but for rounding (an attention's key bias), so a ratio by tensor would be noise.
    """

    relative: float
    cosine: float
    tensors: dict[str, float]


def gradient_gap(
    rule: Rule, module: nn.Module, batch: Batch, objective: Objective = torch.nn.functional.cross_entropy
) -> GradientGap:
    """Compare a gradient rule with backpropagation on one batch, from the same random state; nothing is updated."""
    state = torch.random.get_rng_state()
    exact = Backprop().bind(module, objective).grads(batch)
    torch.random.set_rng_state(state)
    found = rule.bind(module, objective).grads(batch)
    torch.random.set_rng_state(state)
    if found.keys() != exact.keys():
        raise ValueError(f"expected gradients for {', '.join(exact)}; got {', '.join(found)}")
    a, b = _flat(found), _flat(exact)
    largest, norm = float(b.abs().max()), float(b.norm())
    return GradientGap(
        relative=float((a - b).norm()) / norm,
        cosine=float(torch.dot(a, b)) / (float(a.norm()) * norm),
        tensors={name: float((found[name] - exact[name]).abs().max()) / largest for name in exact},
    )


def _flat(gradients: dict[str, Tensor]) -> Tensor:
    return torch.cat([g.double().flatten() for g in gradients.values()])
