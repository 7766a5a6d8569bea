import pytest
import torch

from anabranch import testing
from anabranch.errors import InputError
from anabranch.models.recurrent import RecurrentNet
from anabranch.nn.norm import GroupNorm, IdentityNorm
from anabranch.nn.recurrent import LSTMCell


@pytest.mark.parametrize("residual", [True, False])
def test_the_trunk_streams_and_keeps_the_laws_of_a_part(residual):
    def make():
        return RecurrentNet(4, 2, cell="gru", residual=residual)

    x = torch.randn(2, 5, 4)
    testing.check_part(make, x)
    testing.check_streaming(make(), x)
    testing.check_causal(make(), x)
    testing.check_padding(make(), x)


def test_missing_tokens_are_passed_over_wherever_they_stand():
    net, x = RecurrentNet(4, 2, cell=LSTMCell).double(), torch.randn(1, 6, 4, dtype=torch.float64)
    mask = torch.tensor([[False, True, True, False, True, False]])
    torch.testing.assert_close(net(x, mask=mask)[mask], net(x[:, mask[0]])[0], rtol=1e-10, atol=1e-10)


def test_norm_can_be_left_out_and_cells_found_by_name():
    net = RecurrentNet(3, 1, cell="elman", norm=IdentityNorm, residual=False)
    x = torch.randn(2, 4, 3)
    torch.testing.assert_close(net(x), net.cells[0](x)[0], rtol=0, atol=0)


def test_dropout_acts_in_training_only():
    net, x = RecurrentNet(3, 1, dropout=0.5), torch.randn(2, 4, 3)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_a_norm_over_all_tokens_is_refused():
    with pytest.raises(InputError, match="GroupNorm looks at all tokens"):
        RecurrentNet(3, 1, norm=GroupNorm)


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_say_what_was_expected():
    with pytest.raises(ValueError, match=r"expected \(batch, time, 3\); got \(2, 4\)"):
        RecurrentNet(3, 1)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"mask must be \(2, 4\)"):
        RecurrentNet(3, 1)(torch.zeros(2, 4, 3), mask=torch.ones(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="depth must be at least 1"):
        RecurrentNet(3, 0)
