"""Attention of a trained transformer, replaced by flat perceptrons that were taught to imitate it.

Bozic et al. 2023 (arXiv 2311.10642): every layer alone learns to give the teacher's outputs for the teacher's inputs,
and then stands in its place, without further training of anything.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anabranch.compress.base import Converted, Converter
from anabranch.compress.recording import Call, Inputs, Missed, check_names, inputs_of, learning_type, recorded
from anabranch.compress.trunk import places_of, together, trunk_of
from anabranch.data.task import Batch, Split
from anabranch.learning.base import evaluating
from anabranch.models.seq2seq import EncoderLayer, Seq2Seq, TransformerSeq2Seq, before_end, up_to_end
from anabranch.nn.attention import MultiHead
from anabranch.nn.mixing import FlatFeedForward

Model = TypeVar("Model", bound=nn.Module)
PLACES = ("encoder", "decoder", "cross")
LEVELS = {  # what is replaced, as a path within the layer
    "ALR": "attention.part",
    "ALRR": "attention",
    "ALSR": "attention.part",
    "ELR": "",
}


class FlatHeads(nn.Module):
    """One flat perceptron for each head of an attention, whose output map is kept, and which they learn through.

    Arguments:
        attention: whose heads are replaced.
        length, ratio: of every perceptron, see :class:`~anabranch.nn.mixing.FlatFeedForward`.
    """

    def __init__(self, attention: MultiHead, *, length: int, ratio: float):
        super().__init__()
        self.heads = nn.ModuleList(
            FlatFeedForward(attention.dim, length=length, ratio=ratio, out_dim=attention.head_dim)
            for _ in range(attention.heads)
        )
        self.out = copy.deepcopy(attention.out).requires_grad_(False)

    def forward(
        self, x: Float[Tensor, "batch time dim"], *, mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        heads = [cast(FlatFeedForward, head) for head in self.heads]
        # A head's output is narrower than a token, which a token mixer's own call does not allow.
        return self.out(torch.cat([head.mix(x, x, mask, None) for head in heads], dim=-1))


def replace_attention(
    model: nn.Module,
    split: Split,
    *,
    where: Iterable[str | int] | None = None,
    level: str = "ALR",
    ratio: float = 1 / 2,
    seed: int = 0,
    inputs: Inputs | None = None,
    repeats: int = 15,
    **options: Any,
) -> Converted:
    """A copy of a model in which flat perceptrons stand in the place of some attentions, and what that changed.

    The report's details hold, by the name of the part that was replaced, how large the error was at the end of the
    training: see :func:`imitate`. Bytes, seconds and fidelity are measured on the first 64 samples of the split.

    Arguments:
        model: the teacher, which stays as it is: an encoder-decoder, or any network with one MetaFormer trunk.
        split: samples to learn from. No longer ones can be read or written afterwards.
        where: for an encoder-decoder, ``"encoder"`` (if not given) and ``"decoder"`` for the self-attentions,
            ``"cross"`` for the decoder's other one; for a trunk, the indices of blocks whose mixer is an attention (all,
            if not given).
        level: what is replaced: ``"ALR"`` the attention, ``"ALRR"`` also the residual connection and norm around it,
            ``"ALSR"`` each head alone, before the output map, ``"ELR"`` the whole layer. In a decoder and in a
            trunk, the attention only.
        ratio: hidden width over width in: 1/256 in the paper's size XS, 1/128 in S, 1/8 in M, 1/2 in L, 2 in XL.
        seed: fixes the first weights and the order of the data.
        inputs: what the model is called with for a batch; if not given, what the models of this library take.
        repeats: timed runs of either model.
        options: of :func:`imitate`.

    Raises: ``ValueError`` for a model without a trunk, for a place, block or level that does not exist there, and if an
        attention that several places share was chosen at some of them only.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        students = flat_students(model, split, where=where, level=level, ratio=ratio, inputs=inputs)
    errors = imitate(model, split, list(students.items()), seed=seed, inputs=inputs, **options)
    batch = split.batch(torch.arange(min(64, len(split)))).to(_device(model))
    example = inputs_of(model, batch) if inputs is None else inputs(batch)
    return _Put(students, errors).convert(model, example, repeats=repeats)


class _Put(Converter):
    def __init__(self, parts: Mapping[str, nn.Module], errors: Sequence[float]):
        self.parts, self.errors = parts, errors

    def transform(self, module: nn.Module, example: Tensor) -> nn.Module:
        return replaced(module, self.parts)

    def details(self, before: nn.Module, after: nn.Module, example: Tensor) -> dict[str, float]:
        return dict(zip(self.parts, self.errors, strict=True))


def flat_students(
    model: nn.Module,
    split: Split,
    *,
    where: Iterable[str | int] | None = None,
    level: str = "ALR",
    ratio: float = 1 / 2,
    inputs: Inputs | None = None,
) -> dict[str, nn.Module]:
    """New parts as :func:`replace_attention` makes them, by the name of what each is to replace.

    An attention that is shared gets one part, under all of its names.

    Raises: ``ValueError`` if a place, block or level does not exist, or a shared attention was chosen at some of its
        places only.
    """
    if level not in LEVELS:
        raise ValueError(f"expected a level of {', '.join(LEVELS)}; got {level!r}")
    if len(split) < 1:
        raise ValueError("expected at least one sample to learn from; got none")
    batch = split.batch(torch.arange(1)).to(_device(model))
    if isinstance(model, TransformerSeq2Seq):
        chosen = ["encoder"] if where is None else list(where)
        students = _of_layers(model, batch, chosen, level, ratio)
    else:
        students = _of_blocks(model, inputs_of(model, batch) if inputs is None else inputs(batch), where, level, ratio)
    weight = next(model.parameters())
    students = {name: student.to(weight) for name, student in students.items()}
    return {name: students[names[0]] for names in together(model, students) for name in names}


def _of_layers(
    model: TransformerSeq2Seq, batch: Batch, where: Sequence[str | int], level: str, ratio: float
) -> dict[str, nn.Module]:
    if not where or not set(where) <= set(PLACES):
        raise ValueError(f"expected some of {', '.join(PLACES)}; got {where}")
    if level != "ALR" and set(where) != {"encoder"}:
        raise ValueError(f"in the decoder only attention itself (ALR) can be replaced; got {level!r}")
    source, target = batch.inputs.shape[1], batch.targets.shape[1]
    dim = model.source_embedding.embedding_dim
    students: dict[str, nn.Module] = {}
    for i, layer in enumerate(model.encoder if "encoder" in where else ()):
        assert isinstance(layer, EncoderLayer)
        part = FlatFeedForward(dim, length=source, ratio=ratio)
        if level == "ALSR":
            part = FlatHeads(cast(MultiHead, layer.attention.part), length=source, ratio=ratio)
        students[f"encoder.{i}.{LEVELS[level]}".rstrip(".")] = part
    for i in range(len(model.decoder)):
        if "decoder" in where:
            part = FlatFeedForward(dim, length=target, ratio=ratio, causal=True)
            students[f"decoder.{i}.attention.part"] = part
        if "cross" in where:
            part = FlatFeedForward(dim, length=target, ratio=ratio, causal=True, source_length=source)
            students[f"decoder.{i}.cross.part"] = part
    return students


def _of_blocks(
    model: nn.Module, inputs: tuple[Tensor, ...], where: Iterable[str | int] | None, level: str, ratio: float
) -> dict[str, nn.Module]:
    blocks = trunk_of(model).blocks
    fit = [i for i, block in enumerate(blocks) if isinstance(getattr(block, "mixer", None), MultiHead)]
    chosen = fit if where is None else list(where)
    if not chosen or not set(chosen) <= set(fit):
        raise ValueError(f"expected indices of blocks whose mixer is an attention, some of {fit}; got {chosen}")
    if level != "ALR":
        raise ValueError(f"in a trunk of blocks only attention itself (ALR) can be replaced; got {level!r}")
    chosen = [i for i in fit if i in chosen]
    names = places_of(model, chosen, (blocks[i].mixer for i in chosen))
    with recorded(model, names) as calls, evaluating(model), torch.no_grad():
        model(*inputs)
    students: dict[str, nn.Module] = {}
    for name in names:
        attention = cast(MultiHead, model.get_submodule(name))
        length = max(call.output.shape[1] for call in calls[name])
        students[name] = FlatFeedForward(attention.dim, length=length, ratio=ratio, causal=attention.causal)
    return students


def imitate(
    model: nn.Module,
    split: Split,
    students: Sequence[tuple[str, nn.Module]],
    *,
    epochs: float = 20,
    batch_size: int = 256,
    lr: float = 1e-3,
    seed: int = 0,
    inputs: Inputs | None = None,
) -> list[float]:
    """Teach new parts to imitate some of a model's, each by itself; all of them learn from the same passes of the model.

    By Adam (0.9, 0.98) and the mean squared error over the tokens that exist; where a pass calls a part several times,
    over all these calls. In at least float32; then the new parts are given the model's own type.

    Arguments:
        students: new parts, each with the name of the one that it is to imitate and is called like; with several
            names, it learns to imitate them all.
        epochs: passes over the split.
        seed: fixes the order of the data.
        inputs: what the model is called with for a batch; if not given, what the models of this library take.

    Returns: the error of each: the mean squared error over the variance of what was to be imitated, both over the last
        tenth of the steps; over its mean square, where it does not vary.
    Raises: ``ValueError`` if there is nothing to learn or to learn from, if the model has no part of that name, or if
        a number is not positive; ``FloatingPointError`` if an error is not finite.
    """
    if not students or len(split) < 1:
        raise ValueError(f"expected parts and samples; got {len(students)} parts and {len(split)} samples")
    if epochs <= 0 or batch_size < 1 or lr <= 0:
        raise ValueError(f"epochs, batch_size and lr must be positive; got {epochs}, {batch_size} and {lr}")
    inputs = partial(inputs_of, model) if inputs is None else inputs
    names_of: dict[nn.Module, list[str]] = {}
    for name, student in students:
        names_of.setdefault(student, []).append(name)
    dtype = next(model.parameters()).dtype
    wide = learning_type(dtype)
    optimizers = {student: torch.optim.Adam(student.to(wide).parameters(), lr, (0.9, 0.98)) for student in names_of}
    steps = max(1, round(epochs * len(split) / batch_size))
    late = max(1, steps // 10)
    missed = {student: Missed() for student in names_of}
    with recorded(model, (name for name, _ in students)) as calls, evaluating(model):
        for done, index in zip(range(steps), _shuffled(len(split), batch_size, seed), strict=False):
            batch = split.batch(index).to(_device(model))
            with torch.no_grad():
                model(*inputs(batch))
            for student, names in names_of.items():
                heard = [(call.to(wide), exists) for call, exists in _heard(model, names, batch, calls)]
                found = [student(*call.args, **call.facts) for call, _ in heard]
                loss = _mean(_error(y, call.output, kept) for y, (call, kept) in zip(found, heard, strict=True))
                if not loss.isfinite():
                    raise FloatingPointError(
                        f"expected a finite error; got {loss.item()} for {names[0]} at step {done}"
                    )
                optimizers[student].zero_grad()
                loss.backward()
                optimizers[student].step()
                if done >= steps - late:
                    for y, (call, kept) in zip(found, heard, strict=True):
                        missed[student].add(y[kept], call.output[kept])
            for each in calls.values():
                each.clear()
    for student in names_of:
        student.to(dtype)
    return [missed[student].share() for _, student in students]


def _heard(
    model: nn.Module, names: Sequence[str], batch: Batch, calls: Mapping[str, list[Call]]
) -> list[tuple[Call, Bool[Tensor, "batch time"]]]:
    """The calls of the parts of these names, and which tokens of each exist; once for each part."""
    parts = {model.get_submodule(name): name for name in reversed(names)}
    for name in parts.values():
        if not calls[name]:
            raise ValueError(f"expected a part that {type(model).__name__} calls; got {name!r}")
    return [(call, _exists(model, name, batch, call)) for name in reversed(parts.values()) for call in calls[name]]


def replaced(model: Model, parts: Mapping[str, nn.Module]) -> Model:
    """A copy of the model, in eval mode, with other parts in the place of those of that name.

    Raises: ``ValueError`` if the model has no part of that name, or a part that is shared is to be replaced at some of
        its places only, or by several others.
    """
    check_names(model, parts)
    for names in together(model, parts):
        if any(parts[name] is not parts[names[0]] for name in names):
            raise ValueError(f"expected one part for {', '.join(names)}, which are one; got several")
    model, parts = copy.deepcopy(model).eval(), copy.deepcopy(dict(parts))  # what is shared stays shared
    for name, part in parts.items():
        model.set_submodule(name, part.eval())
    return model


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _shuffled(size: int, batch_size: int, seed: int) -> Iterator[Int[Tensor, "batch"]]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from torch.randperm(size, generator=generator).split(batch_size)


def _exists(model: nn.Module, name: str, batch: Batch, call: Call) -> Bool[Tensor, "batch time"]:
    """The tokens that the part of that name writes and that exist."""
    if isinstance(model, Seq2Seq):
        return before_end(batch.inputs) if name.startswith("encoder") else up_to_end(batch.targets)
    return call.output.new_ones(call.output.shape[:2], dtype=torch.bool) if call.mask is None else call.mask


def _mean(errors: Iterable[Tensor]) -> Float[Tensor, ""]:
    return torch.stack(list(errors)).mean()


def _error(
    found: Float[Tensor, "batch time dim"], wanted: Float[Tensor, "*shape"], exists: Bool[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Mean squared difference over the tokens that exist."""
    return ((found - wanted).square().mean(-1) * exists).sum() / exists.sum().clamp(min=1)
