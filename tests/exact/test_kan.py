"""Kolmogorov-Arnold networks (arXiv 2404.19756) against the formulas, SciPy's splines and the authors' layer."""

import copy
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from scipy.interpolate import BSpline

from anabranch.kernels.bspline import bspline_basis, bspline_basis_reference, kan_linear
from anabranch.models import KAN
from anabranch.models.kan_symbolic import LIBRARY, SymbolicKAN, affine, best
from anabranch.nn.feedforward import KANLinear, KANMixing
from anabranch.nn.feedforward.spline import extend, quantile_grid

ORDERS = pytest.mark.parametrize("order", [1, 2, 3, 4])


def uneven_knots(features, intervals, order, seed=0):
    generator = torch.Generator().manual_seed(seed)
    steps = 0.05 + torch.rand(features, intervals + 2 * order, generator=generator, dtype=torch.float64)
    return torch.cat([torch.full((features, 1), -2.0, dtype=torch.float64), -2 + steps.cumsum(1)], 1)


def points(samples, *features, seed=0, reach=1.0):
    generator = torch.Generator().manual_seed(seed)
    return reach * (2 * torch.rand(samples, *features, generator=generator, dtype=torch.float64) - 1)


def layer(in_dim=3, out_dim=4, seed=0, **options):
    torch.manual_seed(seed)
    return KANLinear(in_dim, out_dim, **options).double()


# The splines


@ORDERS
def test_splines_sum_to_one_all_over_the_grid_and_fade_to_zero_beyond_it(order):
    knots = extend(torch.linspace(-1, 1, 6, dtype=torch.float64).expand(2, -1), order)
    inside = bspline_basis(points(200, 2), knots, order)
    torch.testing.assert_close(inside.sum(-1), torch.ones(200, 2, dtype=torch.float64))
    assert inside.min() >= 0
    outside = bspline_basis(torch.tensor([[-1 - 0.4 * order - 1e-9, 5.0]], dtype=torch.float64), knots, order)
    assert outside.count_nonzero() == 0


@ORDERS
@pytest.mark.parametrize("intervals", [1, 7])
@pytest.mark.parametrize("derivative", [0, 1, 2])
def test_splines_and_their_derivatives_are_scipys(order, intervals, derivative):
    knots = uneven_knots(2, intervals, order)
    x = points(100, 2, reach=1.5)
    basis = bspline_basis(x, knots, order, derivative)
    assert basis.shape == (100, 2, intervals + order)
    for feature in range(2):
        for j in range(intervals + order):
            spline = BSpline.basis_element(knots[feature, j : j + order + 2].numpy(), extrapolate=False)
            if derivative > order:
                wanted = np.zeros(100)
            else:
                wanted = np.nan_to_num((spline.derivative(derivative) if derivative else spline)(x[:, feature].numpy()))
            np.testing.assert_allclose(basis[:, feature, j].numpy(), wanted, atol=1e-9 * (1 + np.abs(wanted).max()))


@ORDERS
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiled_splines_are_the_textbook_recursion(order, dtype):
    knots, x = uneven_knots(3, 6, order).to(dtype), points(300, 3, reach=8.0).to(dtype)
    for derivative in range(order + 2):
        torch.testing.assert_close(
            bspline_basis(x, knots, order, derivative),
            bspline_basis_reference(x, knots, order, derivative),
            atol=1e-9 if dtype is torch.float64 else 1e-2,
            rtol=1e-9 if dtype is torch.float64 else 1e-3,
        )


@ORDERS
def test_knots_that_coincide_leave_the_splines_a_sum_of_one(order):
    grid = torch.tensor([[0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 3.0, 4.0]], dtype=torch.float64)
    knots, x = extend(grid, order), 2 + 2 * points(200, 1)
    basis = bspline_basis_reference(x, knots, order)
    torch.testing.assert_close(basis.sum(-1), torch.ones(200, 1, dtype=torch.float64))
    torch.testing.assert_close(bspline_basis(x, knots, order), basis)


@pytest.mark.usefixtures("unchecked")
def test_shapes_and_types_that_do_not_fit_are_refused_before_they_are_read():
    knots, (x, base, base_weight, scale, coefficients) = edges(5, 4, 3)
    for wrong in (knots[:3], knots[0], torch.cat([knots, knots])):
        with pytest.raises(ValueError, match=r"knots \(features, knots\); got \(5, 4\)"):
            bspline_basis(x, wrong, 3)
        with pytest.raises(ValueError, match=r"knots \(features, knots\); got \(5, 4\)"):
            kan_linear(x, base, wrong, base_weight, scale, coefficients, 3)
    with pytest.raises(ValueError, match="one floating type; got torch.float64 and torch.float32"):
        bspline_basis(x, knots.float(), 3)
    with pytest.raises(ValueError, match="at least 5 knots for a spline of order 3; got 4"):
        bspline_basis(x, knots[:, :4], 3)
    with pytest.raises(ValueError, match="of at least 0; got 3 and -1"):
        bspline_basis(x, knots, 3, -1)
    for wrong in (
        (base[:4], base_weight, scale, coefficients),
        (base, base_weight[:2], scale, coefficients),
        (base, base_weight, scale[:, :3], coefficients),
        (base, base_weight, scale, coefficients[..., :5]),
    ):
        with pytest.raises(ValueError, match=r"expected base \(5, 4\).* \(out, 4, 9\); got"):
            kan_linear(x, wrong[0], knots, *wrong[1:], 3)
    with pytest.raises(ValueError, match="of x's type torch.float64; got torch.float64, torch.float32"):
        kan_linear(x, base, knots, base_weight.float(), scale, coefficients, 3)


def test_splines_can_be_differentiated_again_and_again():
    knots, x = uneven_knots(2, 4, 3), points(6, 2).requires_grad_()
    torch.autograd.gradcheck(lambda x: bspline_basis(x, knots, 3), x)
    torch.autograd.gradgradcheck(lambda x: bspline_basis(x, knots, 3), x)


def edges(points: int, features: int, out: int, order: int = 3) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Knots, and what :func:`kan_linear` takes besides: x, base, base weight, scale and coefficients."""
    torch.manual_seed(0)
    shapes = [(points, features), (points, features), (out, features), (out, features), (out, features, 6 + order)]
    given = [2 * torch.randn(shape, dtype=torch.float64) for shape in shapes]
    return uneven_knots(features, 6, order), [t.requires_grad_() for t in given]


def run(knots: torch.Tensor, order: int, x, base, *weights) -> torch.Tensor:
    return kan_linear(x, base, knots, *weights, order)


@ORDERS
@pytest.mark.parametrize("width", [1, 5, 33])
def test_edges_are_two_matrix_products_with_their_gradients(order, width):
    knots, given = edges(200, 3, width, order)
    x, base, base_weight, scale, coefficients = given
    ours = run(knots, order, *given)
    spline = bspline_basis(x, knots, order).flatten(1) @ (scale[..., None] * coefficients).flatten(1).T
    dense = base @ base_weight.T + spline
    torch.testing.assert_close(ours, dense)
    along = torch.randn_like(dense)
    found, wanted = (torch.autograd.grad(y, given, along) for y in (ours, dense))
    torch.testing.assert_close(found, wanted)
    outside = x.detach().lt(knots[:, 0])
    assert outside.any() and found[0][outside].eq(0).all() and found[1][outside].ne(0).all()


def test_edges_give_the_same_on_one_thread_and_on_several():
    knots, given = edges(500, 40, 30)
    seen, threads = [], torch.get_num_threads()
    for count in (1, 3):
        torch.set_num_threads(count)
        y = run(knots, 3, *given)
        seen.append((y, *torch.autograd.grad(y.sum(), given)))
    torch.set_num_threads(threads)
    torch.testing.assert_close(*seen, rtol=0, atol=0)


def test_edges_can_be_differentiated_again_and_again():
    knots, given = edges(6, 2, 3)
    torch.autograd.gradcheck(lambda *given: run(knots, 3, *given), given)
    torch.autograd.gradgradcheck(lambda *given: run(knots, 3, *given), given)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.func.hessian warns about torch
def test_functional_transforms_are_those_of_the_layer():
    kan, x = layer(), points(6, 3)

    def loss(x):
        return kan(x).square().sum()

    leaf = x.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    torch.testing.assert_close(torch.vmap(torch.func.grad(loss))(x), wanted)
    torch.testing.assert_close(torch.vmap(kan)(x), kan(x))
    hessian = torch.autograd.functional.hessian(loss, x[0])
    torch.testing.assert_close(torch.func.hessian(loss)(x[0]), hessian)
    parameters = dict(kan.named_parameters())
    by_parameter = torch.func.grad(lambda p: torch.func.functional_call(kan, p, (x,)).square().sum())(parameters)
    torch.testing.assert_close(tuple(by_parameter.values()), torch.autograd.grad(loss(x), tuple(parameters.values())))


# The layer


def test_the_matrix_product_is_the_sum_over_edges_of_base_and_spline():
    kan = layer(order=2, grid=4)
    with torch.no_grad():
        kan.spline_scale.copy_(torch.randn(4, 3))
    x = points(50, 3)
    wanted = torch.zeros(50, 4, dtype=torch.float64)
    for j in range(4):
        for i in range(3):
            spline = BSpline(kan.knots[i].numpy(), kan.coefficients[j, i].detach().numpy(), 2)(x[:, i].numpy())
            silu = x[:, i] / (1 + torch.exp(-x[:, i]))
            wanted[:, j] += kan.base_weight[j, i] * silu + kan.spline_scale[j, i] * torch.from_numpy(spline)
    torch.testing.assert_close(kan(x), wanted)
    torch.testing.assert_close(kan.edges(x).sum(-1), wanted)


def test_a_new_layer_has_the_papers_scales_and_a_silu():
    torch.manual_seed(0)
    kan = KANLinear(60, 40)
    assert isinstance(kan.base, torch.nn.SiLU) and (kan.order, kan.grid) == (3, 5)
    assert (kan.spline_scale == 1).all()
    assert float(kan.coefficients.detach().std()) == pytest.approx(0.1, rel=0.05)
    assert float(kan.base_weight.detach().std()) == pytest.approx((2 / (60 + 40)) ** 0.5, rel=0.1)  # Glorot's


def test_beyond_the_grid_only_the_base_is_left():
    kan, far = layer(), torch.full((1, 3), 50.0, dtype=torch.float64)
    torch.testing.assert_close(kan(far), kan.base_weight.sum(1).unsqueeze(0) * 50)


@pytest.mark.parametrize("intervals", [5, 10, 15, 50])
def test_a_grid_that_contains_the_old_one_leaves_the_function_as_it_was(intervals):
    kan, x = layer(grid=5), points(500, 3)
    before = kan(x)
    kan.refine(intervals)
    assert kan.coefficients.shape == (4, 3, intervals + 3)
    torch.testing.assert_close(kan(x), before, rtol=0, atol=1e-9)


def test_a_grid_that_does_not_contain_the_old_one_comes_near():
    kan, x = layer(grid=5), points(500, 3)
    before = kan(x)
    kan.refine(4)
    coarse = (kan(x) - before).square().mean()
    fine = layer(grid=5)
    fine.refine(64)
    assert coarse > 1e-6
    assert (fine(x) - before).square().mean() < 1e-3 * coarse


def test_an_updated_grid_has_equally_many_samples_in_every_interval_and_keeps_a_smooth_function():
    kan, x = layer(grid=20), points(4000, 3) ** 3
    with torch.no_grad():  # a parabola on every edge, which every cubic spline can be
        greville = kan.knots.unfold(1, 3, 1).mean(-1)[:, 1:-1]
        kan.coefficients.copy_((greville**2).expand_as(kan.coefficients))
    before = kan(x)
    kan.update_grid(x, uniform=1e-3)
    inner = kan.knots[:, 3:-3].contiguous()
    counts = torch.stack([torch.histogram(x[:, i], inner[i]).hist for i in range(3)])
    assert counts.min() > 150 and counts.max() < 250
    torch.testing.assert_close(kan(x), before, rtol=0, atol=2e-3)


def test_a_grid_for_a_constant_feature_is_still_a_grid():
    grid = quantile_grid(torch.full((10, 1), 3.0), 5, 0.02)
    assert (grid.diff() > 0.1).all() and grid.min() == 2.5 and grid.max() == 3.5


@pytest.mark.parametrize("middle, width", [(2000.0, 0.05), (1.0, 1e-5), (1.7e9, 1e5), (1e9, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("intervals", [5, 20])
def test_knots_do_not_coincide_where_values_are_large_for_how_they_vary(middle, width, intervals):
    x = (middle + width * torch.rand(1000, 1, generator=torch.Generator().manual_seed(0)) ** 4).requires_grad_()
    kan = KANLinear(1, 2, grid=intervals)
    kan.update_grid(x)
    assert (kan.knots.diff() > 0).all()
    (slope,) = torch.autograd.grad(kan(x).sum(), x)
    assert slope.isfinite().all()
    torch.testing.assert_close(bspline_basis_reference(x, kan.knots, 3).sum(-1), torch.ones(1000, 1))


def test_gradient_by_inputs_and_every_parameter():
    kan, x = layer(2, 3), points(5, 2).requires_grad_()
    torch.autograd.gradcheck(lambda x, *_: kan(x), (x, *kan.parameters()))


def test_the_layer_computes_what_the_authors_layer_does():
    peer = pytest.importorskip("kan.KANLayer").KANLayer
    torch.manual_seed(0)
    theirs, ours = peer(in_dim=3, out_dim=4, num=6, k=3).double(), layer(grid=6)
    ours.knots = theirs.grid.detach().clone()
    with torch.no_grad():
        ours.coefficients.copy_(theirs.coef.transpose(0, 1))
        ours.spline_scale.copy_(theirs.scale_sp.T)
        ours.base_weight.copy_(theirs.scale_base.T)
    x = points(100, 3, reach=2.0)
    torch.testing.assert_close(ours(x), theirs(x)[0])


def test_a_pruned_layer_is_the_rows_and_columns_that_are_left():
    kan, x = layer(), points(10, 3)
    part = kan.select(torch.tensor([0, 2]), torch.tensor([3, 1]))
    torch.testing.assert_close(part(x[:, [0, 2]]), kan.edges(x)[:, [3, 1]][..., [0, 2]].sum(-1))


def test_mixing_is_two_layers_with_a_perceptrons_parameters():
    mixing = KANMixing(40)
    x = torch.randn(2, 5, 40)
    torch.testing.assert_close(mixing(x), mixing.contract(mixing.expand(x)))
    assert abs(sum(p.numel() for p in mixing.parameters()) / (8 * 40**2) - 1) < 0.05


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("options", [{"grid": 0}, {"order": 0}, {"span": (1.0, 1.0)}])
def test_options_that_make_no_spline_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        KANLinear(2, 2, **options)
    with pytest.raises(ValueError, match="uniform"):
        KANLinear(2, 2).update_grid(torch.randn(5, 2), uniform=0.0)


# The network


def test_one_layer_recovers_an_additive_function():
    x = points(1000, 3)
    curves = torch.stack([torch.sin(math.pi * x[:, 0]), x[:, 1] ** 2, torch.exp(x[:, 2])], -1)
    torch.manual_seed(0)
    kan = KAN([3, 1], grid=20).double()
    error = kan.fit(x, curves.sum(-1, keepdim=True), steps=300)
    assert error < 1e-9
    found = kan.layers[0].edges(x)[:, 0]
    # Only the sum is given: each curve comes back up to a constant.
    torch.testing.assert_close(found - found.mean(0), curves - curves.mean(0), rtol=0, atol=2e-3)


def test_refining_a_network_keeps_it_and_more_intervals_fit_better():
    x = points(1000, 2)
    y = torch.exp(torch.sin(math.pi * x[:, :1]) + x[:, 1:] ** 2)
    torch.manual_seed(0)
    kan = KAN([2, 1, 1], grid=4).double()
    coarse = kan.fit(x, y, steps=100, grid_updates=2)
    kan.update_grid(x)  # what lies beyond a grid is not kept
    before = kan(x)
    kan.refine(16)
    torch.testing.assert_close(kan(x), before, rtol=0, atol=1e-7)
    assert kan.fit(x, y, steps=200) < coarse / 50


def test_refining_over_points_of_the_whole_domain_keeps_the_function_where_training_points_do_not_reach():
    torch.manual_seed(0)
    kan, domain = KAN([2, 1, 1]).double(), points(5000, 2)
    kan.update_grid(domain)
    hidden = kan.layers[0](domain)[:, 0]
    train = domain[hidden < hidden.quantile(0.99)]  # a few of the domain's points lie just beyond the training range
    before = kan(domain)
    narrow, wide = copy.deepcopy(kan), copy.deepcopy(kan)
    narrow.refine(50, train)
    wide.refine(50, domain)
    assert (narrow(domain) - before).abs().max() > 20 * (wide(domain) - before).abs().max()
    knots, inputs = wide.layers[1].knots[0], wide.layers[0](domain)
    assert knots[3] <= inputs.min() + 1e-9 and inputs.max() - 1e-9 <= knots[-4]


def test_refining_with_inputs_moves_the_grids_to_where_they_are():
    torch.manual_seed(0)
    kan, x = KAN([2, 3, 1]).double(), 3 * points(400, 2) + 5
    kan.refine(8, x)
    for layer, inputs in zip(kan.layers, [x, kan.layers[0](x)], strict=True):
        assert layer.grid == 8
        torch.testing.assert_close(layer.knots[:, 3], inputs.detach().amin(0))
        torch.testing.assert_close(layer.knots[:, -4], inputs.detach().amax(0))


def test_the_formula_is_read_off_a_pruned_network():
    x = points(300, 2)
    y = torch.exp(-(x**2).sum(-1, keepdim=True))
    torch.manual_seed(1)
    fitted = []
    for _ in range(3):  # a start may end in a poor minimum, and rounding decides which
        wide = KAN([2, 3, 1]).double()
        wide.fit(x, y, steps=150, penalty=1e-2, entropy=10.0, grid_updates=3)
        slim = wide.prune(x, threshold=3e-2)
        fitted.append((slim.fit(x, y, steps=150, grid_updates=1), slim))
    _, slim = min(fitted, key=lambda pair: pair[0])
    assert slim.widths == [2, 1, 1]
    formula = slim.symbolic(x)
    assert formula.functions() == [[["x^2", "x^2"]], [["exp"]]]
    assert formula.fit(x, y) < 1e-8
    (text,) = formula.formula(["x", "y"], digits=9)
    value = eval(text.replace("^", "**"), {"x": 0.3, "y": -0.4, "exp": math.exp})
    assert value == pytest.approx(math.exp(-0.25), rel=1e-3)


def test_pruning_drops_what_nothing_flows_through_and_keeps_the_rest():
    torch.manual_seed(0)
    kan, x = KAN([2, 3, 1]).double(), points(100, 2)
    with torch.no_grad():
        for name in ("base_weight", "coefficients"):
            getattr(kan.layers[1], name)[:, 1] = 0
    before = kan(x)
    pruned = kan.prune(x, threshold=1e-6)
    assert pruned.widths == [2, 2, 1]
    torch.testing.assert_close(pruned(x), before)


def test_the_penalty_is_magnitude_and_entropy_of_the_edges():
    torch.manual_seed(0)
    kan, x = KAN([2, 3, 1]).double(), points(100, 2)
    wanted = 0.0
    for layer, inputs in zip(kan.layers, [x, kan.layers[0](x)], strict=True):
        size = layer.edges(inputs).abs().mean(0)
        share = size / size.sum()
        wanted += 2 * size.sum() - 3 * (share * share.log()).sum()
    torch.testing.assert_close(kan.penalty(x, magnitude=2.0, entropy=3.0), wanted)


@pytest.mark.parametrize("name", list(LIBRARY))
def test_every_function_is_found_again_under_an_affine_map(name):
    x = points(256).sort().values
    y = 1.3 * LIBRARY[name](1.7 * x + 2.1) - 0.4
    assert affine(x, y, name).r2 > 0.9999
    simpler = best(x, y, tuple(LIBRARY))
    assert simpler.r2 > 0.999
    assert list(LIBRARY).index(simpler.function) <= list(LIBRARY).index(name)


def written(formula, **values):
    """The value of a formula's text."""
    text = re.sub(r"\|(.*)\|", r"abs(\1)", formula.replace("^", "**"))
    names = {name: getattr(math, name) for name in ("exp", "sin", "sqrt", "log", "tanh")}
    return eval(text, names | {"abs": abs} | values)


@pytest.mark.parametrize("name", list(LIBRARY))
@pytest.mark.parametrize("shift", [2.1, -2.1, 0.3])
def test_the_text_of_every_function_has_its_value(name, shift):
    x = points(256, 1)
    formula = SymbolicKAN([[[affine(x[:, 0], 1.3 * LIBRARY[name](1.7 * x[:, 0] + shift) - 0.4, name)]]])
    for fitted in (False, True):
        if fitted:  # to a curve that moves the argument to the other side of zero
            formula.fit(x, LIBRARY[name](-1.7 * x - shift))
        (text,) = formula.formula(["x"], digits=12)
        if abs(shift) > 1.7:
            assert "|" not in text or name == "abs"
        for at in x[::50]:
            assert written(text, x=float(at)) == pytest.approx(float(formula(at[None]).detach()), rel=1e-6, abs=1e-6)


def test_the_drawing_has_a_curve_for_every_edge():
    torch.manual_seed(0)
    drawing = ElementTree.fromstring(KAN([2, 3, 1]).plot(torch.randn(50, 2)))
    tags = [element.tag.split("}")[1] for element in drawing.iter()]
    assert tags.count("polyline") == 2 * 3 + 3 * 1
    assert tags.count("circle") == 2 + 3 + 1
