"""The linear scan: every method gives the loop's states and gradients, for every way of broadcasting."""

import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from anabranch.kernels import linear_scan

METHODS = ["auto", "operator", "two_level", "associative"]

# a's shape, b's shape, h0's shape
SHAPES = [
    ((2, 7, 3), (2, 7, 3), (2, 3)),
    ((2, 1, 3), (2, 1, 3), (2, 3)),
    ((1, 9), (3, 9), None),
    ((7, 1), (2, 7, 3), (3,)),
    ((1, 1, 3), (2, 7, 3), None),
    ((3,), (2, 7, 3), (1, 3)),
    ((2, 8, 3, 1), (2, 8, 3, 4), (2, 3, 1)),
    ((2, 8, 1, 1), (2, 8, 3, 4), (2, 3, 4)),
    ((2, 8, 1, 4), (2, 8, 3, 4), (2, 3, 4)),
    ((2, 1, 1, 4), (2, 7, 3, 4), (3, 4)),
]


def draw(shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def inputs(shapes, dtype=torch.float64):
    return [None if s is None else draw(s, dtype, i).requires_grad_() for i, s in enumerate(shapes)]


def by_hand(a, b, h0, reverse):
    """The definition, on plain tensors of b's shape."""
    a = a.expand(b.shape)
    h = torch.zeros_like(b[:, 0]) if h0 is None else h0.expand(b[:, 0].shape)
    states = [None] * b.shape[1]
    for t in reversed(range(b.shape[1])) if reverse else range(b.shape[1]):
        states[t] = h = a[:, t] * h + b[:, t]
    return torch.stack(states, 1)


def states_and_gradients(solve, a, b, h0):
    h = solve(a, b, h0)
    loss = (h * draw(h.shape, h.dtype, 9)).abs().pow(2).sum()
    return h, *torch.autograd.grad(loss, [x for x in (a, b, h0) if x is not None])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_every_method_gives_the_states_and_gradients_of_the_definition(shapes, reverse, dtype):
    a, b, h0 = inputs(shapes, dtype)
    wanted = states_and_gradients(lambda *x: by_hand(*x, reverse), a, b, h0)
    for method in [*METHODS, "loop"]:
        got = states_and_gradients(lambda *x, m=method: linear_scan(*x, reverse, m), a, b, h0)
        torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 5), st.data(), st.booleans())
def test_methods_agree_on_any_shape(batch, time, rows, columns, data, reverse):
    shape = (batch, time, rows, columns)
    a = draw([n if data.draw(st.booleans()) else 1 for n in shape])
    b, h0 = draw(shape, seed=1), draw((batch, rows, columns), seed=2)
    wanted = by_hand(a, b, h0, reverse)
    for method in METHODS:
        torch.testing.assert_close(linear_scan(a, b, h0, reverse, method), wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("shapes", [((2, 5, 3), (2, 5, 3), (2, 3)), ((5, 3, 1), (2, 5, 3, 2), (3, 2))], ids=str)
def test_first_and_second_derivatives(shapes, reverse, dtype):
    def solve(*x):
        return linear_scan(*x, reverse, "operator")

    assert torch.autograd.gradcheck(solve, inputs(shapes, dtype))
    assert torch.autograd.gradgradcheck(solve, inputs(shapes, dtype), fast_mode=True)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_only_some_inputs_need_a_gradient(which):
    leaves = [draw(s, seed=i) for i, s in enumerate(SHAPES[0])]
    leaves[which].requires_grad_()
    (wanted,) = torch.autograd.grad(by_hand(*leaves, False).pow(2).sum(), leaves[which])
    (got,) = torch.autograd.grad(linear_scan(*leaves).pow(2).sum(), leaves[which])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("shape", [(2, 3000, 70), (3, 4000, 33, 2), (1, 3000, 1, 70)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_large_scans_split_over_threads_give_the_same(shape, reverse):
    a = torch.rand((*shape[:-1], 1) if len(shape) == 4 else shape, dtype=torch.float64).requires_grad_()
    b, h0 = draw(shape).requires_grad_(), draw((shape[0], *shape[2:]))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        got = states_and_gradients(lambda *x: linear_scan(*x, reverse, "operator"), a, b, h0.requires_grad_())
    finally:
        torch.set_num_threads(threads)
    wanted = states_and_gradients(lambda *x: linear_scan(*x, reverse, "two_level"), a, b, h0)
    torch.testing.assert_close(got, wanted)


def test_python_threads_may_scan_at_the_same_time():
    a, b = torch.rand(4, 2000, 32), torch.randn(4, 2000, 32)
    wanted, got = linear_scan(a, b), {}
    threads = [threading.Thread(target=lambda i=i: got.update({i: linear_scan(a, b)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(got[i], wanted) for i in range(4))


def test_views_that_are_not_contiguous():
    b = draw((5, 3, 6, 2)).transpose(1, 3)[:, :, ::2]
    a = draw((1, 1, 3, 1)).expand(5, 2, 3, 3)
    torch.testing.assert_close(linear_scan(a, b, method="operator"), by_hand(a, b, None, False))


def test_factors_that_vanish_do_not_break_later_states():
    """A quotient of cumulative products would give infinities here."""
    a, b = torch.full((1, 2000, 4), 1e-3), torch.ones(1, 2000, 4)
    a[:, 1000] = 0
    for method in METHODS:
        torch.testing.assert_close(linear_scan(a, b, method=method)[:, -1], torch.full((1, 4), 1 / (1 - 1e-3)))


def test_half_precision_is_accumulated_in_float32():
    a, b = torch.ones(1, 4000, 2, dtype=torch.bfloat16), torch.ones(1, 4000, 2, dtype=torch.bfloat16)
    h = linear_scan(a, b)
    assert h.dtype == torch.bfloat16
    assert h[0, -1, 0] == torch.tensor(4000.0, dtype=torch.bfloat16)  # sums in bfloat16 stop at 256


def test_real_factors_on_complex_inputs_have_real_gradients():
    a, b = draw((2, 6, 3)).requires_grad_(), draw((2, 6, 3), torch.complex128).requires_grad_()
    got = states_and_gradients(lambda *x: linear_scan(*x, method="operator"), a, b, None)
    wanted = states_and_gradients(lambda *x: by_hand(*x, False), a, b, None)
    torch.testing.assert_close(got, wanted)
    assert got[1].dtype == torch.float64


def test_functional_transforms():
    a, batches = draw((2, 6, 3)), draw((4, 2, 6, 3), seed=1)

    def loss(method):
        return lambda b: linear_scan(a, b, method=method).pow(2).sum()

    torch.testing.assert_close(
        torch.vmap(torch.func.grad(loss("operator")))(batches),
        torch.stack([torch.func.grad(loss("loop"))(b) for b in batches]),
    )


def test_the_operators_pass_torchs_own_checks():
    a, b, h0 = draw((2, 5, 3, 1)), draw((2, 5, 3, 4)), draw((2, 3, 4))
    torch.library.opcheck(torch.ops.anabranch.linear_scan.default, (a, b, h0, False))
    torch.library.opcheck(torch.ops.anabranch.linear_scan_backward.default, (a, b, h0, b, True))


def test_flops_are_counted():
    a, b, _ = inputs(SHAPES[0])
    with FlopCounterMode(display=False) as counter:
        linear_scan(a, b).sum().backward()
    assert counter.get_total_flops() == 6 * b.numel()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.compile warns about torch
def test_compiles_in_one_graph():
    leaves = inputs(SHAPES[6], torch.float32)
    compiled = torch.compile(lambda *x: linear_scan(*x, method="operator"), fullgraph=True)
    got = states_and_gradients(compiled, *leaves)
    torch.testing.assert_close(got, states_and_gradients(lambda *x: by_hand(*x, False), *leaves))


@pytest.mark.parametrize(
    ("a", "b", "h0", "method", "message"),
    [
        ((2, 5, 3), (2, 0, 3), None, "auto", "at least one frame"),
        ((2, 5, 3), (5,), None, "auto", "batch, time"),
        ((2, 4, 3), (2, 5, 3), None, "auto", "a must broadcast to b's"),
        ((2, 5, 3), (2, 5, 3), (5, 3), "auto", "h0 must broadcast"),
        ((2, 5, 3), (2, 5, 3), None, "fast", "method is one of"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_was_expected(a, b, h0, method, message):
    with pytest.raises(ValueError, match=message):
        linear_scan(draw(a), draw(b), None if h0 is None else draw(h0), method=method)


def test_an_empty_batch_gives_an_empty_batch():
    assert linear_scan(torch.ones(0, 3, 2), torch.ones(0, 3, 2)).shape == (0, 3, 2)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="real or complex"):
        linear_scan(torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.int64))


def test_importing_the_kernels_does_not_import_numba():
    code = "import sys, anabranch.kernels; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
