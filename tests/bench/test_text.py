"""A race on texts to classify: what the classical model reads, and the size of the vocabulary."""

import torch

from anabranch.bench.classical import classical_models
from anabranch.bench.skeletons import stem
from anabranch.data.task import ACCURACY, Samples, Task


def text_task(vocabulary: int) -> Task:
    """Two classes that differ only in the order of two tokens; what stands behind the end of a text misleads."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(2, (300,), generator=generator)
    inputs = torch.randint(10, vocabulary, (300, 12), generator=generator)
    pair = torch.tensor([[3, 4], [4, 3]])
    inputs[:, 4:6] = pair[labels]
    inputs[:, 8:10] = pair[torch.randint(2, (300,), generator=generator)]
    lengths = torch.full((300,), 8)
    parts = [Samples(inputs[i : i + 100], labels[i : i + 100], lengths[i : i + 100]) for i in (0, 100, 200)]
    facts = {"vocabulary": vocabulary}
    return Task("text", "bytes", "classify", *parts, metric=ACCURACY, classes=("a", "b"), facts=facts)


def test_runs_of_tokens_tell_what_single_tokens_cannot():
    task = text_task(5000)
    model = classical_models(task)["naive-bayes"]
    accuracy = {order: model.fit(task, {"order": order, "alpha": 0.3}, 0).scores(task.test).mean() for order in (1, 2)}
    assert accuracy[1] < 0.7 and accuracy[2] == 1.0


def test_the_stem_has_a_vector_for_every_word():
    front = stem(text_task(5000), 8)
    assert front.embedding.num_embeddings == 5000
    assert front(*text_task(5000).example(2)[::2]).mask.sum() == 16
