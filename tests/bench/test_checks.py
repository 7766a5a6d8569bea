"""What a race cannot take is one line that names it, before anything is written."""

import pytest
from torch import nn

import anabranch
from anabranch.bench.contenders import networks
from anabranch.bench.fairness import solve_size
from anabranch.bench.skeletons import SKELETONS, Size
from anabranch.data import load
from anabranch.errors import InputError


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"budgit": "3 steps"}, r"unknown option 'budgit'; did you mean 'budget'"),
        ({"horizn": 3}, r"unknown option 'horizn'; did you mean 'horizon'"),
        ({"data": 3}, r"expected the name of a task or a path; got an object of type int"),
        ({"budget": 5}, r"expected a budget such as .* got 5"),
        ({"seeds": 2}, r"expected at least 3 seeds.*; got 2"),
        ({"seeds": 3.5}, r"expected at least 3 seeds.*; got 3\.5"),
        ({"seed": -1}, r"expected at least 0 as the first seed; got -1"),
        ({"trials": "4"}, r"expected at least 1 trial; got '4'"),
        ({"vary": ["kan"]}, r"expected parts by slot such as .* got \['kan'\]"),
        ({"vary": {"dense": "kan"}}, r"expected a list of parts for the slot 'dense'; got 'kan'"),
        ({"vary": {"dense": [3]}}, r"for the slot 'dense'; got an object of type int"),
        ({"vary": {"dense": [nn.Linear(2, 2)]}}, r"for the slot 'dense'; got an object of type Linear"),
        ({"classical": "none"}, r"expected a list of classical models, \[\] for none; got 'none'"),
        ({"goal": "guess"}, r"expected the goal classify or regress; got 'guess'"),
        ({"horizon": "x"}, r"expected a whole number for horizon; got 'x'"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_be_raced_is_named(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        anabranch.compare(**{"data": "wine", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("data", ["weather", "co2"])
def test_every_forecaster_of_the_roster_gets_a_size_that_it_can_have(data):
    task, skeleton = load(data), SKELETONS["forecaster"]
    for network in networks(skeleton, {"forecaster": ["linear", "mlp", "point-transformer", "patchtst"]}):
        size, _ = solve_size(
            lambda size, network=network: network.build(task, {}, size), 30_000, Size(skeleton.dim), skeleton.step
        )
        network.build(task, {}, size)
