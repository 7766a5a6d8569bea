"""A field of second degree whose coefficients can be read (MONet, Cheng et al. 2024, arXiv 2401.17992, section 4.4)."""

from collections.abc import Sequence

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.nn.implicit.solvers import Method, evaluations, trajectory


class PolyODE(nn.Module):
    """``dx/dt = C(A x + A x * B D x)``: a MONet layer without norms, as the right-hand side of a differential equation.

    Since the field is a polynomial, what it has learned can be written down: see :meth:`coefficients`.

    Arguments:
        dim: numbers of the state.
        hidden: products that the field is a sum of.
        rank: width between ``B`` and ``D``; ``dim`` if not given, which loses nothing.
        steps, method: of the solver, from each time to the next, as in :func:`trajectory`.

    Shapes: a state ``(..., dim)`` to its derivative.
    Raises: ``ValueError`` if a width is less than 1, the method is unknown or there is no step.
    """

    def __init__(self, dim: int, *, hidden: int = 16, rank: int | None = None, steps: int = 1, method: Method = "rk4"):
        super().__init__()
        rank = dim if rank is None else rank
        if min(dim, hidden, rank) < 1:
            raise ValueError(f"dim, hidden and rank must be at least 1; got {dim}, {hidden} and {rank}")
        evaluations(steps, method)  # refuses what cannot be done
        self.dim, self.steps = dim, steps
        self.method: Method = method
        self.first = nn.Linear(dim, hidden, bias=False)  # A in the paper
        self.narrow = nn.Linear(dim, rank, bias=False)  # D
        self.widen = nn.Linear(rank, hidden, bias=False)  # B
        self.last = nn.Linear(hidden, dim, bias=False)  # C

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch dim"]:
        a = self.first(x)
        return self.last(torch.addcmul(a, a, self.widen(self.narrow(x))))

    def trajectory(
        self, x: Float[Tensor, "*batch dim"], times: Sequence[float] | Float[Tensor, "times"]
    ) -> Float[Tensor, "times *batch dim"]:
        """The states at given times, from the state at the first of them."""
        states = trajectory(lambda t, state: self(state), x, times, steps=self.steps, method=self.method)
        return torch.stack(states)

    @torch.no_grad()
    def coefficients(self) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, "dim dim dim"]]:
        """``L`` and ``Q`` of ``dx_i/dt = sum_j L_ij x_j + sum_jk Q_ijk x_j x_k``; ``Q`` is symmetric in j and k."""
        a, c = self.first.weight, self.last.weight
        b = self.widen.weight @ self.narrow.weight
        quadratic = einsum(c, a, b, "i m, m j, m k -> i j k")
        return c @ a, (quadratic + quadratic.mT) / 2
