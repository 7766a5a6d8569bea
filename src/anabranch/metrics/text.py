"""How near written texts come to right ones."""

import math
from collections import Counter
from collections.abc import Hashable, Sequence


def bleu(
    written: Sequence[Sequence[Hashable]], right: Sequence[Sequence[Sequence[Hashable]]], *, longest: int = 4
) -> float:
    """Geometric mean, over runs of 1 to ``longest`` tokens, of the share that stand in a right text; 0 to 1.

    Over all texts together (Papineni et al. 2002), with their penalty for texts shorter than the right text nearest in
    length. Runs of several tokens are counted once more than they are, found and in all (Lin and Och 2004), so that no
    share is 0 because the texts are few.

    Arguments:
        written: texts as rows of tokens.
        right: for each of them the texts that would be right; one at least.
    """
    ours = theirs = 0
    hits, total = [0] + [1] * (longest - 1), [0] + [1] * (longest - 1)
    for text, choices in zip(written, right, strict=True):
        ours += len(text)
        theirs += min(map(len, choices), key=lambda length: (abs(length - len(text)), length))
        for n in range(longest):
            known = Counter[tuple[Hashable, ...]]()
            for choice in choices:
                known |= _runs(choice, n + 1)
            made = _runs(text, n + 1)
            hits[n] += (made & known).total()
            total[n] += made.total()
    if not hits[0]:
        return 0.0
    shares = sum(math.log(hit / all_) for hit, all_ in zip(hits, total, strict=True)) / longest
    return math.exp(shares + min(0.0, 1 - theirs / ours))


def _runs(text: Sequence[Hashable], length: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(zip(*(text[start:] for start in range(length)), strict=False))
