"""How evenly a matrix spreads its energy over its singular directions (as measured in arXiv 2509.26030)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Spectrum:
    """Singular values and what they say. A value's *energy* is its square; shares are of the sum of all energies.

    Arguments:
        values: the singular values, falling.
    """

    values: Float[Tensor, "rank"]

    def __post_init__(self) -> None:
        if self.values.ndim != 1 or len(self.values) < 1 or not bool(self.values.isfinite().all()):
            raise ValueError("a spectrum needs at least one singular value, all finite")
        if float(self.values.max()) <= 0:
            raise ValueError("a matrix of zeros has no spectrum to describe")

    @property
    def shares(self) -> Float[Tensor, "rank"]:
        # Dividing by the largest first keeps the squares from under- and overflowing.
        energy = (self.values / self.values.max()).square()
        return energy / energy.sum()

    @property
    def entropy(self) -> float:
        """Entropy of the shares over its largest possible value: 1 for equal singular values, 0 for rank one."""
        if len(self.values) == 1:
            return 1.0
        return float(torch.special.entr(self.shares).sum() / torch.log(torch.tensor(float(len(self.values)))))

    @property
    def effective_rank(self) -> float:
        """Exponential of the shares' entropy: how many directions there would be if all were equally strong."""
        return float(torch.special.entr(self.shares).sum().exp())

    def top_energy(self, k: int) -> float:
        """Share of the ``k`` strongest directions."""
        if k < 1:
            raise ValueError(f"k must be at least 1; got {k}")
        return float(self.shares.sort(descending=True).values[:k].sum())

    @property
    def quartile_ratio(self) -> float:
        """Energy at the 75th percentile over energy at the 25th: 1 for a flat spectrum; infinite for a low rank."""
        low, high = self.shares.quantile(torch.tensor([0.25, 0.75], dtype=self.shares.dtype))
        return float(high / low)


def spectrum(matrix: Float[Tensor, "rows cols"]) -> Spectrum:
    """The singular values of a matrix, computed in float64."""
    if matrix.ndim != 2:
        raise ValueError(f"a spectrum is of a matrix (rows, cols); got {tuple(matrix.shape)}")
    return Spectrum(torch.linalg.svdvals(matrix.detach().cpu().double()))
