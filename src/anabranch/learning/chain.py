"""Modules seen as a chain of stages, which is what local and staged rules train."""

from typing import Any

from torch import nn

from anabranch.errors import InputError


def as_chain(module: nn.Module) -> list[nn.Module]:
    """The ordered stages of a module: applied one after the other, they are the module.

    A module lists its stages itself in a method ``chain()``, or it is an ``nn.Sequential``. There a stage begins at
    each child that has parameters, and the children without any (activations, dropout, flattening) join the stage
    before them, or the first stage if they come first.

    Raises:
        InputError: if the module is neither.
    """
    listed: Any = getattr(module, "chain", None)
    if listed is not None:
        return list(listed())
    if not isinstance(module, nn.Sequential) or len(module) == 0:
        raise InputError(
            f"this rule needs a chain of stages: an nn.Sequential, or a module with a method `chain()`; "
            f"got {type(module).__name__}"
        )
    groups: list[list[nn.Module]] = [[]]
    for child in module:
        has_parameters = next(child.parameters(), None) is not None
        if has_parameters and any(next(m.parameters(), None) is not None for m in groups[-1]):
            groups.append([])
        groups[-1].append(child)
    return [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]


def as_residual(module: nn.Module) -> list[nn.Module]:
    """The branches g of a chain whose every stage computes x + g(x), each named by its stage as ``branch``.

    Raises:
        InputError: if the module is not such a chain.
    """
    stages = as_chain(module)
    branches = [getattr(stage, "branch", None) for stage in stages]
    for stage, branch in zip(stages, branches, strict=True):
        if not isinstance(branch, nn.Module):
            raise InputError(
                "this rule needs a chain of residual stages x + branch(x), each with an attribute `branch`; "
                f"got a stage of type {type(stage).__name__}"
            )
    return [branch for branch in branches if branch is not None]
