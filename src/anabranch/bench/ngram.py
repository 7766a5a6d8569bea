"""An n-gram model of bytes with Witten–Bell interpolation: the classical baseline of a language model.

Witten and Bell, "The zero-frequency problem", IEEE Transactions on Information Theory 37(4), 1991, method C.
"""

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.integer]


class NGram:
    """Predicts a byte from up to ``order`` bytes before it in the same window.

    ``p_k(c | context) = (n(context, c) + t(context) p_{k-1}(c)) / (n(context) + t(context))`` with ``t`` the number of
    different bytes seen after the context, and ``p_0`` uniform over 256 bytes.
    """

    def __init__(self, order: int):
        if not 0 <= order <= 6:
            raise ValueError(f"order must be between 0 and 6, so that a context fits 64 bits; got {order}")
        self.order = order
        self.tables: list[tuple[NDArray, NDArray, NDArray, NDArray, NDArray]] = []

    def fit(self, windows: Bytes, targets: Bytes) -> "NGram":
        """Count all contexts of windows ``(count, time)`` with the byte that follows each position."""
        self.tables = []
        for length in range(self.order + 1):
            contexts = _contexts(windows, length)
            if contexts.size == 0:
                break
            pairs = contexts * 256 + targets[:, length - 1 if length else 0 :].astype(np.int64)
            kept, first = np.unique(pairs, return_counts=True)
            owners, start = np.unique(kept // 256, return_index=True)
            totals = np.add.reduceat(first, start)
            kinds = np.diff(np.append(start, len(kept)))
            self.tables.append((kept, first, owners, totals, kinds))
        return self

    def bits(self, windows: Bytes, targets: Bytes) -> NDArray[np.float64]:
        """Bits to code each target ``(count, time)``."""
        p = np.full(targets.shape, 1 / 256)
        for length, (pairs, counts, owners, totals, kinds) in enumerate(self.tables):
            contexts = _contexts(windows, length)
            where = slice(max(length - 1, 0), None)
            n = _look_up(owners, totals, contexts)
            t = _look_up(owners, kinds, contexts)
            c = _look_up(pairs, counts, contexts * 256 + targets[:, where].astype(np.int64))
            lower = p[:, where]
            # A context that was never seen says nothing: the shorter one's word stands.
            p[:, where] = np.where(n > 0, (c + t * lower) / np.maximum(n + t, 1), lower)
        return -np.log2(p)


def _contexts(windows: Bytes, length: int) -> NDArray[np.int64]:
    """Numbers for the last ``length`` bytes up to and with each position that has so many; ``(count, positions)``."""
    count, time = windows.shape
    if length == 0:
        return np.zeros((count, time), dtype=np.int64)
    code = np.zeros((count, max(time - length + 1, 0)), dtype=np.int64)
    for offset in range(length):
        code = code * 256 + windows[:, offset : time - length + 1 + offset].astype(np.int64)
    return code


def _look_up(keys: NDArray, values: NDArray, wanted: NDArray[np.int64]) -> NDArray[np.float64]:
    index = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[index] == wanted, values[index], 0).astype(float)
