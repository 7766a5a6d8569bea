"""Spectra whose numbers can be computed by hand."""

import math

import pytest
import torch

from anabranch.metrics import Spectrum, spectrum


def test_a_rotation_has_the_flattest_spectrum():
    s = spectrum(torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q)
    assert s.entropy == pytest.approx(1, abs=1e-6)
    assert s.effective_rank == pytest.approx(16, rel=1e-5)
    assert s.top_energy(4) == pytest.approx(0.25, rel=1e-5)
    assert s.quartile_ratio == pytest.approx(1, rel=1e-4)


def test_rank_one_has_all_its_energy_in_one_direction():
    s = spectrum(torch.outer(torch.arange(1.0, 5.0), torch.ones(3)))
    assert s.entropy == pytest.approx(0, abs=1e-6)
    assert s.effective_rank == pytest.approx(1, rel=1e-5)
    assert s.top_energy(1) == pytest.approx(1)


def test_numbers_by_hand_for_singular_values_2_and_1():
    s = spectrum(torch.diag(torch.tensor([2.0, 1.0])))
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert s.entropy == pytest.approx(entropy / math.log(2))
    assert s.effective_rank == pytest.approx(math.exp(entropy))
    assert s.top_energy(1) == pytest.approx(0.8)
    assert s.quartile_ratio == pytest.approx((0.2 + 0.75 * 0.6) / (0.2 + 0.25 * 0.6))


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_numbers_do_not_depend_on_the_scale(scale):
    values = torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)
    assert Spectrum(values * scale).entropy == pytest.approx(Spectrum(values).entropy)


def test_a_single_value_is_flat():
    assert spectrum(torch.ones(1, 3)).entropy == 1


def test_what_has_no_spectrum_is_refused(unchecked):
    with pytest.raises(ValueError, match="zeros"):
        spectrum(torch.zeros(3, 3))
    with pytest.raises(ValueError, match="finite"):
        Spectrum(torch.tensor([float("nan")]))
    with pytest.raises(ValueError, match="matrix"):
        spectrum(torch.zeros(3))
    with pytest.raises(ValueError, match="k must"):
        spectrum(torch.eye(3)).top_energy(0)
