"""Fitting a small network in float64 to the last digit: L-BFGS over all samples at once."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
from torch import Tensor, nn


def fit_lbfgs(
    parameters: Iterable[nn.Parameter], loss: Callable[[], Float[Tensor, ""]], *, steps: int, memory: int = 20
) -> float:
    """Minimise a loss that does not change from call to call, in place.

    Arguments:
        parameters: what to change. In float64, unless a few digits are enough.
        loss: computes the loss of all samples from the parameters' current values.
        steps: most iterations; it stops earlier where no descent is left.
        memory: number of past steps that the curvature is estimated from.

    Returns: the loss at the end.
    """
    changing = [p for p in parameters if p.requires_grad]
    sizes = [p.numel() for p in changing]

    def place(vector: np.ndarray) -> None:
        with torch.no_grad():
            for p, part in zip(changing, torch.from_numpy(vector).split(sizes), strict=True):
                p.copy_(part.reshape(p.shape))

    def evaluate(vector: np.ndarray) -> tuple[float, np.ndarray]:
        place(vector)
        value = loss()
        grads = torch.autograd.grad(value, changing, allow_unused=True)
        flat = [
            torch.zeros(p.numel(), dtype=torch.float64) if g is None else g.detach().flatten().cpu().double()
            for p, g in zip(changing, grads, strict=True)
        ]
        return float(value.detach()), torch.cat(flat).numpy()

    start = torch.cat([p.detach().flatten().cpu().double() for p in changing]).numpy()
    options = {"maxiter": steps, "maxfun": 2 * steps + 10, "maxcor": memory, "ftol": 0.0, "gtol": 0.0}
    result = minimize(evaluate, start, jac=True, method="L-BFGS-B", options=options)
    place(np.asarray(result.x))
    return float(result.fun)
