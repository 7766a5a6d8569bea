"""Classical models: what the one says that always says the same."""

import pytest
import torch

from anabranch.bench.classical import classical_models, whole
from anabranch.data import load
from anabranch.data.task import ACCURACY, Samples, Task


def constant(task: Task):
    """The scores of the constant model, which is the last."""
    *others, model = classical_models(task).values()
    assert model.constant and not any(other.constant for other in others) and not model.space
    return model.fit(task, {}, 0).scores(task.test)


@pytest.mark.parametrize("name", ["wine", "digits", "gloss-classes"])
def test_of_classes_it_is_the_commonest_one(name):
    task = load(name)
    commonest = whole(task.train).targets.bincount().argmax()
    assert (constant(task) == (whole(task.test).targets == commonest).numpy()).all()


def test_a_class_without_a_training_sample_is_counted_too():
    labels = torch.tensor([1, 1, 2, 1])
    part = Samples(torch.randn(4, 3), labels)
    task = Task("toy", "table", "classify", part, part, part, metric=ACCURACY, classes=("a", "b", "c"))
    assert constant(task).tolist() == [1, 1, 0, 1]


def test_of_numbers_it_is_their_mean():
    task = load("diabetes")
    mean = whole(task.train).targets.double().mean()
    assert constant(task) == pytest.approx((whole(task.test).targets.double() - mean).square().numpy(), rel=1e-4)


def test_of_a_text_it_is_how_often_each_byte_occurs():
    task = load("pydoc")
    counts = whole(task.train).targets.flatten().bincount(minlength=256).double()
    bits = -((counts + 0.1) / (counts + 0.1).sum()).log2()[whole(task.test).targets].mean(1)
    assert constant(task) == pytest.approx(bits.numpy(), abs=0.01)


def test_a_forecast_has_the_last_season_instead():
    assert not any(model.constant for model in classical_models(load("weather")).values())
