"""Who runs in a race: networks that differ in the varied slots, and classical models."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from typing import Any

from torch import nn

from anabranch.bench.classical import Fitted, classical_models
from anabranch.bench.fairness import parameters, solve_size
from anabranch.bench.skeletons import SKELETONS, Filler, Size, Skeleton, part_name
from anabranch.catalog import expand
from anabranch.data.task import Task
from anabranch.errors import InputError, unknown
from anabranch.slots import find_by_name
from anabranch.spaces import Space

SIZE_OPTIONS = {"dim", "ratio", "hidden"}  # these are settled by the equal number of parameters, not tuned
MOST = 100  # contenders in one race

# What runs where the user does not say: the plain baseline first.
ROSTERS: dict[str, dict[str, list[str]]] = {
    "image": {"mixer": ["attention", "linear-attention", "pool", "token-mlp", "conv", "random", "identity"]},
    "sequence": {"mixer": ["attention", "linear-attention", "pool", "token-mlp", "conv", "recurrent", "identity"]},
    "bytes": {"mixer": ["attention", "linear-attention", "conv", "recurrent", "identity"]},
    "table": {"dense": ["perceptron", "kan"]},
    "series": {"forecaster": ["linear", "mlp", "point-transformer", "patchtst"]},
}


@dataclass(frozen=True)
class Network:
    """A skeleton with certain parts in its varied slots."""

    name: str
    skeleton: str
    chosen: Mapping[str, Filler]  # by slot
    kind = "network"

    @property
    def body(self) -> Skeleton:
        return SKELETONS[self.skeleton]

    @cached_property
    def makers(self) -> dict[str, Callable[..., Any]]:
        """The class or factory in every slot of the skeleton, and of the training."""
        return {
            slot: find_by_name(slot, part) if isinstance(part, str) else part
            for slot, part in self.body.parts(self.chosen).items()
        }

    @property
    def space(self) -> Space:
        """What is tuned: the optimizer's options first, above all the learning rate, then those of the varied parts."""
        space: Space = {}
        for slot in ["optimizer", *(slot for slot in self.chosen if slot != "optimizer")]:
            maker = self.makers[slot]
            fixed = maker.keywords if isinstance(maker, partial) else {}
            declared: Space = getattr(maker.func if isinstance(maker, partial) else maker, "space", {})
            space |= {
                f"{slot}.{option}": dimension
                for option, dimension in declared.items()
                if option not in SIZE_OPTIONS and option not in fixed
            }
        return space

    def parts(self, setting: Mapping[str, Any]) -> dict[str, Callable[..., Any]]:
        """The makers with the options of a setting bound."""
        bound = dict(self.makers)
        for key, value in setting.items():
            slot, option = key.split(".", 1)
            bound[slot] = partial(bound[slot], **{option: value})
        return bound

    def build(self, task: Task, setting: Mapping[str, Any], size: Size) -> nn.Module:
        return self.body.build(task, self.parts(setting), size)

    def size(self, task: Task, setting: Mapping[str, Any], target: int) -> tuple[Size, int]:
        """The size at which it has as many parameters as the others."""
        start = Size(self.body.dim)
        return solve_size(lambda size: self.build(task, setting, size), target, start, self.body.step)


@dataclass(frozen=True)
class Estimator:
    """A classical model in the race."""

    name: str
    space: Space
    kind: str = "classical"

    def fit(self, task: Task, setting: Mapping[str, Any], seed: int) -> Fitted:
        return classical_models(task)[self.name].fit(task, dict(setting), seed)


Contender = Network | Estimator


def reference_parameters(task: Task, skeleton: Skeleton) -> int:
    """How many parameters every network gets: as many as the skeleton has with its usual parts at its usual size."""
    plain = Network("reference", skeleton.name, {})
    return parameters(plain.build(task, {}, Size(skeleton.dim)))


def chosen_parts(task: Task, skeleton: Skeleton, vary: Mapping[str, Sequence[Filler]]) -> dict[str, list[Filler]]:
    """The parts to try in every slot: groups are replaced by their parts, ``all`` by those that can stand here."""
    found: dict[str, list[Filler]] = {}
    for slot, names in vary.items():
        others = expand(slot, [name for name in names if name != "all"])
        every = expand(slot, ["all"] if "all" in names else [])
        found[slot] = others + [name for name in every if name not in others and _fits(task, skeleton, slot, name)]
    return found


def _fits(task: Task, skeleton: Skeleton, slot: str, part: Filler) -> bool:
    """Whether the network can be built, which a part refuses that sees later tokens in a causal one, for example."""
    try:
        Network("tried", skeleton.name, {slot: part}).build(task, {}, Size(skeleton.dim))
    except ValueError:
        return False
    return True


def networks(skeleton: Skeleton, vary: Mapping[str, Sequence[Filler]]) -> list[Network]:
    """Every combination of the varied parts.

    Raises:
        InputError: if a slot has no part to try, a part comes twice, or there are too many combinations.
    """
    for slot, parts in vary.items():
        if not parts:
            raise InputError(f"expected at least one part for the slot {slot!r}; got none")
    found = []
    for combination in product(*vary.values()):
        chosen = dict(zip(vary, combination, strict=True))
        varied = {slot: part for slot, part in chosen.items() if len(vary[slot]) > 1} or chosen
        names = [part_name(part) for part in varied.values()]
        name = names[0] if len(names) == 1 else " ".join(f"{s}={n}" for s, n in zip(varied, names, strict=True))
        network = Network(name, skeleton.name, chosen)
        _ = network.makers  # unknown names are found out now
        found.append(network)
    if len(found) > MOST:
        factors = " x ".join(str(len(parts)) for parts in vary.values())
        raise InputError(f"expected at most {MOST} contenders; {factors} are {len(found)}")
    names = [network.name for network in found]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"expected different contenders; {name!r} comes {names.count(name)} times")
    return found


def estimators(task: Task, wanted: Sequence[str] | None) -> list[Estimator]:
    """The classical models of a race: all that can do the task, or those that are named."""
    models = classical_models(task)
    for name in wanted or ():
        if name not in models:
            raise unknown("classical model", name, models)
    return [
        Estimator(name, model.space, "constant" if model.constant else "classical")
        for name, model in models.items()
        if wanted is None or name in wanted
    ]


def default_roster(task: Task) -> dict[str, list[Filler]]:
    """What is varied where the user does not say."""
    from anabranch.catalog import parts

    return {slot: [name for name in names if name in parts(slot)] for slot, names in ROSTERS[task.kind].items()}  # pyright: ignore[reportReturnType]
