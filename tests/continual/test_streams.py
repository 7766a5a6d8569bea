"""What streams hand out, and what they keep to themselves."""

import pytest
import torch

from anabranch.continual import Experience, ReplayBuffer, Stream, label_permuted, permuted, rotated, split
from anabranch.data import Samples, digits

DIGITS = digits()


def by_hand(scenario="domain", **options) -> Stream:
    """Two tasks of 5 and 3 samples; a sample's input is its own number."""
    sizes, tasks, first = (5, 3), [], 0
    for size in sizes:
        x = torch.arange(first, first + size).float()[:, None]
        tasks.append(Experience(Samples(x, torch.arange(size) % 2), Samples(x, torch.arange(size) % 2), (0, 1)))
        first += size
    return Stream(tuple(tasks), scenario, batch_size=2, **options)


def test_every_sample_comes_once_an_epoch_and_tasks_come_in_turn():
    steps = list(by_hand(epochs=3))
    assert [len(step.x) for step in steps] == [2, 2, 1] * 3 + [2, 1] * 3
    seen = torch.cat([step.x for step in steps[:9]]).squeeze(1)
    assert seen.sort().values.tolist() == sorted([0, 1, 2, 3, 4] * 3)
    assert [step.t for step in steps] == list(range(15))
    assert by_hand(epochs=3).ends == [8, 14] == [step.t for step in steps if step.boundary]


@pytest.mark.parametrize(
    ("scenario", "tasks", "boundaries"),
    [("task", {0, 1}, 2), ("domain", {None}, 2), ("class", {None}, 2), ("online", {None}, 0)],
)
def test_a_scenario_tells_what_it_grants_and_no_more(scenario, tasks, boundaries):
    steps = list(by_hand(scenario))
    assert {step.task for step in steps} == tasks
    assert sum(step.boundary for step in steps) == boundaries


def test_order_depends_on_the_seed_alone():
    def order(seed):
        return torch.cat([step.x for step in by_hand(seed=seed)])

    assert torch.equal(order(0), order(0)) and not torch.equal(order(0), order(1))
    torch.manual_seed(7)
    assert torch.equal(order(0), order(0))


@pytest.mark.parametrize("scenario", ["domain", "task"])
def test_joint_has_the_same_samples_in_as_many_passes_but_mixed(scenario):
    plain, mixed = by_hand(scenario, epochs=20), by_hand(scenario, epochs=20).joint()
    samples = [torch.cat([step.x for step in stream]).squeeze(1).sort().values for stream in (plain, mixed)]
    assert torch.equal(*samples)
    early = torch.cat([step.x for step in mixed][: len(list(mixed)) // 2])
    assert 0.2 < (early >= 5).float().mean() < 0.6  # of the second task, which plainly comes only at the end
    if scenario == "task":
        assert all(((step.x >= 5) == bool(step.task)).all() for step in mixed)


def test_split_gives_each_class_to_one_task():
    stream = split(DIGITS, classes_per_task=3, seed=4)
    assert len(stream.experiences) == 3
    labels = [set(e.train.targets.tolist()) for e in stream.experiences]
    assert all(len(one) == 3 and one == set(e.classes) for one, e in zip(labels, stream.experiences, strict=True))
    assert len(set.union(*labels)) == 9
    assert split(DIGITS, seed=5).experiences[0].classes != split(DIGITS, seed=4).experiences[0].classes
    assert split(DIGITS, scenario="task").heads == tuple(e.classes for e in split(DIGITS).experiences)


def test_split_by_domain_numbers_the_labels_anew():
    stream = split(DIGITS, scenario="domain")
    assert all(set(e.test.targets.tolist()) == {0, 1} for e in stream.experiences) and stream.classes == 2


def test_permuted_moves_pixels_the_same_way_for_every_sample():
    stream = permuted(DIGITS, tasks=2, seed=3)
    whole = DIGITS.train.batch(torch.arange(len(DIGITS.train)))
    for experience in stream.experiences:
        found, plain = experience.train.inputs.flatten(1), whole.inputs.flatten(1)
        assert torch.equal(found.sort(1).values, plain.sort(1).values) and not torch.equal(found, plain)
        assert torch.equal(experience.train.targets, whole.targets)
    first, second = (e.train.inputs for e in stream.experiences)
    assert not torch.equal(first, second)


def test_rotated_by_a_quarter_is_the_array_turned():
    stream = rotated(DIGITS, tasks=2, degrees=90.0)
    first, second = (e.test.inputs for e in stream.experiences)
    torch.testing.assert_close(second, first.rot90(1, (2, 3)), atol=1e-4, rtol=0)


def test_label_permuted_gives_labels_a_new_meaning_after_so_many_samples():
    stream = label_permuted(DIGITS, every=50, tasks=3, batch_size=10)
    assert stream.ends == [4, 9, 14] and stream.scenario == "online"
    first, second = (e.test.targets for e in stream.experiences[:2])
    meaning = {int(a): int(b) for a, b in zip(first, second, strict=True)}
    assert len(meaning) == len(set(meaning.values())) == 10
    assert all(meaning[int(a)] == int(b) for a, b in zip(first, second, strict=True)) and not torch.equal(first, second)


def test_tuning_can_leave_the_test_samples_unseen():
    assert len(permuted(DIGITS, part="valid").experiences[0].test) == len(DIGITS.valid)


@pytest.mark.usefixtures("unchecked")
def test_training_samples_are_not_tested_on():
    with pytest.raises(ValueError, match="'valid' or 'test'; got 'train'"):
        split(DIGITS, part="train")  # pyright: ignore[reportArgumentType]


@pytest.mark.usefixtures("unchecked")
def test_an_online_stream_is_seen_once_in_small_batches():
    with pytest.raises(ValueError, match="seen once.*2 epochs"):
        by_hand("online", epochs=2)


def test_reservoir_keeps_every_sample_with_the_same_chance():
    kept = torch.zeros(40)
    for seed in range(400):
        buffer = ReplayBuffer(10, seed=seed)
        for part in torch.arange(40).split(7):
            buffer.add(part.float()[:, None], part)
        x, y, task = buffer.draw(10)
        assert len(buffer) == len(y.unique()) == 10 and torch.equal(x.squeeze(1), y.float()) and (task == -1).all()
        kept[y] += 1
    assert 60 < kept.min() <= kept.max() < 145  # 100 on average, standard deviation 8.7


def test_buffer_counts_its_bytes_and_gives_back_what_it_has():
    buffer = ReplayBuffer(8)
    buffer.add(torch.ones(3, 5), torch.tensor([1, 2, 3]), task=2)
    assert buffer.bytes == 8 * (5 * 4 + 8 + 8)
    x, y, task = buffer.draw(6)
    assert x.shape == (3, 5) and y.sort().values.tolist() == [1, 2, 3] and task.tolist() == [2, 2, 2]
