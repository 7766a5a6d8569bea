"""Each check passes sound parts, fails a part that breaks its law, and says what is wrong."""

import itertools

import pytest
import torch
from torch import Tensor, nn

from anabranch import testing
from anabranch.nn.recurrent import GRUCell, LSTMCell, Recurrence, RecurrentMixing
from anabranch.nn.streaming import Streaming

X = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))


class Part(nn.Module):
    """A sound linear layer, to be broken."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 3))

    def forward(self, x):
        return x @ self.weight


class Leaky(Streaming):
    """A sound leaky average whose state is its output, to be broken."""

    def __init__(self):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return Streaming.chunk(self, x, self.initial_state(len(x)))[0]

    def initial_state(self, batch):
        return self.zeros(batch, 3)

    def step(self, x_t, state):
        state = self.rate * state + x_t
        return state, state


class Delayed(Streaming):
    """Mean of the frame before, the frame itself and the ``ahead`` frames after it."""

    def __init__(self, ahead: int, declared: int):
        super().__init__()
        self.ahead, self.latency = ahead, declared

    def forward(self, x):
        padded = nn.functional.pad(x, (0, 0, 1, self.ahead))
        return padded.unfold(1, self.ahead + 2, 1).mean(-1)

    def initial_state(self, batch):
        return torch.zeros(batch, self.ahead + 1, 3)

    def step(self, x_t, state):
        seen = torch.cat([state.to(x_t), x_t[:, None]], dim=1)
        return seen.mean(1), seen[:, 1:]


def test_sound_parts_pass():
    testing.check_part(Part, X)
    testing.check_part(lambda: RecurrentMixing(3, cell=GRUCell), X)
    testing.check_streaming(Leaky(), X)
    testing.check_streaming(RecurrentMixing(3, cell=LSTMCell), X)
    testing.check_streaming(LSTMCell(3, 4), X)
    testing.check_causal(LSTMCell(3, 4), X)
    testing.check_padding(LSTMCell(3, 4), X)
    testing.check_padding(RecurrentMixing(3, cell=GRUCell, causal=False), X)


def test_a_check_leaves_the_part_as_it_was():
    part = Leaky().train()
    before = part.rate.clone()
    testing.check_streaming(part, X)
    testing.check_causal(part, X)
    assert part.training and part.rate.dtype == torch.float32 and torch.equal(part.rate, before)


def test_a_wrong_gradient_is_found():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x**2

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0]

    class Broken(Part):
        def forward(self, x):
            return Wrong.apply(x) @ self.weight

    with pytest.raises(AssertionError, match="Broken: a gradient is wrong"):
        testing.check_gradients(Broken, X)


def test_a_wrong_gradient_of_a_parameter_is_found():
    class Broken(Part):
        def forward(self, x):
            return x @ self.weight + (self.weight * 0.1).detach().sum()

    with pytest.raises(AssertionError, match="a gradient is wrong"):
        testing.check_gradients(Broken, X)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x - x.mean(0), "a sample alone and in a batch"),
        (lambda x: torch.as_strided(x, x.shape, (x[0].numel(), x.shape[2], 1)), "contiguous and a non-contiguous"),
        (lambda x: x.view(len(x), -1).view(x.shape), "fails with a non-contiguous input: RuntimeError"),
        (lambda x: x @ torch.ones(3, 3) + torch.ones(6, 1), "1 frames gave an output|5 frames"),
        (lambda x: x / x.std(1, keepdim=True).add(1e-3).log().sub(-6.9).relu(), "not finite|alone"),
        (lambda x: x.sum(0), "2 samples gave an output"),
    ],
)
@pytest.mark.filterwarnings("ignore:std")
def test_a_part_that_cannot_take_every_shape_is_found(forward, message):
    class Broken(Part):
        def forward(self, x):
            return forward(x)

    with pytest.raises(AssertionError, match=message):
        testing.check_shapes(Broken, X)


def test_a_part_of_fixed_length_need_not_take_other_lengths():
    class Fixed(Part):
        fixed_length = True

        def forward(self, x):
            return x + torch.ones(6, 1)

    testing.check_shapes(Fixed, X)


def test_numbers_missing_from_the_saved_state_are_found():
    class Broken(Part):
        def __init__(self):
            super().__init__()
            self.hidden = torch.randn(3)

        def forward(self, x):
            return x + self.hidden

    with pytest.raises(AssertionError, match="a saved and a loaded part differ by up to"):
        testing.check_state_dict(Broken, X)


def test_a_part_that_mixes_types_under_autocast_is_found():
    class Broken(Part):
        def forward(self, x):
            y = x @ self.weight
            return torch.zeros(6, 3).index_add(0, torch.arange(6), y[0]) + y

    with pytest.raises(AssertionError, match="fails with autocast to bfloat16"):
        testing.check_autocast(Broken, X)


def test_randomness_that_no_seed_controls_is_found():
    count = itertools.count()

    class Broken(Part):
        def forward(self, x):
            return super().forward(x) + next(count)

    with pytest.raises(AssertionError, match="two runs under one seed"):
        testing.check_same_seed(Broken, X)


def test_writing_into_the_input_is_found():
    class Broken(Part):
        def forward(self, x):
            return x.mul_(2) @ self.weight

    with pytest.raises(AssertionError, match="the input before and after"):
        testing.check_same_seed(Broken, X)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x.exp(), "output for an input of 10000 times the usual size has .* not finite"),
        (lambda x: (x * 1e-30).square().sqrt(), "gradient at an input of 0.0001 times"),
    ],
)
def test_numbers_that_overflow_are_found(forward, message):
    class Broken(Part):
        def forward(self, x):
            return forward(x) @ self.weight

    with pytest.raises(AssertionError, match=message):
        testing.check_scales(Broken, X)


@pytest.mark.slow
def test_a_part_that_compiles_into_something_else_is_found():
    class Broken(Part):
        def forward(self, x):
            return x @ self.weight + (1 if torch.compiler.is_compiling() else 0)

    with pytest.raises(AssertionError, match=r"with and without torch\.compile"):
        testing.check_compile(Broken, X)


def test_an_output_may_lag_as_far_as_declared_and_no_further():
    testing.check_streaming(Delayed(2, 2), X)
    testing.check_causal(Delayed(2, 2), X)
    with pytest.raises(AssertionError, match="output for single frames and for the whole"):
        testing.check_streaming(Delayed(2, 1), X)
    with pytest.raises(AssertionError, match=r"output 0 changes by .* with frames after 1"):
        testing.check_causal(Delayed(2, 1), X)


class Forgets(Leaky):
    def chunk(self, x, state):
        return self(x), state


class Grows(Leaky):
    def initial_state(self, batch):
        return self.zeros(batch, 0, 3)

    def forward(self, x):
        return x.cumsum(1)

    def step(self, x_t, state):
        state = torch.cat([state, x_t[:, None]], dim=1)
        return state.sum(1), state


class Overwrites(Leaky):
    def step(self, x_t, state):
        with torch.no_grad():
            state.add_(1)
        return x_t + self.rate, state

    def forward(self, x):
        return x + self.rate


class Cuts(Leaky):
    def step(self, x_t, state):
        state = self.rate * state.detach() + x_t
        return state, state

    def forward(self, x):
        state, outputs = self.initial_state(len(x)), []
        for x_t in x.unbind(1):
            state = self.rate * state + x_t
            outputs.append(state)
        return torch.stack(outputs, 1)


class Transposed(Leaky):
    def forward(self, x):
        return x

    def initial_state(self, batch):
        return self.zeros(1, batch, 3)


class WrongState(Recurrence):
    def initial_state(self, batch):
        return self.zeros(batch, 3)

    def step(self, x_t, state):
        return x_t + state, x_t + state

    def scan(self, x, state):
        y, last = super().scan(x, state)
        return y, last + 1


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (Forgets(), "Forgets in .*: the output for chunks of .* and for the whole differ"),
        (Grows(), "the state holds 48 bytes after 1 frames; allowed are 0"),
        (Overwrites(), "the given state before and after a step"),
        (Cuts(), "the gradient of (the input|rate) over single frames and over the whole"),
        (Transposed(), "the first axis of a state must be the batch of 2"),
        (WrongState(3, 3), "the state after single frames and after the whole"),
        (RecurrentMixing(3, cell=GRUCell, causal=False), "says that it cannot stream"),
    ],
)
def test_a_part_that_breaks_the_law_of_streaming_is_found(part, message):
    with pytest.raises(AssertionError, match=message):
        testing.check_streaming(part, X)


def test_a_state_may_grow_within_a_stated_bound():
    frame = 2 * 3 * 8
    testing.check_streaming(Grows(), X, bound=6 * frame)
    with pytest.raises(AssertionError, match="after 6 frames; allowed are"):
        testing.check_streaming(Grows(), X, bound=5 * frame)


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: x.cumsum(1) + 1e-9 * x.flip(1), "output 0 changes by"),
        (lambda x: x + x.mean(1, keepdim=True).detach(), "output 0 changes by"),
        (lambda x: x + (s := x.sum(1, keepdim=True)) - s.detach(), "output 0 (changes by|has a gradient of)"),
        (lambda x: Through.apply(x), "output 0 has a gradient of"),
    ],
)
def test_a_look_into_the_future_is_found_in_values_and_in_gradients(forward, message):
    class Broken(Part):
        def forward(self, x):
            return forward(x)

    with pytest.raises(AssertionError, match=message):
        testing.check_causal(Broken(), X)


class Through(torch.autograd.Function):
    """Causal in value, but its gradient comes from everywhere."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients: Tensor) -> Tensor:
        return gradients[0].sum(1, keepdim=True).expand_as(gradients[0])


def test_padding_that_counts_is_found():
    class Outputs(RecurrentMixing):
        def mix(self, x, context, mask, grid):
            return super().mix(x, context, None, grid)

    class State(GRUCell):
        def scan_ragged(self, x, state, lengths):
            return self.scan(x, state)

    with pytest.raises(AssertionError, match="the output for 1 of 6 frames, and for these alone"):
        testing.check_padding(Outputs(3, cell=GRUCell, causal=False), X)
    with pytest.raises(AssertionError, match="the state at 1 of 6 frames, and after these alone"):
        testing.check_padding(State(3, 4), X)
    with pytest.raises(ValueError, match="takes neither lengths nor a mask"):
        testing.check_padding(Part(), X)
