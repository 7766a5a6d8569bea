"""The linear associative memory: the simplest model in which frequent facts crowd out rare ones (arXiv 2509.26030)."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from anabranch.errors import InputError

Update = Callable[[Tensor], Tensor]  # gradient -> direction to step against


class AssociativeMemory:
    """One matrix W that is to recall value k from key k, trained on classes of unequal frequency.

    The logits of query k are Ẽᵀ W E_k and the loss is −Σ_k p_k log softmax_k (the paper's section 5). The gradient is
    −Ẽ (I − S) diag(p) Eᵀ, with column k of S the probabilities for query k; at W = 0 all of S is 1/K.

    Arguments:
        keys: E, one column per class.
        values: Ẽ, one column per class.
        frequencies: p, how often each class is asked for; sums to 1.
    """

    def __init__(
        self,
        keys: Float[Tensor, "dim classes"],
        values: Float[Tensor, "out_dim classes"],
        frequencies: Float[Tensor, "classes"],
    ):
        if keys.shape[1] != values.shape[1] or keys.shape[1] != len(frequencies):
            raise ValueError(
                "expected as many keys as values and frequencies; "
                f"got {keys.shape[1]}, {values.shape[1]} and {len(frequencies)}"
            )
        if bool((frequencies < 0).any()) or abs(float(frequencies.sum()) - 1) > 1e-6:
            raise ValueError(f"frequencies are not negative and sum to 1; got a sum of {float(frequencies.sum()):g}")
        self.keys, self.values, self.frequencies = keys, values, frequencies

    def empty(self) -> Float[Tensor, "out_dim dim"]:
        """The memory that knows nothing: W = 0."""
        return self.keys.new_zeros(len(self.values), len(self.keys))

    def probabilities(self, W: Float[Tensor, "out_dim dim"]) -> Float[Tensor, "classes queries"]:
        """S: what the memory answers to each query, a column each."""
        return (self.values.T @ W @ self.keys).softmax(0)

    def recall(self, W: Float[Tensor, "out_dim dim"]) -> Float[Tensor, "classes"]:
        """Probability of the right answer for each class."""
        return self.probabilities(W).diagonal()

    def loss(self, W: Float[Tensor, "out_dim dim"]) -> Float[Tensor, ""]:
        log = (self.values.T @ W @ self.keys).log_softmax(0).diagonal()
        return -(self.frequencies * log).sum()

    def gradient(self, W: Float[Tensor, "out_dim dim"]) -> Float[Tensor, "out_dim dim"]:
        """The loss's gradient in closed form."""
        error = torch.eye(len(self.frequencies), dtype=W.dtype, device=W.device) - self.probabilities(W)
        return -self.values @ (error * self.frequencies) @ self.keys.T

    def one_step(self, update: Update, best: float = 0.99) -> Float[Tensor, "classes"]:
        """Recall after one step from nothing, as long as it takes for the best class to reach ``best``.

        The worst class's recall next to ``best`` says how evenly the update learns.

        Raises:
            InputError: if no length of step gets there.
        """
        direction = update(self.gradient(self.empty()))

        def recall(length: float) -> Tensor:
            return self.recall(-length * direction)

        low, high = 0.0, 1.0
        while float(recall(high).max()) < best:
            low, high = high, 2 * high
            if high > 1e12:
                raise InputError(f"no step against this update takes the best class to {best:g}")
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if float(recall(middle).max()) < best else (low, middle)
        return recall(high)


def polar(G: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    """The orthogonal factor UVᵀ of G = USVᵀ, over the directions in which G is not zero: Muon's update, exactly."""
    U, S, Vh = torch.linalg.svd(G, full_matrices=False)
    smallest = S.max() * max(G.shape) * torch.finfo(G.dtype).eps
    return (U * S.gt(smallest)) @ Vh


def sign(G: Float[Tensor, "rows cols"]) -> Float[Tensor, "rows cols"]:
    """Adam's first step, without its ε. Entries that are zero but for rounding stay zero."""
    return G.sign() * (G.abs() > 1e-9 * G.abs().max())


def head_and_tail(classes: int, head: int, share: float) -> Float[Tensor, "classes"]:
    """Frequencies of which the first ``head`` classes have ``share`` together, evenly, and the others the rest."""
    if not 0 < head < classes or not 0 < share < 1:
        raise ValueError(f"expected 0 < head < classes and 0 < share < 1; got {head}, {classes} and {share}")
    p = torch.full((classes,), (1 - share) / (classes - head), dtype=torch.float64)
    p[:head] = share / head
    return p


def rotation(size: int, block: int, generator: torch.Generator | None = None) -> Float[Tensor, "{size} {size}"]:
    """A random orthogonal matrix that is block-diagonal, with independent blocks of ``block`` rows."""
    if size % block:
        raise ValueError(f"{size} rows do not divide into blocks of {block}")
    blocks = [
        torch.linalg.qr(torch.randn(block, block, dtype=torch.float64, generator=generator)).Q
        for _ in range(size // block)
    ]
    return torch.block_diag(*blocks)
