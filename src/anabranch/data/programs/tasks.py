"""Programming tasks: a few inputs with their outputs, and the hidden program that made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from string import ascii_letters

import torch
from jaxtyping import Int
from torch import Tensor

from anabranch.data.programs.language import Expression, Program, StringDSL
from anabranch.errors import InputError

CHARACTERS = 96  # printable ASCII from 1, and 0 for the end
PATIENCE = 200  # draws of an expression until it is looked up whether there is any
INPUTS, PROGRAMS = 300, 10_000  # that are tried for a task


@dataclass(frozen=True)
class StringTask:
    """Inputs and their outputs by a program."""

    program: Program
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class StringPrograms:
    """An endless source of tasks with random programs on strings of real words and numbers.

    The inputs of a task have the same form: words and numbers in the same order, each word in the same case, with the
    same delimiters between them. A program is kept if it is defined on all inputs and no part of it gives nothing.

    Arguments:
        dsl: the language.
        words: what inputs are made of, in small letters.
        seed: fixes the tasks.
        fields: most words and numbers in an input; at least one.
        expressions: most expressions in a program.
        pairs: inputs of a task.
        longest: most characters of an output.
        avoid: programs that are never drawn, as their words; for a training set without the programs of a test set.
    """

    def __init__(
        self,
        dsl: StringDSL,
        words: Sequence[str],
        *,
        seed: int,
        fields: int = 3,
        expressions: int = 3,
        pairs: int = 10,
        longest: int = 20,
        avoid: frozenset[str] = frozenset(),
    ):
        self.dsl, self.words, self.random = dsl, words, Random(seed)
        self.fields, self.most, self.pairs, self.longest, self.avoid = fields, expressions, pairs, longest, avoid
        self.delimiters = [*dsl.values["delimiter"].values()] or [" "]

    def inputs(self) -> tuple[str, ...]:
        """Inputs of the same form."""
        random = self.random
        form = [random.choice(("lower", "title", "upper", "number")) for _ in range(random.randint(1, self.fields))]
        between = [random.choice(self.delimiters) for _ in form[1:]] + [""]
        texts = []
        for _ in range(self.pairs):
            parts = [
                str(random.randint(1, 999)) if kind == "number" else getattr(random.choice(self.words), kind)()
                for kind in form
            ]
            texts.append("".join(part + mark for part, mark in zip(parts, between, strict=True)))
        return tuple(texts)

    def task(self) -> StringTask:
        """The next task.

        Raises: ``InputError`` if none is found, because the language's expressions are defined on hardly any inputs, or
        because of ``longest`` or ``avoid``.
        """
        barren = 0
        for _ in range(PROGRAMS):
            inputs, size = self.inputs(), self.random.randint(1, self.most)
            drawn = self._expressions(inputs, size)
            if drawn is None:
                barren += 1
                if barren == INPUTS:
                    break
                continue
            program = tuple(expression for expression, _ in drawn)
            outputs = tuple("".join(parts) for parts in zip(*(made for _, made in drawn), strict=True))
            if max(map(len, outputs)) <= self.longest and self.dsl.write(program) not in self.avoid:
                return StringTask(program, inputs, outputs)
        raise InputError(
            f"expected a language with programs for inputs of up to {self.fields} words and numbers; got none with the "
            f"operators {', '.join(self.dsl.operators)}, the types {', '.join(self.dsl.values['type'])}, outputs of at "
            f"most {self.longest} characters and {len(self.avoid)} programs to avoid"
        )

    def tasks(self, count: int) -> list[StringTask]:
        """The next tasks."""
        return [self.task() for _ in range(count)]

    def _expressions(self, inputs: tuple[str, ...], size: int) -> list[tuple[Expression, list[str]]] | None:
        """Random expressions and what they give, or None if there is none for these inputs."""
        drawn = []
        for _ in range(size):
            found = self._expression(inputs)
            if found is None:
                return None
            drawn.append(found)
        return drawn

    def _expression(self, inputs: tuple[str, ...]) -> tuple[Expression, list[str]] | None:
        """A random expression that gives something for every input, and what it gives."""
        tried = 0
        while tried != PATIENCE or self._possible(inputs):
            tried += 1
            expression = self.dsl.draw(self.random)
            made = []
            for text in inputs:
                part = self.dsl.apply(expression, text)
                if not part:
                    break
                made.append(part)
            else:
                return expression, made
        return None

    def _possible(self, inputs: tuple[str, ...]) -> bool:
        """Whether any expression gives something for every input; a composed one only does if its inner one does."""
        return any(all(self.dsl.apply(expression, text) for text in inputs) for expression in self.dsl.simple())


def typo(text: str, random: Random) -> str:
    """The text with one character replaced by another letter."""
    place = random.randrange(len(text))
    return text[:place] + random.choice(ascii_letters.replace(text[place], "")) + text[place + 1 :]


def text_rows(texts: Sequence[str], width: int) -> Int[Tensor, "texts width"]:
    """Texts as rows of numbers of characters, filled up with the end.

    Raises: ``ValueError`` if a text is longer than ``width`` or holds something else than printable ASCII.
    """
    for text in texts:
        if len(text) > width or not all(" " <= character <= "~" for character in text):
            raise ValueError(f"expected at most {width} printable ASCII characters; got {text!r}")
    return torch.tensor([[ord(c) - 31 for c in text] + [0] * (width - len(text)) for text in texts])


def row_text(row: Int[Tensor, "width"]) -> str:
    """The text that stands before the first end of a row."""
    numbers = [*row.tolist(), 0]
    return "".join(chr(number + 31) for number in numbers[: numbers.index(0)])
