"""Meters: contexts that count what a training step keeps in memory and how much it computes."""

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Bytes:
    """A running count of bytes: ``current``, ``peak`` and the ``total`` that was ever added."""

    def __init__(self) -> None:
        self.current = self.peak = self.total = 0

    def add(self, size: int) -> None:
        self.current += size
        self.total += size
        self.peak = max(self.peak, self.current)

    def release(self, size: int) -> None:
        self.current -= size


class Stashed:
    """A tensor that is kept for later; counted while this box lives."""

    __slots__ = ("__weakref__", "tensor")

    def __init__(self, tensor: Tensor):
        self.tensor = tensor


class SavedBytes(Bytes):
    """Bytes that autograd keeps for its backward passes, by storage: a tensor saved twice counts once.

    Parameters and buffers of ``module`` do not count: they are there anyway. Tensors that a function keeps by other
    means than ``save_for_backward`` are invisible unless it keeps them through :func:`stash`, and so is what the
    non-reentrant kind of checkpointing recomputes, because it installs hooks of its own.
    """

    def __init__(self, module: nn.Module):
        super().__init__()
        self._owned = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers())}
        self._references: dict[int, list[int]] = {}  # storage -> [bytes, references]
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self.keep, self._unpack)

    def keep(self, tensor: Tensor) -> Tensor | Stashed:
        """Count a tensor until the box it comes back in is dropped."""
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self._owned or storage.nbytes() == 0:
            return tensor
        entry = self._references.setdefault(key, [storage.nbytes(), 0])
        if entry[1] == 0:
            self.add(entry[0])
        entry[1] += 1
        box = Stashed(tensor)
        weakref.finalize(box, self._drop, key)
        return box

    def _drop(self, key: int) -> None:
        entry = self._references[key]
        entry[1] -= 1
        if entry[1] == 0:
            self.release(entry[0])
            del self._references[key]

    @staticmethod
    def _unpack(kept: Tensor | Stashed) -> Tensor:
        return kept.tensor if isinstance(kept, Stashed) else kept

    def __enter__(self) -> "SavedBytes":
        self._hooks.__enter__()
        _active.append(self)
        return self

    def __exit__(self, *error: Any) -> None:
        _active.remove(self)
        self._hooks.__exit__(*error)


_active: list[SavedBytes] = []


def stash(tensor: Tensor) -> Stashed:
    """Keep a tensor outside autograd's sight (in ``ctx``, in a closure) so that the active meter sees it.

    Read it back as ``.tensor``; drop the box to release it.
    """
    kept = _active[-1].keep(tensor) if _active else Stashed(tensor)
    return kept if isinstance(kept, Stashed) else Stashed(kept)


class LiveBytes(TorchDispatchMode, Bytes):
    """Bytes of every storage that operations create, until it is freed: gradients and workspace too."""

    def __init__(self) -> None:
        TorchDispatchMode.__init__(self)
        Bytes.__init__(self)
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if made:
            # A result may be a view of an input, or the input itself: then nothing was allocated.
            before = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
            for tensor in made:
                self._see(tensor.untyped_storage(), before)
        return out

    def _see(self, storage: torch.UntypedStorage, before: set[int]) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or key in before or size == 0:
            return
        self._known.add(key)
        self.add(size)
        weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.release(size)


class Flops(TorchDispatchMode):
    """Floating-point operations of matrix products, convolutions and attention, ``forward`` and ``backward`` apart.

    What runs inside a backward pass with gradients switched off is backward; what is recomputed there for later use
    (checkpointing) is forward again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            number = count(*args, **kwargs, out_val=out)
            if torch._C._current_graph_task_id() != -1 and not torch.is_grad_enabled():
                self.backward += number
            else:
                self.forward += number
        return out
