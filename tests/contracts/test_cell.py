"""The laws of the slot ``cell``, for every cell that the catalog lists."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from anabranch import testing
from anabranch.catalog import parts
from anabranch.nn.recurrent import Recurrence
from anabranch.nn.streaming import map_state
from anabranch.slots import fill

CELLS = {name: entry.load() for name, entry in parts("cell").items()}


@pytest.fixture(params=CELLS)
def make(request: pytest.FixtureRequest) -> Callable[..., Recurrence]:
    def build(in_dim: int = 3, dim: int = 5) -> Recurrence:
        return fill("cell", CELLS[request.param], in_dim=in_dim, dim=dim)

    return build


def random_state(cell: Recurrence, batch: int):
    return map_state(lambda tensor: torch.rand_like(tensor) - 0.5, cell.initial_state(batch))


def test_the_laws_of_every_part(make):
    testing.check_part(make, torch.randn(2, 4, 3))


def test_streaming_causality_and_padding(make):
    @settings(max_examples=5, deadline=None)
    @given(batch=st.integers(1, 3), time=st.integers(2, 9), in_dim=st.integers(1, 4), dim=st.integers(1, 6))
    def laws(batch, time, in_dim, dim):
        cell, x = make(in_dim, dim), torch.randn(batch, time, in_dim)
        testing.check_streaming(cell, x)
        testing.check_causal(cell, x)
        testing.check_padding(cell, x)

    laws()


def test_the_solver_equals_the_loop_from_any_state(make):
    cell, x = make().double(), torch.randn(3, 70, 3, dtype=torch.float64)
    state = random_state(cell, 3)
    torch.testing.assert_close(cell.scan(x, state), cell.recur(x, state, None, None), rtol=1e-10, atol=1e-10)


def test_padding_is_left_out_from_any_state(make):
    cell, x, lengths = make().double(), torch.randn(3, 6, 3, dtype=torch.float64), torch.tensor([6, 1, 4])
    state = random_state(cell, 3)
    (y, last), (looped, last_looped) = cell(x, state, lengths=lengths), cell.recur(x, state, lengths, None)
    exists = torch.arange(6) < lengths[:, None]
    torch.testing.assert_close(y[exists], looped[exists], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, last_looped, rtol=1e-10, atol=1e-10)


def test_a_reset_forgets_what_came_before(make):
    cell, x = make().double(), torch.randn(2, 7, 3, dtype=torch.float64)
    resets = torch.zeros(2, 7, dtype=torch.bool)
    resets[:, 4] = True
    y, _ = cell(x, random_state(cell, 2), resets=resets)
    torch.testing.assert_close(y[:, 4:], cell(x[:, 4:])[0], rtol=1e-10, atol=1e-10)


def test_a_state_that_is_declared_to_be_the_output_is(make):
    cell = make()
    if cell.state_is_output:
        y, state = cell(torch.randn(2, 4, 3))
        torch.testing.assert_close(state, y[:, -1], rtol=0, atol=0)


def test_the_cost_counts_the_matrix_products(make):
    cell = make(6, 9)
    with FlopCounterMode(display=False) as counter:
        cell.recur(torch.randn(1, 5, 6), cell.initial_state(1), None, None)
    assert counter.get_total_flops() / 2 <= cell.cost(5) <= counter.get_total_flops()
    assert cell.cost(10) == 2 * cell.cost(5)


@pytest.mark.usefixtures("unchecked")
def test_wrong_shapes_say_what_was_expected(make):
    cell, x = make(), torch.zeros(2, 4, 3)
    with pytest.raises(ValueError, match=r"expected \(batch, time, 3\); got \(2, 4, 5\)"):
        cell(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match=r"expected 2 lengths between 1 and 4; got \[0, 4\]"):
        cell(x, lengths=torch.tensor([0, 4]))
    with pytest.raises(ValueError, match=r"resets must be \(2, 4\); got \(2, 3\)"):
        cell(x, resets=torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 1"):
        make(0, 5)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")  # the annotations' checks cannot be compiled
def test_compiled_and_not_it_computes_the_same(make):
    testing.check_compile(make, torch.randn(2, 4, 3))
