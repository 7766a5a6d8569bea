"""The log-linear model: several scores of a candidate, weighted and summed (Och and Ney 2002)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


class LogLinearReranker(nn.Module):
    """Rank candidates by a weighted sum of features, ``p(candidate) ∝ exp(Σ w_n f_n)``.

    A neural score enters as one more feature; with weight 0 the ranking is the one without it.

    Arguments:
        features: number of features.
    """

    def __init__(self, features: int):
        super().__init__()
        if features < 1:
            raise ValueError(f"expected at least 1 feature; got {features}")
        self.weights = nn.Parameter(torch.zeros(features))

    def forward(self, features: Float[Tensor, "*lists candidates features"]) -> Float[Tensor, "*lists candidates"]:
        """The score of every candidate, in logarithms."""
        if features.shape[-1] != len(self.weights):
            raise ValueError(f"expected (..., candidates, {len(self.weights)}); got {tuple(features.shape)}")
        return features @ self.weights.to(features.dtype)

    def tune(
        self,
        features: Float[Tensor, "lists candidates features"],
        best: Int[Tensor, "lists"],
        exists: Bool[Tensor, "lists candidates"] | None = None,
        *,
        penalty: float = 1e-3,
    ) -> float:
        """Set the weights to those that make the right candidates likeliest.

        The problem is convex. Features are brought to a common scale first, so that the penalty does not depend on
        their units.

        Arguments:
            features: features of the candidates of a development set.
            best: index of the right candidate of each list.
            exists: False where a list has fewer candidates than others.
            penalty: on the sum of squared scaled weights; it keeps them finite where lists can be told apart perfectly.

        Returns: mean log-probability of the right candidates.
        """
        if best.shape != features.shape[:1]:
            raise ValueError(f"expected {features.shape[0]} right candidates; got {tuple(best.shape)}")
        values = features.detach().double()
        exists = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device) if exists is None else exists
        scale = values[exists].std(0, correction=0).clamp(min=1e-12)
        scaled = values / scale
        weights = torch.zeros_like(scale, requires_grad=True)
        rows = torch.arange(len(best), device=best.device)

        def likelihood() -> Tensor:
            return (scaled @ weights).masked_fill(~exists, -torch.inf).log_softmax(1)[rows, best].mean()

        optimizer = torch.optim.LBFGS([weights], max_iter=200, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimizer.zero_grad()
            value = penalty * weights.square().sum() - likelihood()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(loss)  # pyright: ignore[reportArgumentType]
        with torch.no_grad():
            self.weights.copy_(weights / scale)
            return float(likelihood())


def ranks(
    scores: Float[Tensor, "lists candidates"],
    best: Int[Tensor, "lists"],
    exists: Bool[Tensor, "lists candidates"] | None = None,
) -> Int[Tensor, "lists"]:
    """Place of the right candidate in each list, from 1; of equal scores it has the last place."""
    own = scores.gather(1, best[:, None])
    ahead = (scores >= own) if exists is None else (scores >= own) & exists
    return ahead.sum(1)
