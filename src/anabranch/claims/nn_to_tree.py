"""A trained network is a decision tree: most leaves do not exist, the rest is cheap to run and large to store.

Paper: Aytekin 2022 (arXiv 2210.05189), section 3: a network for y = x^2 and one for half-moons are written as trees,
pruned, and compared with the network in computation and memory.
"""

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_iris, make_moons
from sklearn.tree import DecisionTreeRegressor
from torch import Tensor, nn

from anabranch.claims import Claim, Measurements, Rule
from anabranch.theory import AffineTree, to_tree

CLAIM = Claim(
    paper="nn-to-tree",
    statement="A small leaky-ReLU network equals a decision tree, of whose 2^units leaves only a few can be reached; "
    "running the tree takes fewer multiply-adds than the network, storing it takes more numbers; and an ordinary "
    "decision tree with as many leaves does not reproduce the network.",
    rules=(
        Rule("max(square.error, max(moons.error, iris.error))", "<=", 1e-10),
        Rule("square.leaves", "<=", 9),
        Rule("moons.leaves / moons.raw_leaves", "<=", 0.6),
        Rule("square.tree_work / square.network_work", "<", 1),
        Rule("moons.tree_work / moons.network_work", "<", 1),
        Rule("square.tree_numbers / square.network_numbers", ">", 1),
        Rule("moons.tree_numbers / moons.network_numbers", ">", 1),
        Rule("iris.leaves_reached / iris.leaves", "<=", 0.25),
        Rule("square.cart_error", ">=", 0.05),
    ),
    seeds=5,
    minutes=3,
    smaller="The paper's own networks (1-2-2-1 and 2-2-2-1), and a third on iris (4-8-8-3) where the paper has none. "
    "Work and storage are counts of multiply-adds and of numbers other than zero, not times: at this size a time would "
    "only measure the interpreter.",
)


def measure(seed: int) -> Measurements:
    """Train three networks, write each as a tree, and count."""
    torch.manual_seed(seed)
    grid = torch.linspace(-2.5, 2.5, 5000, dtype=torch.float64)[:, None]
    square = _best((1, 2, 2, 1), grid, grid**2, F.mse_loss)
    points, labels = make_moons(1000, noise=0.1, random_state=seed)
    moons_x, moons_y = torch.from_numpy(points), torch.from_numpy(labels).double()[:, None]
    moons = _best((2, 2, 2, 1), moons_x, moons_y, F.binary_cross_entropy_with_logits)
    flowers, kinds = load_iris(return_X_y=True)
    flowers = torch.as_tensor(flowers, dtype=torch.float64)
    iris_x = (flowers - flowers.mean(0)) / flowers.std(0)
    iris = _train(_net(4, 8, 8, 3), iris_x, torch.as_tensor(kinds), F.cross_entropy)

    measured: Measurements = {}
    for name, net, x in (("square", square, grid), ("moons", moons, moons_x), ("iris", iris, iris_x)):
        low, high = x.min(0).values, x.max(0).values
        tree = to_tree(net, x[:1], domain=(low, high))
        inputs = torch.cat([x, low + (high - low) * torch.rand(10_000, x.shape[1], dtype=torch.float64)])
        measured |= {f"{name}.{key}": value for key, value in _compare(net, tree, x, inputs).items()}
    measured["square.cart_error"] = _cart_error(square, int(measured["square.leaves"]), grid)
    return measured


def _net(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for here, there in itertools.pairwise(widths):
        layers += [nn.Linear(here, there), nn.LeakyReLU(0.3)]
    return nn.Sequential(*layers[:-1]).double()


def _best(widths: tuple[int, ...], x: Tensor, y: Tensor, loss, starts: int = 4) -> nn.Sequential:
    """The start that fits best: two units a layer often get stuck where the network is a straight line."""
    nets = [_train(_net(*widths), x, y, loss) for _ in range(starts)]
    with torch.no_grad():
        return min(nets, key=lambda net: float(loss(net(x), y)))


def _train(net: nn.Sequential, x: Tensor, y: Tensor, loss) -> nn.Sequential:
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(1500):
        index = torch.randint(len(x), (128,))
        optimizer.zero_grad()
        loss(net(x[index]), y[index]).backward()
        optimizer.step()
    return net.eval()


@torch.no_grad()
def _compare(net: nn.Sequential, tree: AffineTree, x: Tensor, inputs: Tensor) -> Measurements:
    cost = tree.cost(x)
    return {
        "error": float((tree(inputs) - net(inputs)).abs().max()),
        "raw_leaves": 2.0**tree.units,
        "leaves": tree.leaves,
        "leaves_reached": cost.leaves_reached,
        "tree_work": cost.multiply_adds,
        "network_work": sum(p.numel() for p in net.parameters() if p.ndim == 2),
        "tree_numbers": cost.stored,
        "network_numbers": sum(p.numel() for p in net.parameters()),
    }


@torch.no_grad()
def _cart_error(net: nn.Sequential, leaves: int, grid: Tensor) -> float:
    """Error of a fitted decision tree with as many leaves, relative to the spread of the network's output."""
    wanted = net(grid).squeeze(1).numpy()
    cart = DecisionTreeRegressor(max_leaf_nodes=max(leaves, 2), random_state=0).fit(grid.numpy(), wanted)
    return float(np.sqrt(np.mean((cart.predict(grid.numpy()) - wanted) ** 2)) / wanted.std())
