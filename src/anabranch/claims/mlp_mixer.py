"""MLP-Mixer (arXiv 2105.01601): neither convolution nor attention is needed, given enough data.

The paper's all-perceptron network trails convolutional ones on little data and catches up on much. Here a Mixer, a
vision transformer and a small residual convolutional network of equal size learn to recognise noisy, shifted and
stretched one-dimensional digits (MNIST-1D, arXiv 2011.14439) from 600, 2000 and 6000 of them. Each kind of network
tries the same learning rates on 2000 digits; the one best on the validation split is used for all sizes. All take the
same number of steps and see the data in the same order.

Made smaller: lines of 40 values instead of photographs, because small Mixers and transformers alike need more steps than
minutes allow to find a digit anywhere on an image canvas (a pilot stayed near chance); two blocks instead of eight or
more, no augmentation, mixup or drop path. The paper's large sizes are out of reach, so a gap that closes between 600
and 6000 digits says nothing about one that would close at 300 million images.
"""

from functools import partial
from typing import Any

import numpy as np
import torch

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Samples, Task
from anabranch.data.arrays import arrays_task
from anabranch.data.split import Rows
from anabranch.models import Classifier, ConvNet, FrameEmbed, MetaFormer, Network
from anabranch.nn.mixing import TokenMLP

SIZES = (600, 2000, 6000)
RATES = (3e-3, 8e-3)
STEPS, BATCH = 1200, 64

CLAIM = Claim(
    paper="mlp-mixer",
    statement="With enough images a Mixer comes within two points of a vision transformer, "
    "and what it lacks to a convolutional network shrinks as data grows.",
    rules=(
        Rule("mixer.n6000.accuracy - vit.n6000.accuracy", ">=", -0.02),
        Rule(
            "(convnet.n6000.accuracy - mixer.n6000.accuracy) - (convnet.n600.accuracy - mixer.n600.accuracy)",
            "<",
            0.0,
        ),
        # Without this the first rule could hold because neither learned anything: chance is 0.1.
        Rule("mixer.n6000.accuracy", ">=", 0.3),
        Rule("abs(mixer.parameters / vit.parameters - 1)", "<=", 0.05),
        Rule("abs(mixer.parameters / convnet.parameters - 1)", "<=", 0.05),
    ),
    seeds=3,
    minutes=16,
    smaller="600 to 6000 one-dimensional digits of 40 values instead of millions of photographs, two blocks, "
    "1200 steps without augmentation: the sizes at which the paper sees the Mixer win are out of reach.",
)


def measure(seed: int) -> Measurements:
    """Tune each network at 2000 digits, then train it on every size; report test and training accuracy."""
    task = digits(seed)
    measured: Measurements = {}
    for arm in ("mixer", "vit", "convnet"):
        tried = {rate: train(task, arm, 2000, rate, seed) for rate in RATES}
        rate = max(tried, key=lambda rate: tried[rate]["valid_accuracy"])
        measured |= {f"{arm}.rate": rate, f"{arm}.parameters": tried[rate].pop("parameters")}
        for size in SIZES:
            found = tried[rate] if size == 2000 else train(task, arm, size, rate, seed)
            measured |= {f"{arm}.n{size}.{name}": value for name, value in found.items() if name != "parameters"}
    return measured


def digits(seed: int) -> Task:
    """Fresh digits from the generator of MNIST-1D: 6000 to train, 1000 to validate, 4000 to test."""
    from mnist1d.data import get_dataset_args, make_dataset

    settings: Any = get_dataset_args()
    settings.num_samples, settings.seed = max(SIZES) + 5000, seed
    made: Any = make_dataset(settings)
    inputs = np.concatenate([made["x"], made["x_test"]])[:, :, None]
    labels = np.concatenate([made["y"], made["y_test"]])
    rows = np.arange(len(labels))
    splits = Rows(rows[: max(SIZES)], rows[max(SIZES) : -4000], rows[-4000:])
    return arrays_task("mnist1d", "sequence", inputs, labels, splits, classes=[*"0123456789"])


def train(task: Task, arm: str, size: int, rate: float, seed: int) -> Measurements:
    torch.manual_seed(seed)
    model = build(arm)
    whole = task.train.batch(torch.arange(size))
    split = Samples(whole.inputs, whole.targets)
    history = fit(
        model,
        split,
        loss=task.loss,
        optimizer=torch.optim.AdamW(model.parameters(), rate, weight_decay=0.05, fused=True),
        budget=Budget(steps=STEPS),
        batch_size=BATCH,
        seed=seed,
    )
    return {
        "accuracy": score(model, task.test, task),
        "valid_accuracy": score(model, task.valid, task),
        "train_accuracy": score(model, split, task),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "seconds": history.seconds,
    }


def build(arm: str) -> Network:
    """Three networks of equal size. Those on patches of two values differ in their token mixer and in positions."""
    if arm == "convnet":
        stem = FrameEmbed(1, 24, length=40, positions=None)
        trunk = ConvNet((24, 36, 48), (2, 2, 1), length=40)
    elif arm == "mixer":
        stem = FrameEmbed(1, 32, length=40, patch=2, positions=None)
        trunk = MetaFormer(32, 2, mixer=partial(TokenMLP, hidden=110), length=stem.length)
    else:
        stem = FrameEmbed(1, 32, length=40, patch=2)
        trunk = MetaFormer(32, 2, mixer="attention", length=stem.length)
    return Network(stem, trunk, Classifier(trunk.out_dim, 10, zero_init=arm == "mixer"))
