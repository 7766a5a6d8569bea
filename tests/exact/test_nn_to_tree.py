"""A network's tree is the network (Aytekin 2022, arXiv 2210.05189)."""

import itertools
from collections.abc import Callable
from math import comb

import pytest
import torch
from torch import Tensor, nn

from anabranch.theory import AffineTree, TooManyRegions, Unsupported, to_tree
from anabranch.theory.regions_program import quantise


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        return self.last(h + torch.relu(self.middle(h)))


class Recurrent(nn.Module):
    def __init__(self, nonlinearity: str = "relu") -> None:
        super().__init__()
        self.rnn = nn.RNN(2, 2, nonlinearity=nonlinearity, batch_first=True)
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0][:, -1])


def convolution() -> nn.Module:
    """Four units, each looking at 3x3 of a 4x4 image; batch norm has statistics of its own."""
    norm = nn.BatchNorm2d(1)
    norm.running_mean.fill_(0.2), norm.running_var.fill_(2.5)  # pyright: ignore
    return nn.Sequential(nn.Conv2d(1, 1, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


def mlp(*widths: int, act: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for here, there in itertools.pairwise(widths):
        layers += [nn.Linear(here, there), act()]
    return nn.Sequential(*layers[:-1]).double()


NETWORKS = {
    "relu": (lambda: mlp(3, 5, 4, 2), (3,)),
    "leaky": (lambda: mlp(2, 4, 4, 1, act=lambda: nn.LeakyReLU(0.3)), (2,)),
    "three pieces": (lambda: mlp(2, 3, 3, 1, act=nn.Hardtanh), (2,)),
    "residual": (Residual, (3,)),
    "convolution": (convolution, (1, 4, 4)),
    "recurrent": (Recurrent, (3, 2)),
}


@pytest.mark.parametrize("prune", [True, False], ids=["pruned", "whole"])
@pytest.mark.parametrize("name", NETWORKS)
def test_tree_gives_the_networks_output_on_ten_thousand_inputs(name: str, prune: bool):
    torch.manual_seed(3)
    make, shape = NETWORKS[name]
    network = make().double().eval()
    tree = to_tree(network, torch.zeros(1, *shape), prune=prune)
    x = 3 * torch.randn(10_000, *shape, dtype=torch.float64)
    assert (tree(x) - network(x)).abs().max() < 1e-10
    assert len(tree.leaf(x).unique()) > 3  # a linear layer would have one


@pytest.mark.parametrize(("inputs", "units", "regions"), [(1, 5, 6), (2, 6, 22), (3, 5, 26), (4, 4, 16)])
def test_one_hidden_layer_in_general_position_has_as_many_leaves_as_hyperplanes_make_regions(inputs, units, regions):
    torch.manual_seed(0)
    assert regions == sum(comb(units, i) for i in range(inputs + 1))
    assert to_tree(mlp(inputs, units, 2), torch.zeros(1, inputs)).leaves == regions


def test_leaf_cells_are_disjoint_and_cover():
    torch.manual_seed(1)
    tree = to_tree(mlp(2, 5, 4, 1, act=nn.Hardtanh), torch.zeros(1, 2))
    x = 4 * torch.randn(2000, 2, dtype=torch.float64)
    inside = torch.stack([torch.from_numpy(cell.contains(x.numpy())) for cell in tree.cells()])
    assert (inside.sum(0) == 1).all()
    assert torch.equal(inside.int().argmax(0), tree.leaf(x))


def test_every_leaf_of_a_pruned_tree_can_be_reached():
    torch.manual_seed(2)
    network = mlp(2, 6, 5, 1)
    tree = to_tree(network, torch.zeros(1, 2), domain=(-2.0, 2.0))
    grid = torch.cartesian_prod(*[torch.linspace(-2, 2, 1201, dtype=torch.float64)] * 2)
    reached = tree.cost(grid).leaves_reached
    assert 0.9 * tree.leaves <= reached <= tree.leaves < to_tree(network, torch.zeros(1, 2)).leaves < 2**11


@pytest.mark.parametrize("prune", [True, False], ids=["pruned", "whole"])
def test_a_tie_belongs_to_the_lower_piece_and_to_one_leaf_and_the_output_is_the_networks(prune):
    network = mlp(1, 2, 1, act=nn.Hardtanh)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[1.0], [-2.0]]))
        network[0].bias.copy_(torch.tensor([0.0, 1.0]))
    tree = to_tree(network, torch.zeros(1, 1), prune=prune)
    x = torch.tensor(
        [[-1.0], [0.0], [1.0]], dtype=torch.float64
    )  # every one lies on a border, 0 and 1 on those of both
    torch.testing.assert_close(tree(x), network(x), rtol=0, atol=1e-12)
    reached = tree.leaf(x)
    cells = list(tree.cells())
    assert all(cells[leaf].contains(row[None].numpy()).all() for leaf, row in zip(reached.tolist(), x, strict=True))
    first = tree.leaf(torch.tensor([[-1.001]], dtype=torch.float64))
    assert reached[0] == first  # the first unit's lower border is reached from below


@pytest.mark.parametrize(("bias", "value"), [(-1.0, 0.0), (0.0, 0.0), (2.0, 2.0)])
def test_a_unit_that_looks_at_nothing_costs_no_test_and_keeps_its_value(bias, value):
    network = mlp(2, 2, 1)
    with torch.no_grad():
        network[0].weight[0] = 0
        network[0].bias[0] = bias
        network[2].weight.fill_(1.0), network[2].bias.zero_()
    tree, x = to_tree(network, torch.zeros(1, 2)), torch.randn(50, 2, dtype=torch.float64)
    assert tree.leaves == 2
    torch.testing.assert_close(tree(x), network(x), rtol=0, atol=1e-12)
    other = torch.relu(x @ network[0].weight[1] + network[0].bias[1])
    torch.testing.assert_close(tree(x)[:, 0], value + other.detach(), rtol=0, atol=1e-12)


def test_a_domain_prunes_what_lies_outside():
    torch.manual_seed(0)
    network = mlp(2, 8, 1)
    near = to_tree(network, torch.zeros(1, 2), domain=(torch.zeros(2), torch.full((2,), 0.05)))
    x = 0.05 * torch.rand(1000, 2, dtype=torch.float64)
    assert near.leaves < 8
    torch.testing.assert_close(near(x), network(x), rtol=0, atol=1e-12)


def test_the_first_tests_of_a_convolution_are_sparse_rows():
    torch.manual_seed(0)
    tree = to_tree(convolution(), torch.zeros(1, 1, 4, 4))
    assert tree.tests.ne(0).sum(1).tolist() == [9] * len(tree.tests)  # 3 x 3 of 16 pixels
    assert tree.cost(torch.randn(50, 1, 4, 4)).tests == 4


def test_a_unit_that_repeats_an_earlier_test_costs_no_test():
    network = mlp(2, 3, 1)
    with torch.no_grad():
        network[0].weight[1:] = 2 * network[0].weight[:1]
        network[0].bias[1:] = 2 * network[0].bias[:1]
    assert to_tree(network, torch.zeros(1, 2)).leaves == 2


def test_smooth_activations_are_cut_into_pieces_and_the_error_is_told():
    torch.manual_seed(0)
    network = mlp(2, 3, 1, act=nn.Tanh)
    with pytest.raises(Unsupported, match=r"tanh is smooth.*pieces"):
        to_tree(network, torch.zeros(1, 2))
    x = 2 * torch.randn(3000, 2, dtype=torch.float64)
    bound = float(network[2].weight.detach().abs().sum())
    errors = []
    for pieces in (6, 12):
        tree = to_tree(network, torch.zeros(1, 2), pieces=pieces)
        assert tree.activation_error == quantise(torch.tanh, pieces).error
        errors.append(float((tree(x) - network(x).detach()).abs().max()))
        assert 0 < errors[-1] <= bound * tree.activation_error
    assert errors[1] < errors[0]


def test_a_smooth_recurrent_network_unrolls_too():
    torch.manual_seed(0)
    network = Recurrent("tanh").double()
    x = torch.rand(500, 2, 2, dtype=torch.float64)
    tree = to_tree(network, x[:1], domain=(0.0, 1.0), pieces=16)
    assert (tree(x) - network(x)).abs().max() < 0.05


def test_growth_is_capped_with_a_word_about_what_to_do():
    with pytest.raises(TooManyRegions, match=r"max_leaves=10: the network has 12 units"):
        to_tree(mlp(2, 6, 6, 1), torch.zeros(1, 2), max_leaves=10)
    with pytest.raises(TooManyRegions, match="4096 leaves"):
        to_tree(mlp(2, 6, 6, 1), torch.zeros(1, 2), prune=False, max_leaves=1000)


def test_what_is_not_piecewise_linear_is_refused_by_name():
    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x

    with pytest.raises(Unsupported, match="aten::mul"):
        to_tree(Square(), torch.zeros(1, 2))
    with pytest.raises(Unsupported, match="softmax"):
        to_tree(nn.Softmax(dim=-1), torch.zeros(1, 2))


def test_rules_say_the_tree_in_words():
    network = mlp(1, 1, 1)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (2.0, -1.0, 3.0, 0.5), strict=True):
            parameter.fill_(value)
    rules = to_tree(network, torch.zeros(1, 1)).rules()
    assert rules == ["if +2 x0 <= 1: y0 = +0.5", "if -2 x0 <= -1: y0 = +6 x0 -2.5"]


def test_cost_counts_what_one_input_needs():
    network = mlp(1, 1, 1)
    with torch.no_grad():
        for parameter, value in zip(network.parameters(), (2.0, -1.0, 3.0, 0.5), strict=True):
            parameter.fill_(value)
    tree = to_tree(network, torch.zeros(1, 1))
    assert tree.cost(torch.tensor([[0.0]])).multiply_adds == 1  # the test; the leaf is constant
    assert tree.cost(torch.tensor([[1.0]])).multiply_adds == 2
    assert tree.cost(torch.tensor([[0.0], [1.0]])).leaves_reached == 2
    assert tree.cost(torch.tensor([[0.0]])).stored == 2 + 1 + 1 + 2  # a test, its threshold, a slope, two offsets


def test_the_network_is_left_as_it_was():
    network = convolution().train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    to_tree(network, torch.zeros(1, 1, 4, 4))
    assert network.training and all(m.training for m in network.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) and value.dtype == before[name].dtype


def test_region_counts_agree_with_affinitree():
    affinitree = pytest.importorskip("affinitree")
    torch.manual_seed(4)
    network = mlp(2, 5, 4, 2)
    ours = to_tree(network, torch.zeros(1, 2))
    architecture = affinitree.extract_pytorch_architecture(2, network)
    theirs = affinitree.builder.from_layers(architecture)
    assert ours.leaves == theirs.num_terminals()
    x = torch.randn(50, 2, dtype=torch.float64)
    for row, output in zip(x, ours(x), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs.evaluate(row.numpy())), output, rtol=0, atol=1e-9)


def test_tree_is_a_module_that_saves_and_loads():
    torch.manual_seed(5)
    tree = to_tree(mlp(2, 4, 1), torch.zeros(1, 2))
    state = {name: value.clone() for name, value in tree.state_dict().items()}
    other = AffineTree(
        **{k: torch.zeros_like(v) for k, v in state.items()}, root=0, in_shape=(2,), out_shape=(1,), units=4
    )
    other.load_state_dict(state)
    x = torch.randn(20, 2)
    assert torch.equal(other(x), tree(x)) and tree(x).dtype == torch.float32
