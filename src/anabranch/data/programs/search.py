"""Which programs agree with observed pairs: the check for a partial program, and a search without a network."""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from anabranch.data.programs.language import END, Expression, Program, StringDSL


def consistent(dsl: StringDSL, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[tuple[int, ...]], bool]:
    """A check for beam search that refuses what cannot become a program that gives all observed outputs.

    Words that are no beginning of a program are refused at once, what a program has put out so far whenever an
    expression is finished: it must begin every observed output, and at the end be all of it.
    """

    def accept(words: tuple[int, ...]) -> bool:
        ended = words[-1] == END
        try:
            program, finished = dsl.read(words[:-1] if ended else words)
        except ValueError:
            return False
        if not finished:
            return not ended
        if not program:
            return False
        made = [dsl.run(program, text) for text in inputs]
        if ended:
            return all(part == output for part, output in zip(made, outputs, strict=True))
        return all(part is not None and output.startswith(part) for part, output in zip(made, outputs, strict=True))

    return accept


def enumerate_programs(
    dsl: StringDSL,
    inputs: Sequence[str],
    outputs: Sequence[str],
    *,
    expressions: int = 3,
    limit: int | None = None,
    among: Iterable[Expression] | None = None,
) -> Program | None:
    """The first program with the fewest expressions that gives all observed outputs, or None.

    Arguments:
        dsl: the language.
        inputs, outputs: the observed pairs.
        expressions: most expressions in a program.
        limit: how many expressions are looked at, in the language's order; all if not given.
        among: the expressions to look at, all of the language if not given.
    """
    kinds: dict[tuple[str, ...], Expression] = {}  # of expressions that do the same here, one is enough
    for expression in islice(dsl.expressions() if among is None else among, limit):
        made = []
        for text, output in zip(inputs, outputs, strict=True):
            part = dsl.apply(expression, text)
            if part is None or part not in output:
                break
            made.append(part)
        else:
            kinds.setdefault(tuple(made), expression)

    def complete(rest: tuple[str, ...], size: int) -> Program | None:
        if size == 1:
            return (kinds[rest],) if rest in kinds else None
        for made, expression in kinds.items():
            if all(map(str.startswith, rest, made)):
                following = tuple(text[len(part) :] for text, part in zip(rest, made, strict=True))
                if following != rest and any(following) and (found := complete(following, size - 1)) is not None:
                    return (expression, *found)
        return None

    for size in range(1, expressions + 1):
        if (found := complete(tuple(outputs), size)) is not None:
            return found
    return None
