"""Dilution (arXiv 2404.05657): attentions chosen by feature entropy can fade out of a vision transformer at no loss.

The paper takes 40 % of the attentions out of trained DeiT networks. Here a vision transformer of eight blocks learns
noisy one-dimensional digits (MNIST-1D); then it trains on, for as many steps in every arm: unchanged; while the three
attentions that feature entropy chooses fade (linearly, gone for the last quarter); likewise three drawn at random;
likewise the topmost three; and with the chosen three cut out at once. All arms see the data in the same order, and are
tested without the attentions that left.

Made smaller: width 32 on 40-frame sequences instead of ImageNet, 300 steps and 200 more instead of 300 and 400 epochs
(the rate was settled by pilots of the whole network alone, on other seeds).
A network so little trained still learns while its attentions fade, and what leaves early may be learned anew by what
stays.
"""

import random
import time
from copy import deepcopy
from statistics import median

import torch
from torch import Tensor, nn

from anabranch.bench.fit import Budget, cosine_with_warmup, fit, score
from anabranch.claims import Claim, Measurements, Rule
from anabranch.claims._language import train
from anabranch.claims.mlp_mixer import digits
from anabranch.compress import DropMixers, RemoveDiluted, choose_attentions, dilute_attention, set_dilution
from anabranch.data.task import Task
from anabranch.models import Classifier, FrameEmbed, MetaFormer, Network

CLAIM = Claim(
    paper="lambda-vit",
    statement="Three of eight attentions, chosen by feature entropy and diluted, leave within a point of the whole "
    "network, and no other choice and no hard cut does better; they stand mostly at the bottom.",
    rules=(
        Rule("chosen.accuracy - dense.accuracy", ">=", -0.01),
        Rule("chosen.accuracy - drawn.accuracy", ">=", 0.0),
        Rule("chosen.accuracy - topmost.accuracy", ">=", 0.0),
        Rule("chosen.accuracy - cut.accuracy", ">=", 0.0),
        Rule("chosen.mean_index", "<", 3.5),
        Rule("chosen.seconds / dense.seconds", "<", 1.0),
        # The network learns: chance is 0.1.
        Rule("dense.accuracy", ">=", 0.4, check=True),
    ),
    seeds=4,
    minutes=4,
    smaller="Eight blocks of width 32 on MNIST-1D for 300 and 200 more steps, instead of DeiT on ImageNet for 300 and "
    "400 epochs: the network is not done learning when its attentions fade.",
)

DEPTH, LEAVE = 8, 3
STEPS, MORE, BATCH, RATE = 300, 200, 64, 1.5e-3


def measure(seed: int) -> Measurements:
    """Test accuracy of every arm, what was chosen, and the time that a pass takes."""
    task = digits(seed)
    torch.manual_seed(seed)
    stem = FrameEmbed(1, 32, length=40, patch=5)
    dense = Network(stem, MetaFormer(32, DEPTH, length=stem.length), Classifier(32, 10))
    train(dense, task, RATE, STEPS, seed, BATCH)
    start = score(dense, task.test, task)
    example = task.train.batch(torch.arange(512))
    chosen = choose_attentions(dense, example, LEAVE / DEPTH)
    sets = {
        "chosen": chosen,
        "drawn": random.Random(seed).sample(range(DEPTH), LEAVE),
        "topmost": list(range(DEPTH - LEAVE, DEPTH)),
    }
    models: dict[str, nn.Module] = {"dense": train_on(deepcopy(dense), task, seed)}
    for name, blocks in sets.items():
        faded = train_on(dilute_attention(dense, blocks), task, seed)
        models[name] = RemoveDiluted().convert(faded, example.inputs[:1], repeats=1).module
    models["cut"] = train_on(DropMixers(chosen).convert(dense, example.inputs[:1], repeats=1).module, task, seed)
    found = {f"{name}.accuracy": score(model, task.test, task) for name, model in models.items()}
    found |= seconds({name: models[name] for name in ("dense", "chosen")}, example.inputs)
    found |= {f"chosen.block{i}": float(i in chosen) for i in range(DEPTH)}
    return found | {"start.accuracy": start, "chosen.mean_index": sum(chosen) / LEAVE}


def train_on(model: nn.Module, task: Task, seed: int) -> nn.Module:
    """Train for some more steps, in which whatever has been made to fade does so."""

    def schedule(spent: float) -> float:
        set_dilution(model, spent)
        return cosine_with_warmup(spent)

    optimizer = torch.optim.AdamW(model.parameters(), RATE, weight_decay=0.05, fused=True)
    fit(
        model,
        task.train,
        loss=task.loss,
        optimizer=optimizer,
        budget=Budget(steps=MORE),
        batch_size=BATCH,
        seed=10_000 + seed,
        schedule=schedule,
    )
    set_dilution(model, 1.0)
    return model


@torch.inference_mode()
def seconds(models: dict[str, nn.Module], inputs: Tensor, repeats: int = 30) -> Measurements:
    """Median time of a pass; the models take turns, so that another load on the machine meets all alike."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for run in range(repeats + 2):
        for name, model in models.items():
            started = time.perf_counter()
            model(inputs)
            if run >= 2:
                times[name].append(time.perf_counter() - started)
    return {f"{name}.seconds": median(each) for name, each in times.items()}
