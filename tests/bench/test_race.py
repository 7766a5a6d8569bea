"""The race: fair, repeatable, not to be stopped by a bad contender, and never to be begun again from the start."""

import copy
import itertools
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import anabranch
from anabranch import catalog, data
from anabranch.bench import pool
from anabranch.bench.contenders import chosen_parts
from anabranch.bench.fit import Budget
from anabranch.bench.race import fingerprint
from anabranch.bench.runner import validations
from anabranch.bench.skeletons import SKELETONS, usual_batch_size
from anabranch.errors import InputError
from anabranch.nn.feedforward import DenseLayer, PerceptronLayer
from anabranch.spaces import Choice, Space

QUICK: dict[str, Any] = {"budget": "10 steps", "trials": 2, "classical": []}


@pytest.fixture(autouse=True)
def _working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def timeless(results: anabranch.bench.Results) -> dict[str, Any]:
    """A race's outcome without what a clock measured."""
    found = copy.deepcopy(results.to_json())
    for row in found["rows"]:
        row["train_seconds"] = row["latency_ms"] = None
    return found


class Raising(DenseLayer):
    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        raise RuntimeError("no such thing\nand more")


class Exploding(PerceptronLayer):
    def transform(self, x: Float[Tensor, "*batch in_dim"]) -> Float[Tensor, "*batch out_dim"]:
        return super().transform(x) * float("inf")


class Moody(PerceptronLayer):
    """Works with one setting and not with the other."""

    space: ClassVar[Space] = {"good": Choice(False, True)}

    def __init__(self, in_dim: int, out_dim: int, *, good: bool = False):
        super().__init__(in_dim, out_dim)
        if not good:
            raise ValueError("a bad day")


def test_a_race_on_a_table_ends_with_a_leaderboard_and_a_file():
    results = anabranch.compare("wine", vary={"dense": ["perceptron", "kan"]}, budget="30 steps", trials=2)
    assert {row.contender for row in results.rows} == {
        "perceptron",
        "kan",
        "gradient-boosting",
        "nearest-neighbours",
        "logistic-regression",
        "majority-class",
    }
    for row in results.rows:
        assert row.metric is not None and 0.2 < row.metric <= 1 and len(row.by_seed) == 3
        assert row.interval[0] <= row.metric <= row.interval[1]
        assert row.latency_ms > 0
        if row.kind == "network":
            assert abs(row.parameters - results.facts["parameters"]) <= 0.05 * results.facts["parameters"]
            assert row.flops > 0 and row.peak_mb > 0 and len(row.curves[0]) == 8
            assert "optimizer.lr" in row.setting
    assert (results.table()["contender"] == [row.contender for row in results.rows]).all()


def test_the_test_split_is_touched_once_a_final_run(monkeypatch):
    task = data.load("wine")
    touched = []

    class Watched:
        def __len__(self):
            return len(task.test)

        def batch(self, index):
            touched.append(len(index))
            return task.test.batch(index)

    import dataclasses

    watched = dataclasses.replace(task, test=Watched())
    anabranch.compare(watched, vary={"dense": ["perceptron"]}, **QUICK)
    # Once for the fingerprint of the data, then once for each of three final runs.
    assert touched == [len(task.test)] * 4


def test_what_raises_or_diverges_is_a_row_with_its_reason_and_the_race_goes_on():
    results = anabranch.compare("wine", vary={"dense": [Raising, Exploding, "perceptron"]}, **QUICK)
    rows = {row.contender: row for row in results.rows}
    assert rows["perceptron"].metric is not None
    assert rows["Raising"].metric is None
    assert rows["Raising"].notes == ["every setting failed: RuntimeError: no such thing"]
    assert rows["Exploding"].notes[0].startswith("every setting failed: diverged")
    assert results.rows[0].contender == "perceptron"  # what failed comes last


def test_a_setting_that_fails_does_not_cost_the_contender_its_place():
    results = anabranch.compare("wine", vary={"dense": [Moody]}, budget="10 steps", trials=4, classical=[])
    (row,) = results.rows
    assert row.metric is not None and row.setting["dense.good"] is True
    assert "settings failed: ValueError: a bad day" in row.notes[0]


def test_too_little_time_is_a_reason_too():
    results = anabranch.compare(
        "wine", vary={"dense": ["perceptron"]}, classical=["gradient-boosting"], budget="0.000001s", trials=1
    )
    for row in results.rows:
        assert row.metric is None and "out of budget" in row.notes[0]


def test_a_time_is_shared_out_over_the_whole_race():
    results = anabranch.compare("wine", vary={"dense": ["perceptron"]}, classical=[], budget="2.5s", trials=2)
    assert results.facts["budget_per_run"] == "0.50 s"
    assert results.rows[0].train_seconds == pytest.approx(0.5, abs=0.2)


def test_the_same_race_gives_the_same_leaderboard_with_workers():
    alone = anabranch.compare("wine", vary={"dense": ["perceptron", "kan"]}, name="a", **QUICK)
    shared = anabranch.compare(
        "wine", vary={"dense": ["perceptron", "kan"]}, name="a", storage="b.db", workers=2, **QUICK
    )
    assert timeless(alone) == timeless(shared)


def test_a_race_that_was_stopped_anywhere_ends_as_if_it_had_not_been(monkeypatch):
    arguments = {"vary": {"dense": ["perceptron", "kan"]}, "name": "a", **QUICK}
    whole = anabranch.compare("wine", storage="whole.db", **arguments)
    done = []
    original = pool.Here.work

    def stopping(self, jobs, more):
        for step in itertools.islice(original(self, jobs, more), 3):
            done.append(step[0])
            yield step
        raise KeyboardInterrupt

    monkeypatch.setattr(pool.Here, "work", stopping)
    attempts = 0
    while len(done) < 10:
        with pytest.raises(KeyboardInterrupt):
            anabranch.compare("wine", storage="broken.db", resume=True, **arguments)
        attempts += 1
    assert attempts == 4 and len(set(map(repr, done))) == len(done) == 10  # nothing was done twice
    monkeypatch.setattr(pool.Here, "work", original)
    assert timeless(anabranch.compare("wine", storage="broken.db", resume=True, **arguments)) == timeless(whole)


def test_a_finished_race_is_shown_again_without_running(monkeypatch):
    arguments = {"vary": {"dense": ["perceptron"]}, **QUICK}
    first = anabranch.compare("wine", **arguments)
    monkeypatch.setattr(pool.Here, "work", None)
    assert timeless(anabranch.compare("wine", resume=True, **arguments)) == timeless(first)


def test_other_data_is_not_mistaken_for_the_same():
    wine, cancer = data.load("wine"), data.load("breast-cancer")
    assert fingerprint(wine) == fingerprint(data.load("wine"))
    assert fingerprint(wine) != fingerprint(cancer)
    anabranch.compare(wine, vary={"dense": ["perceptron"]}, name="x", **QUICK)
    with pytest.raises(InputError, match="cannot resume the race 'x' with other settings: .*data was"):
        anabranch.compare(cancer, vary={"dense": ["perceptron"]}, name="x", resume=True, **QUICK)


def test_parts_are_given_as_names_classes_or_with_options():
    wide = partial(PerceptronLayer, activation="tanh")
    results = anabranch.compare("wine", vary={"dense": ["perceptron", PerceptronLayer, wide]}, **QUICK)
    names = {row.contender for row in results.rows}
    assert names == {"perceptron", "PerceptronLayer", "PerceptronLayer(activation=tanh)"}


def test_several_slots_are_combined():
    vary = {"dense": ["perceptron"], "activation": ["relu", "tanh"], "optimizer": ["adamw", "sgd"]}
    results = anabranch.compare("wine", vary=vary, **QUICK)
    assert {row.contender for row in results.rows} == {
        f"activation={a} optimizer={o}" for a in ("relu", "tanh") for o in ("adamw", "sgd")
    }


def test_all_parts_are_those_that_can_stand_in_the_place():
    task = anabranch.data.load("pydoc")
    found = chosen_parts(task, SKELETONS["metaformer"], {"mixer": ["conv", "all"], "norm": ["rmsnorm", "identity"]})
    assert found["norm"] == ["rmsnorm", "identity"]
    assert found["mixer"][0] == "conv" and found["mixer"].count("conv") == 1
    assert {"attention", "linear-attention", "aaren"} < set(found["mixer"]) < set(catalog.parts("mixer"))
    assert not {"pool", "token-mlp", "linformer"} & set(found["mixer"])  # these see later bytes


def test_validations_take_about_a_quarter_of_what_training_takes():
    assert validations(Budget(steps=400), 16, 1000) == 5
    assert validations(Budget(steps=400), 16, 600) == 8
    assert validations(Budget(steps=400), 16, 30) == 10
    assert validations(Budget(steps=20), 16, 1000) == 3
    assert validations(Budget(seconds=1.0), 16, 1000) == 10


@pytest.mark.parametrize(("name", "samples"), [("digits", 64), ("canvas-digits", 16), ("pydoc", 8), ("wine", 13)])
def test_a_batch_has_fewer_samples_the_longer_they_are_and_the_fewer_there_are(name, samples):
    assert usual_batch_size(anabranch.data.load(name)) == samples


def test_rules_race_too():
    results = anabranch.compare("digits", vary={"rule": ["backprop", "forward-forward"]}, **QUICK)
    assert results.facts["skeleton"] == "mlp"
    assert all(row.metric is not None for row in results.rows)


@pytest.mark.parametrize(
    ("task", "vary"),
    [
        ("gunpoint", {"mixer": ["attention", "recurrent"]}),
        ("japanese-vowels", {"cell": ["gru", "diagonal"]}),
        ("japanese-vowels", {"mixer": ["pool", "token-mlp"]}),
        ("pydoc", {"mixer": ["conv", "linear-attention"]}),
        ("co2", {"forecaster": ["linear", "patchtst"]}),
        ("diabetes", {"mixer": ["identity", "attention"]}),
        ("digits", {"activation": ["relu", "gelu"]}),
    ],
)
def test_every_kind_of_data_can_be_raced(task, vary):
    results = anabranch.compare(task, vary=vary, budget="3 steps", trials=1)
    for row in results.rows:
        assert row.metric is not None, row.notes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 2}, "expected at least 3 seeds, .* got 2"),
        ({"trials": 0}, "expected at least 1 trial; got 0"),
        ({"workers": 0}, "expected at least 1 worker; got 0"),
        ({"parameters": 0}, "expected at least 1 parameter; got 0"),
        ({"budget": "soon"}, "expected a budget such as"),
        ({"device": "gpu7"}, "expected a device that is there"),
        ({"vary": {"dens": ["kan"]}}, "unknown slot 'dens'; did you mean 'dense'"),
        ({"vary": {"dense": ["kann"]}}, "unknown dense 'kann'; did you mean 'kan'"),
        ({"vary": {"dense": []}}, "expected at least one part for the slot 'dense'; got none"),
        ({"vary": {"dense": ["kan", "kan"]}}, "expected different contenders; 'kan' comes 2 times"),
        ({"vary": {"dense": ["kan"], "activation": ["relu"] * 110}}, "expected at most 100 contenders; 1 x 110"),
        ({"classical": ["boost"]}, "unknown classical model 'boost'"),
        ({"storage": "no/such/folder/x.db"}, "cannot use the storage"),
        ({"target": "alcohol"}, "wine.* takes no target"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(arguments, message, tmp_path):
    with pytest.raises(InputError, match=message):
        anabranch.compare("wine", **{**QUICK, **arguments})
    assert list(tmp_path.iterdir()) == []


def test_parts_defined_on_the_spot_cannot_be_sent_to_workers(tmp_path):
    class Local(PerceptronLayer):
        pass

    with pytest.raises(InputError, match="with several workers every part must be importable"):
        anabranch.compare("wine", vary={"dense": [Local]}, workers=2, **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_the_callers_threads_and_seed_are_left_alone():
    torch.set_num_threads(1)
    results = anabranch.compare("wine", vary={"dense": ["perceptron"]}, **QUICK)
    assert torch.get_num_threads() == 1 and results.leader is not None
