"""Bundle a perceptron: random features of the input, and one matrix (Sehanobish et al. 2023, arXiv 2310.13225).

A layer ``f(W x + b)`` is nearly ``Psi(W, b) Phi(x)``, see :mod:`anabranch.nn.feedforward.snnk`. The next layer applies
its own weights to that, so ``Psi`` merges with them, and features of ``Phi(x)`` follow. In the end the input has gone
through random features only, and all weights stand in one last matrix (section 4). What minimises a squared error is
then found by solving a linear system, without backpropagation.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.nn.feedforward.snnk import Features, ReLUFeatures, Wave, WaveFeatures


class Bundled(nn.Module):
    """Features of features of the input, then one linear layer.

    Arguments:
        lifts: the random features, each of the one before.
        out: the linear layer, ``Omega`` in the paper.
    """

    def __init__(self, lifts: list[Features], out: nn.Linear):
        super().__init__()
        self.lifts, self.out = nn.Sequential(*lifts), out

    def forward(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return self.out(self.lifts(x))

    @torch.no_grad()
    def solve(
        self, x: Float[Tensor, "samples in_dim"], y: Float[Tensor, "samples out_dim"], *, penalty: float = 0.0
    ) -> "Bundled":
        """Set the last layer to what minimises ``mean |y - prediction|^2 + penalty * |Omega|^2``; returns itself.

        The bias is not penalised. Computed in float64 by a singular value decomposition; where several matrices do
        equally well, the smallest is taken.
        """
        if x.ndim != 2 or y.shape != (len(x), self.out.out_features):
            raise ValueError(
                f"expected x (samples, in_dim) and y (samples, {self.out.out_features}); "
                f"got {tuple(x.shape)} and {tuple(y.shape)}"
            )
        features, targets = self.lifts(x).double(), y.double()
        mean, level = features.mean(0), targets.mean(0)
        u, s, vh = torch.linalg.svd(features - mean, full_matrices=False)
        kept = s > s.max() * 1e-10
        shrunk = torch.where(kept, s / (s.square() + len(x) * penalty).where(kept, 1), 0)
        omega = (vh.mT * shrunk @ (u.mT @ (targets - level))).mT
        self.out.weight.copy_(omega)
        self.out.bias.copy_(level - omega @ mean)
        return self


@torch.no_grad()
def bundle(net: nn.Sequential, *, features: int = 256, A: float = 0.0) -> Bundled:
    """Bundle linear layers with activations between them into random features and one last linear layer.

    Sines, cosines and bells (:class:`anabranch.nn.feedforward.Wave`) are estimated without bias, with an error that
    falls with the square root of the features for one hidden layer, as long as inputs and weights are of the order of
    1. For a ReLU the arc-cosine kernel stands in, which is another function: train or :meth:`Bundled.solve` it after.

    Arguments:
        net: linear layers with one activation between any two; starts and ends with a linear layer.
        features: draws for each hidden layer; two features a draw for waves, one for ReLU.
        A: see :class:`anabranch.nn.feedforward.WaveFeatures`.

    Raises: ``ValueError`` if the net is built otherwise.
    """
    stages = list(net)  # a layer that is used twice stands there twice
    linears = [stage for stage in stages[0::2] if isinstance(stage, nn.Linear)]
    activations = [stage for stage in stages[1::2] if isinstance(stage, nn.ReLU | Wave)]
    for stage in stages[1::2]:
        if not isinstance(stage, nn.ReLU | Wave | nn.Linear):
            raise ValueError(f"expected ReLU, Cosine, Sine or Bell as activations; got {type(stage).__name__}")
    if len(linears) != len(activations) + 1 or len(linears) + len(activations) != len(stages):
        raise ValueError("expected linear layers with one activation between any two, starting and ending with one")
    lifts: list[Features] = []
    so_far: Tensor | None = None  # from the features so far to the inputs of the next linear layer
    for linear, activation in zip(linears[:-1], activations, strict=True):
        weight = linear.weight if so_far is None else linear.weight @ so_far
        if isinstance(activation, nn.ReLU):
            lift: Features = ReLUFeatures(weight.shape[1], features)
        else:
            lift = WaveFeatures(weight.shape[1], features, wave=activation, A=A)
        lift = lift.to(weight)
        so_far = lift.weights(weight, _bias(linear))
        lifts.append(lift)
    last = linears[-1]
    omega = last.weight if so_far is None else last.weight @ so_far
    out = nn.Linear(omega.shape[1], len(omega)).to(omega)
    out.weight.copy_(omega)
    out.bias.copy_(_bias(last))
    return Bundled(lifts, out)


def _bias(linear: nn.Linear) -> Tensor:
    return linear.weight.new_zeros(linear.out_features) if linear.bias is None else linear.bias
