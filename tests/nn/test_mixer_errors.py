import pytest
import torch

from anabranch.nn.mixing.base import TokenMixer


@pytest.mark.usefixtures("unchecked")
def test_a_mixer_says_which_shape_it_expected():
    with pytest.raises(ValueError, match=r"expected \(batch, time, 8\); got \(2, 8\)"):
        TokenMixer(8)(torch.zeros(2, 8))
