"""Probe of the weights: how evenly each matrix of a model spreads its energy over directions."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from anabranch.data.task import Batch
from anabranch.interpret.base import Probe, Report
from anabranch.metrics import Spectrum, spectrum

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class WeightSpectrum(Probe):
    """Spectra of all weight matrices, next to those of random matrices of the same shape.

    A kernel with more than two axes is read as a matrix from all its inputs to its outputs. For each matrix the report
    has ``entropy``, ``effective_rank``, ``top_energy`` and ``quartile_ratio`` (:class:`anabranch.metrics.Spectrum`),
    each with the mean over Gaussian matrices as ``.null`` and the range that holds 95 % of them as ``.null_low`` and
    ``.null_high``. The weights are no sample of anything, so their own numbers have no interval.

    Arguments:
        top: how many directions count as the top.
        draws: random matrices per shape.
    """

    def __init__(self, model: nn.Module, data: Batch | None = None, *, top: int = 10, draws: int = 20):
        super().__init__(model, data)
        if top < 1 or draws < 1:
            raise ValueError(f"expected top >= 1 and draws >= 1; got {top} and {draws}")
        self.top, self.draws = top, draws

    def measure(self) -> Report:
        numbers: dict[str, float] = {}
        arrays: dict[str, np.ndarray] = {}
        nulls: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        generator = torch.Generator().manual_seed(0)
        for name, p in self.model.named_parameters():
            if p.ndim < 2 or min(p.flatten(1).shape) < 2 or not p.is_floating_point() or not bool(p.detach().any()):
                continue
            matrix = p.detach().flatten(1)
            found = spectrum(matrix)
            rows, cols = matrix.shape
            if (rows, cols) not in nulls:
                drawn = [
                    self._numbers(spectrum(torch.randn(rows, cols, generator=generator))) for _ in range(self.draws)
                ]
                nulls[rows, cols] = {key: np.array([one[key] for one in drawn]) for key in drawn[0]}
            arrays[name] = found.values.numpy()
            for key, value in self._numbers(found).items():
                null = nulls[rows, cols][key]
                low, high = np.percentile(null, [2.5, 97.5])
                numbers |= {
                    f"{name}.{key}": value,
                    f"{name}.{key}.null": float(null.mean()),
                    f"{name}.{key}.null_low": float(low),
                    f"{name}.{key}.null_high": float(high),
                }
        return Report(numbers, partial(_figure, arrays), arrays)

    def _numbers(self, found: Spectrum) -> dict[str, float]:
        return {
            "entropy": found.entropy,
            "effective_rank": found.effective_rank,
            "top_energy": found.top_energy(self.top),
            "quartile_ratio": found.quartile_ratio,
        }


def _figure(arrays: dict[str, np.ndarray]) -> "Figure":
    from plotly import graph_objects as go

    figure = go.Figure()
    for name, values in arrays.items():
        place = (np.arange(len(values)) + 0.5) / len(values)
        figure.add_scatter(x=place, y=values / np.sqrt(np.mean(values**2)), name=name, mode="lines")
    figure.update_layout(
        title="Singular values of the weights",
        xaxis_title="place in the order, from the largest to the smallest",
        yaxis_title="singular value / root mean square",
    )
    return figure
