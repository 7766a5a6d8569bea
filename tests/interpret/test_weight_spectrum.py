"""The probe of weights reads every matrix, and knows what chance looks like."""

import pytest
import torch
from torch import nn

from anabranch.interpret import WeightSpectrum


def test_random_weights_lie_within_chance_and_a_low_rank_outside():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 20))
    with torch.no_grad():
        model[0].weight.normal_()
        model[1].weight.copy_(torch.randn(20, 2) @ torch.randn(2, 30))
    found = WeightSpectrum(model, top=2, draws=200).run().numbers
    assert (
        found["0.weight.entropy.null_low"] - 0.01
        < found["0.weight.entropy"]
        < found["0.weight.entropy.null_high"] + 0.01
    )
    assert found["1.weight.entropy"] < found["1.weight.entropy.null_low"]
    assert found["1.weight.effective_rank"] < 2.001
    assert found["1.weight.top_energy"] == pytest.approx(1, abs=1e-5)


def test_kernels_are_matrices_and_vectors_and_zeros_are_left_out():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(4, 1), nn.Linear(4, 4))
    nn.init.zeros_(model[3].weight)
    report = WeightSpectrum(model).run()
    assert list(report.arrays) == ["0.weight"]
    assert report.arrays["0.weight"].shape == (8,)


def test_options_are_checked():
    with pytest.raises(ValueError, match="draws"):
        WeightSpectrum(nn.ReLU(), draws=0)
