"""Which skeleton a race runs in, and how it is built for a task with given parts and a given size."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import TYPE_CHECKING, Any

from jaxtyping import Float
from torch import Tensor, nn

from anabranch.data.task import Task
from anabranch.errors import InputError
from anabranch.learning import as_chain
from anabranch.slots import fill, find_by_name, name_of

if TYPE_CHECKING:
    from anabranch.models import MLP

Filler = str | Callable[..., Any]
Parts = Mapping[str, Filler]

TOKENS = 64  # images and sequences are cut into about so many tokens at most
BATCH, TOKENS_PER_STEP = (8, 64), 1024  # samples in a batch, and their tokens together, if the samples are not few
TRAINING_SLOTS = {"optimizer": "adamw", "rule": "backprop"}  # open in every skeleton


@dataclass(frozen=True)
class Size:
    """How large a network is built: its width, and its hidden width in multiples of that where it has one."""

    dim: int
    ratio: float = 4.0


@dataclass(frozen=True)
class Skeleton:
    """A network with open slots, as a race builds it.

    Arguments:
        name: what people call it.
        slots: the slots and what fills each where a race does not say.
        kinds: the kinds of data it can read.
        dim, step: usual width, and the steps in which it can be changed.
        build: makes it from a task, the parts and a size.
    """

    name: str
    slots: dict[str, str]
    kinds: frozenset[str]
    dim: int
    step: int
    build: Callable[[Task, Parts, Size], nn.Module]

    def parts(self, chosen: Parts) -> dict[str, Filler]:
        """The parts of all slots, those that were chosen and the usual ones."""
        return {**self.slots, **TRAINING_SLOTS, **chosen}


def usual_batch_size(task: Task) -> int:
    """How many samples a training step takes: fewer the longer they are, and the fewer there are."""
    tokens = stem(task, 8).length if task.kind in ("image", "sequence", "bytes") else 1
    least, most = BATCH
    return max(4, min(max(least, min(most, TOKENS_PER_STEP // tokens)), len(task.train) // 8))


def stem(task: Task, dim: int) -> Any:
    """The stem for a task's kind of data."""
    from anabranch.models import ByteEmbed, FeatureEmbed, FrameEmbed, PatchEmbed

    shape = task.example().inputs.shape[1:]
    if task.kind == "image":
        # Patches of at least 2 pixels, about sqrt(TOKENS) along a side.
        patch = max(1, min(2, min(shape[1:]) // 2), round(math.sqrt(shape[1] * shape[2] / TOKENS)))
        return PatchEmbed(shape[0], dim, size=(shape[1], shape[2]), patch=min(patch, *shape[1:]))
    if task.kind == "sequence":
        return FrameEmbed(shape[1], dim, length=shape[0], patch=math.ceil(shape[0] / TOKENS))
    if task.kind == "bytes":
        return ByteEmbed(dim, length=shape[0], vocabulary=task.facts.get("vocabulary", 256))
    return FeatureEmbed(shape[0], dim)


def head(task: Task, dim: int, length: int | None, pool: Filler) -> nn.Module:
    """The head for a task's goal."""
    from anabranch.models import Classifier, LanguageHead, Regressor

    if task.goal == "classify":
        return Classifier(dim, task.outputs, pool=pool, length=length)
    return LanguageHead(dim) if task.goal == "continue" else Regressor(dim, pool=pool, length=length)


def _metaformer(task: Task, parts: Parts, size: Size) -> nn.Module:
    from anabranch.models import MetaFormer, Network

    front = stem(task, size.dim)
    trunk = MetaFormer(
        size.dim,
        3,
        mixer=parts["mixer"],
        channel=with_ratio(parts["channel"], size.ratio),
        norm=parts["norm"],
        block=parts["block"],
        causal=task.goal == "continue",
        length=front.length,
        grid=front.grid,
    )
    return Network(front, trunk, head(task, trunk.out_dim, trunk.out_length, parts["pooling"]))  # pyright: ignore


def _recurrent(task: Task, parts: Parts, size: Size) -> nn.Module:
    from anabranch.models import Network, RecurrentNet

    front = stem(task, size.dim)
    trunk = RecurrentNet(size.dim, 2, cell=parts["cell"], norm=parts["norm"])
    return Network(front, trunk, head(task, size.dim, front.length, parts["pooling"]))  # pyright: ignore


def _convnet(task: Task, parts: Parts, size: Size) -> nn.Module:
    from anabranch.models import ConvNet, Network

    front = stem(task, size.dim)
    trunk = ConvNet(
        (size.dim, 2 * size.dim),
        2,
        activation=parts["activation"],
        norm=parts["norm"],
        length=front.length,
        grid=front.grid,
    )
    return Network(front, trunk, head(task, trunk.out_dim, trunk.out_length, parts["pooling"]))  # pyright: ignore


def _mlp(task: Task, parts: Parts, size: Size) -> nn.Module:
    from anabranch.models import MLP

    inputs = task.example().inputs[0].numel()
    network = MLP(inputs, task.outputs, dim=size.dim, depth=2, dense=parts["dense"], activation=parts["activation"])
    return Flat(network, single=task.goal == "regress")


class Flat(nn.Module):
    """A perceptron on flattened samples; with ``single`` its one output loses its axis."""

    def __init__(self, network: "MLP", *, single: bool):
        super().__init__()
        self.network, self.single = network, single

    def forward(self, x: Float[Tensor, "batch *sample"], lengths: Tensor | None = None) -> Float[Tensor, "batch *out"]:
        y = self.network(x.flatten(1))
        return y[:, 0] if self.single else y

    def chain(self) -> list[nn.Module]:
        """The network's stages, between flattening the sample and dropping the axis."""
        stages = as_chain(self.network)
        stages[0] = nn.Sequential(nn.Flatten(), stages[0])
        if self.single:
            stages[-1] = nn.Sequential(stages[-1], nn.Flatten(0))
        return stages


def _forecaster(task: Task, parts: Parts, size: Size) -> nn.Module:
    batch = task.example()
    facts = {"past": batch.inputs.shape[1], "future": batch.targets.shape[1], "channels": batch.inputs.shape[2]}
    return Point(fill("forecaster", parts["forecaster"], dim=size.dim, **facts))


class Point(nn.Module):
    """A forecaster as a plain function from the past to the mean of the future."""

    def __init__(self, forecaster: nn.Module):
        super().__init__()
        self.forecaster = forecaster

    def forward(self, x: Float[Tensor, "batch past channels"]) -> Float[Tensor, "batch future channels"]:
        return self.forecaster.point(x)  # pyright: ignore[reportCallIssue]


def with_ratio(channel: Filler, ratio: float) -> Filler:
    """A channel mixer with its hidden width set, if it has one."""
    maker = find_by_name("channel", channel) if isinstance(channel, str) else channel
    if "ratio" not in signature(maker).parameters:
        return channel
    return partial(maker, **{"ratio": ratio, **getattr(maker, "keywords", {})})


SKELETONS = {
    skeleton.name: skeleton
    for skeleton in [
        Skeleton(
            "metaformer",
            {"mixer": "attention", "channel": "mlp", "norm": "layernorm", "block": "prenorm", "pooling": "mean"},
            frozenset({"image", "sequence", "bytes", "table"}),
            48,
            8,
            _metaformer,
        ),
        Skeleton(
            "convnet",
            {"activation": "relu", "norm": "groupnorm", "pooling": "mean"},
            frozenset({"image", "sequence"}),
            32,
            1,
            _convnet,
        ),
        Skeleton(
            "mlp", {"dense": "perceptron", "activation": "relu"}, frozenset({"table", "image", "sequence"}), 64, 1, _mlp
        ),
        Skeleton(
            "recurrent",
            {"cell": "gru", "norm": "layernorm", "pooling": "mean"},
            frozenset({"sequence", "bytes"}),
            64,
            1,
            _recurrent,
        ),
        Skeleton("forecaster", {"forecaster": "patchtst"}, frozenset({"series"}), 32, 4, _forecaster),
    ]
}
USUAL = {"image": "metaformer", "sequence": "metaformer", "bytes": "metaformer", "table": "mlp", "series": "forecaster"}


def choose(task: Task, varied: set[str], name: str | None = None) -> Skeleton:
    """The skeleton that has all the varied slots and can read the task's data.

    Raises:
        InputError: if there is none, or the one that was asked for cannot.
    """
    from anabranch.errors import unknown

    if name is not None and name not in SKELETONS:
        raise unknown("skeleton", name, SKELETONS)
    wanted = varied - TRAINING_SLOTS.keys()
    # Rules that train layer by layer need a chain, which a perceptron is.
    first = "mlp" if "rule" in varied and task.kind in SKELETONS["mlp"].kinds else USUAL[task.kind]
    for skeleton in [SKELETONS[name or first], *(SKELETONS.values() if name is None else [])]:
        if task.kind in skeleton.kinds and wanted <= skeleton.slots.keys():
            return skeleton
    fitting = {slot for skeleton in SKELETONS.values() if task.kind in skeleton.kinds for slot in skeleton.slots}
    if name is not None:
        raise InputError(
            f"expected slots of the skeleton {name!r} ({', '.join(SKELETONS[name].slots)}) and data it can read "
            f"({', '.join(sorted(SKELETONS[name].kinds))}); "
            f"got {', '.join(sorted(wanted)) or 'none'} on {task.kind} data"
        )
    raise InputError(
        f"no skeleton for {task.kind} data has the slots {', '.join(sorted(wanted))} together; "
        f"slots for this data: {', '.join(sorted(fitting))}, and with each of them {', '.join(TRAINING_SLOTS)}"
    )


def part_name(part: Filler) -> str:
    """What a part is called on the leaderboard."""
    if isinstance(part, partial):
        return f"{part_name(part.func)}({', '.join(f'{key}={value}' for key, value in part.keywords.items())})"
    return part if isinstance(part, str) else name_of(part)
