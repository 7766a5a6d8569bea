"""What single cells promise beyond the laws of their slot."""

import pytest
import torch

from anabranch import testing
from anabranch.nn.recurrent import DiagonalCell, GRUCell, LSTMCell, RecurrentMixing


def test_an_lstm_starts_out_remembering():
    cell = LSTMCell(2, 3)
    assert (cell.loop.bias_ih_l0[3:6] + cell.loop.bias_hh_l0[3:6] == 1).all()


def test_averages_start_with_time_constants_from_one_to_the_longest():
    a = torch.sigmoid(DiagonalCell(2, 5, longest=81.0).theta)
    torch.testing.assert_close(-1 / a.log(), torch.tensor([1.0, 3.0, 9.0, 27.0, 81.0]), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="longest must be at least 1"):
        DiagonalCell(2, 5, longest=0.5)


def test_an_average_of_a_constant_stays_within_it():
    cell = DiagonalCell(1, 4)
    y, _ = cell(torch.ones(1, 1000, 1))
    torch.testing.assert_close(y[0, -1], cell.project(torch.ones(1)), rtol=1e-3, atol=1e-3)


def test_read_backwards_the_first_token_knows_the_last():
    mixer = RecurrentMixing(5, cell=GRUCell, causal=False)
    x = torch.randn(1, 6, 5)
    changed = x.clone()
    changed[:, -1] += 1
    difference = (mixer(changed) - mixer(x))[0, 0].abs()
    assert (difference[:3] == 0).all() and (difference[3:] > 0).all()
    assert not mixer.streams and RecurrentMixing(5, cell=GRUCell).streams
    assert mixer.cost(7) == mixer.forwards.cost(7) + mixer.backwards.cost(7)


def test_gaps_in_the_middle_are_passed_over_in_both_directions():
    mixer = RecurrentMixing(4, cell=LSTMCell, causal=False).double()
    x, mask = torch.randn(1, 6, 4, dtype=torch.float64), torch.tensor([[True, False, True, True, False, False]])
    torch.testing.assert_close(mixer(x, mask=mask)[mask], mixer(x[:, mask[0]])[0], rtol=0, atol=1e-12)
    testing.check_padding(mixer, torch.randn(3, 5, 4))
