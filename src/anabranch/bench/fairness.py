"""Equal size: the width at which a network has as many parameters as its rivals."""

from collections.abc import Callable

from torch import nn

from anabranch.bench.skeletons import Size

TOLERANCE = 0.05
RATIOS = (0.25, 16.0)  # hidden widths, in multiples of the width, that still make a sensible network
LARGEST = 4096


def parameters(model: nn.Module) -> int:
    """Trained parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def solve_size(build: Callable[[Size], nn.Module], target: int, start: Size, step: int) -> tuple[Size, int]:
    """The size at which ``build`` gives nearly ``target`` parameters, and how many it then has.

    The usual width is kept where a change of the hidden width is enough, so that contenders differ in one thing only;
    else the width changes, in multiples of ``step``. A network whose size cannot be chosen stays as it is.
    """

    def count(size: Size) -> int:
        return parameters(build(size))

    def error(size: Size) -> float:
        return abs(count(size) - target) / target

    best = _fit_ratio(count, target, start)
    if error(best) <= TOLERANCE / 2 or count(Size(start.dim + step, start.ratio)) == count(start):
        return best, count(best)
    low, high = step, start.dim
    while count(Size(high, start.ratio)) < target and high < LARGEST:
        low, high = high, 2 * high
    while high - low > step:
        middle = (low + high) // 2 // step * step
        middle = middle if low < middle < high else low + step
        if middle >= high:
            break
        low, high = (middle, high) if count(Size(middle, start.ratio)) < target else (low, middle)
    near = [_fit_ratio(count, target, Size(dim, start.ratio)) for dim in (low, high)]
    best = min([best, *near], key=error)
    return best, count(best)


def _fit_ratio(count: Callable[[Size], int], target: int, size: Size) -> Size:
    """Choose the hidden width; the number of parameters is a straight line in it."""
    here, there = count(size), count(Size(size.dim, size.ratio + 1))
    if here == there:
        return size
    ratio = size.ratio + (target - here) / (there - here)
    return Size(size.dim, min(max(ratio, RATIOS[0]), RATIOS[1]))
