"""MLP-Mixer (arXiv 2105.01601): neither convolution nor attention is needed, given enough data.

The paper's all-perceptron network trails convolutional ones on little data and catches up on much. Here a Mixer, a
vision transformer and a small residual convolutional network of equal size learn to read digits anywhere on a canvas,
from 600, 2000 and 6000 images. Each kind of network tries the same learning rates on 2000 images; the one best on
the validation split is used for all sizes. All take the same number of steps and see the data in the same order.

Made smaller: 24x24 canvases without clutter instead of ImageNet and JFT-300M, two blocks instead of eight or more,
under two thousand steps, no augmentation, mixup or drop path. The paper's large sizes are out of reach, so a gap that
closes between 600 and 6000 images says nothing about one that would close at 300 million.
"""

import torch

from anabranch.bench.fit import Budget, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.data import Samples, Task, canvas_digits
from anabranch.models import Classifier, ConvNet, MetaFormer, Network, PatchEmbed
from anabranch.models.vision import MLPMixer

SIZES = (600, 2000, 6000)
RATES = (1.5e-3, 4e-3)
STEPS, BATCH = 1200, 32

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
    minutes=8,
    smaller="600 to 6000 canvases of 24x24 pixels without clutter instead of millions of photographs, two blocks, "
    "1200 steps without augmentation: the sizes at which the paper sees the Mixer win are out of reach.",
)


def measure(seed: int) -> Measurements:
    """Tune each network at 2000 images, then train it on every size; report test and training accuracy."""
    task = canvas_digits(train=max(SIZES), test=4000, clutter=0, seed=seed)
    measured: Measurements = {}
    for arm in ("mixer", "vit", "convnet"):
        tried = {rate: train(task, arm, 2000, rate, seed) for rate in RATES}
        rate = max(tried, key=lambda rate: tried[rate]["valid_accuracy"])
        measured |= {f"{arm}.rate": rate, f"{arm}.parameters": tried[rate].pop("parameters")}
        for size in SIZES:
            found = tried[rate] if size == 2000 else train(task, arm, size, rate, seed)
            measured |= {f"{arm}.n{size}.{name}": value for name, value in found.items() if name != "parameters"}
    return measured


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
    """Three networks of about 32 thousand weights; the two on patches differ in their token mixer and positions."""
    if arm == "mixer":
        return MLPMixer(1, 10, size=24, patch=4, dim=32, depth=2, hidden=64)
    if arm == "vit":
        stem = PatchEmbed(1, 32, size=24, patch=4)
        trunk = MetaFormer(32, 2, mixer="attention", grid=stem.grid)
    else:
        stem = PatchEmbed(1, 16, size=24, patch=2, positions=None)
        trunk = ConvNet((16, 24, 32), (1, 1, 1), grid=stem.grid)
    return Network(stem, trunk, Classifier(trunk.out_dim, 10))
