"""One code for several kinds of things (the middle of the dual dictionary, Chen and Zhao 2022, arXiv 2205.04602)."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class SharedCode(nn.Module):
    """Things of several kinds, each with an encoder of its own, meet in one code, from which every kind can be had.

    After its encoder each kind goes through the same perceptron ``S``, so that whatever learns to convert one kind
    into another trains what all the others use as well.

        middle = SharedCode({"word": ..., "definition": ...}, {"word": ..., "definition": ...}, 256)
        definition = middle.decode("definition", middle.encode("word", vector))
        loss = middle.disagreement([middle.encode("word", vector), middle.encode("definition", text)]) + ...

    Arguments:
        encoders: for each kind a module that gives ``(batch, dim)``.
        decoders: for each kind that is wanted back a module that takes ``(batch, dim)``.
        dim: width of the code.
        dropout: share of units dropped before ``S``.
        shared: whether the kinds share ``S``; else each has its own, and only :meth:`disagreement` joins them.

    Raises: ``ValueError`` if there is a decoder for a kind without an encoder.
    """

    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        decoders: Mapping[str, nn.Module],
        dim: int,
        *,
        dropout: float = 0.2,
        shared: bool = True,
    ):
        super().__init__()
        if not encoders or not set(decoders) <= set(encoders):
            raise ValueError(f"expected an encoder for every kind that has a decoder; got {[*encoders]}, {[*decoders]}")
        self.encoders, self.decoders = nn.ModuleDict(encoders), nn.ModuleDict(decoders)
        count = 1 if shared else len(encoders)
        self.perceptrons = nn.ModuleList(perceptron(dim, dim, dim, dropout) for _ in range(count))

    def encode(self, kind: str, x: Any) -> Float[Tensor, "batch dim"]:
        """The code of things of one kind."""
        own = min([*self.encoders].index(kind), len(self.perceptrons) - 1)
        return self.perceptrons[own](self.encoders[kind](x))

    def decode(self, kind: str, code: Float[Tensor, "batch dim"]) -> Any:
        """What things with these codes are as one kind, as the kind's decoder gives it."""
        return self.decoders[kind](code)

    @staticmethod
    def disagreement(codes: list[Float[Tensor, "batch dim"]]) -> Float[Tensor, ""]:
        """Mean squared difference between the codes that the same things got as different kinds."""
        pairs = [F.mse_loss(a, b) for i, a in enumerate(codes) for b in codes[:i]]
        return torch.stack(pairs).mean()


def perceptron(in_dim: int, dim: int, out_dim: int, dropout: float) -> nn.Sequential:
    """Dropout, a linear layer, ReLU, another linear layer."""
    return nn.Sequential(nn.Dropout(dropout), nn.Linear(in_dim, dim), nn.ReLU(), nn.Linear(dim, out_dim))
