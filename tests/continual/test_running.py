"""The measures of a run, by arithmetic on hand-made ones."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from anabranch.continual import Cost, Experience, FineTuning, Joint, Results, Stream, run
from anabranch.data import Samples

R = np.array([[0.9, 0.1, 0.0], [0.6, 0.8, 0.2], [0.3, 0.7, 1.0]])
NOTHING = Cost(0, 0.0, 0, 0)


def test_measures_of_a_matrix_by_hand():
    results = Results(R, (NOTHING,) * 3)
    assert results.acc == pytest.approx((0.3 + 0.7 + 1.0) / 3)
    assert results.incremental_acc == pytest.approx((0.9 + (0.6 + 0.8) / 2 + 2.0 / 3) / 3)
    assert results.forgetting == pytest.approx(((0.9 - 0.3) + (0.8 - 0.7)) / 2)
    assert results.learning_accuracy == pytest.approx((0.9 + 0.8 + 1.0) / 3)


def test_online_accuracy_whole_and_at_both_ends():
    correct = tuple((i / 10, i / 10) for i in range(20))
    results = Results(R, (NOTHING,), correct, ((1.0, 0.5), (0.0,)))
    assert results.online_accuracy() == pytest.approx(0.95)
    assert results.online_first == pytest.approx(0.05) and results.online_last == pytest.approx(1.85)
    assert results.plasticity == pytest.approx(0.5)


def test_what_was_not_watched_cannot_be_asked_for():
    with pytest.raises(ValueError, match="watch=True"):
        _ = Results(R, (NOTHING,)).plasticity


def two_tasks(**options) -> Stream:
    """The second task contradicts the first."""
    x = torch.eye(2).repeat(8, 1)
    y = torch.tensor([0, 1]).repeat(8)
    tasks = (Experience(Samples(x, labels), Samples(x, labels), (0, 1)) for labels in (y, 1 - y))
    return Stream(tuple(tasks), "domain", batch_size=4, **options)


def learner(kind=FineTuning, rate=1.0):
    torch.manual_seed(0)
    return kind(nn.Linear(2, 2), partial(torch.optim.SGD, lr=rate))


def test_contradiction_is_forgotten_wholly():
    results = run(two_tasks(epochs=5), learner())
    assert results.accuracy.tolist() == [[1.0, 0.0], [0.0, 1.0]]
    assert results.forgetting == 1.0 and results.acc == 0.5 and results.learning_accuracy == 1.0


def test_joint_training_gets_the_stream_mixed():
    results = run(two_tasks(epochs=5), learner(Joint, 0.1))
    assert results.learning_accuracy < 1.0  # nothing can learn both


def test_watching_measures_before_and_after_each_update_and_costs_the_learner_nothing():
    plain, watched = (run(two_tasks(), learner(), watch=watch) for watch in (False, True))
    assert plain.correct == () and [len(one) for one in watched.correct] == [4, 4]
    assert watched.cost.flops == plain.cost.flops
    assert np.array_equal(plain.accuracy, watched.accuracy)
    assert watched.correct[1][0] == 0.0  # the labels have just been turned round
    assert 0.1 < watched.plasticity < 1.0


def test_plasticity_is_the_share_of_the_loss_that_one_update_takes():
    strategy = learner(rate=0.5)
    first = next(iter(two_tasks()))

    def loss():
        return float(nn.functional.cross_entropy(strategy.predict(first.x), first.y))

    before = loss()
    strategy.observe(first.x, first.y)
    assert run(two_tasks(), learner(rate=0.5), watch=True).restored[0][0] == pytest.approx(1 - loss() / before)


def test_flops_of_a_linear_layer_are_counted_right():
    # Forward and the weights' gradient: 2 FLOPs each for 4 samples x 2 x 2; the inputs need no gradient.
    assert run(two_tasks(), learner()).cost.flops == 8 * 2 * (2 * 4 * 2 * 2)
