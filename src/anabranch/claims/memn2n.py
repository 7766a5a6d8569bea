"""MemN2N (arXiv 1503.08895): reading a memory several times answers questions that need several facts.

The paper trains on the twenty bAbI tasks, from questions and answers alone, and finds that three hops err far less than
one where two or three sentences have to be put together, less than an LSTM, and more than memory networks that are told
which sentences matter. Here generated stories of twelve sentences ask for one, two or three facts, and every network is
trained on the three kinds together. All of them see the same stories in the same order, have as many steps, and
settings to choose from by their error on further stories: the memory networks start without softmax or not, the LSTM
has three learning rates. The LSTM reads the question first, so that it knows what to look for, and a sentence at a time,
both of which make it stronger than the paper's. The supervised network has three hops and is trained on the supporting
sentences as well; it has one setting, and so is no bound of what three hops can do.

The LSTM stays at about the level of a heuristic, to answer the newest place that is named, which errs on 0.54, 0.71 and
0.64 of 200 questions about one, two and three facts. The paper's LSTM fails too. That three hops err less therefore says
that they put facts together, not that they beat a recurrent network that does.

As in the paper: 20 channels, adjacent tying, word order encoded, a tenth of empty memories, and a start without softmax.
Otherwise: Adam with a decaying rate instead of gradient descent halved every 25 epochs, and the start without softmax
lasts a quarter of the steps instead of until the validation loss stops falling. The paper trains every network ten times
and takes the one with the best training loss; here a seed is the better of two settings, stuck or not.

Made smaller: 3 kinds of questions instead of 20, 24 words instead of 177, stories of one length. With so few words there
is less to confuse sentences by, which should help all networks alike.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit, predictions
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data import Samples
from anabranch.data.babi import WORDS, BabiLike
from anabranch.models.language import MemN2N

CLAIM = Claim(
    paper="memn2n",
    statement="Trained on answers alone, a memory network of one hop answers what one fact answers; with three hops it "
    "errs at most half as often on two facts, and less on three; and it errs less than an LSTM that reads the story.",
    rules=(
        Rule("hops1.error1", "<=", 0.05),
        Rule("supervised.error2", "<=", 0.1, check=True),
        Rule("hops1.error2 - 2 * hops3.error2", ">=", 0.0),
        Rule("hops1.error2 - hops2.error2", ">", 0.0),
        Rule("hops1.error3 - hops3.error3", ">", 0.0),
        Rule("lstm.error2 - hops3.error2", ">", 0.0),
        Rule("lstm.error3 - hops3.error3", ">", 0.0),
        Rule("lstm.error - hops3.error", ">=", 0.05),
    ),
    seeds=5,
    minutes=5,
    smaller="Three kinds of questions about generated stories of twelve sentences and 24 words instead of the twenty of "
    "bAbI; Adam, and a fixed length for the start without softmax. Pilots with one hop and with the LSTM settled rates, "
    "steps and how the LSTM reads; with three hops it was looked at that they train at all.",
)

STORIES, FURTHER = 1000, 500  # of each kind, to train, and to validate and to test on
STEPS, BATCH = 900, 64
SETTINGS = {
    "memory": ((3e-2, 0.0), (3e-2, 0.25)),
    "supervised": ((3e-2, 0.0),),
    "lstm": ((2e-3, 0.0), (5e-3, 0.0), (1e-2, 0.0)),
}


class LSTMReader(nn.Module):
    """Reads the question, then the story sentence by sentence, and answers from its last state."""

    def __init__(self, dim: int = 20, hidden: int = 64):
        super().__init__()
        self.embedding = nn.Embedding(len(WORDS), dim, padding_idx=0)
        self.lstm = nn.LSTM(5 * dim, hidden, batch_first=True)
        self.answer = nn.Linear(hidden, len(WORDS))

    def forward(self, lines: Int[Tensor, "batch lines places"]) -> Float[Tensor, "batch words"]:
        oldest_first = torch.cat([lines[:, :1], lines[:, 1:].flip(1)], dim=1)
        return self.answer(self.lstm(self.embedding(oldest_first).flatten(2))[0][:, -1])


class Supervised(MemN2N):
    """While training, also gives the log-weight that each hop puts on the sentence it should read."""

    def forward(self, lines: Int[Tensor, "batch lines places"]) -> tuple[Tensor, Tensor] | Tensor:
        logits, weights = self.read(lines)
        return (logits, weights) if self.training else logits


ARMS = ("hops1", "hops2", "hops3", "supervised", "lstm")


def build(arm: str) -> nn.Module:
    if arm == "lstm":
        return LSTMReader()
    if arm == "supervised":
        return Supervised(len(WORDS), empty=0.0)
    return MemN2N(len(WORDS), hops=int(arm[-1]))


def measure(seed: int) -> Measurements:
    """Share of wrong answers by the number of facts, for every network at its better setting."""
    train, valid, *tests = stories(seed)
    measured: Measurements = {}
    for arm in ARMS:
        runs = []
        for rate, start in SETTINGS.get(arm, SETTINGS["memory"]):
            model, seconds = trained(arm, train, rate, start, seed)
            runs.append((error(model, valid), rate, start, seconds, [error(model, test) for test in tests]))
        _, rate, start, seconds, errors = min(runs, key=lambda run: run[0])
        measured |= {f"{arm}.error{facts}": value for facts, value in enumerate(errors, 1)}
        measured |= {f"{arm}.error": sum(errors) / 3, f"{arm}.rate": rate, f"{arm}.start": start}
        measured[f"{arm}.seconds"] = seconds
    return measured


def stories(seed: int) -> tuple[Samples, Samples, Samples, Samples, Samples]:
    """To train on and to validate on, all kinds together; to test on, each kind alone.

    A target is the answer and the three supporting sentences, -1 where there are fewer.
    """

    def samples(facts: int, count: int, part: int) -> Samples:
        made = BabiLike(facts, count, seed=3 * seed + part)
        supports = F.pad(made.supports, (0, 3 - facts), value=-1)
        return Samples(made.inputs, torch.cat([made.targets[:, None], supports], dim=1))

    def together(count: int, part: int) -> Samples:
        kinds = [samples(facts, count, part) for facts in (1, 2, 3)]
        return Samples(torch.cat([kind.inputs for kind in kinds]), torch.cat([kind.targets for kind in kinds]))

    tests = [samples(facts, FURTHER, 2) for facts in (1, 2, 3)]
    return together(STORIES, 0), together(FURTHER, 1), tests[0], tests[1], tests[2]


def trained(arm: str, train: Samples, rate: float, start: float, seed: int) -> tuple[nn.Module, float]:
    """A network after its training, ``start`` of it without softmax, and the seconds that took."""
    torch.manual_seed(seed)
    model = build(arm)
    optimizer = torch.optim.Adam(model.parameters(), rate, fused=True)
    first, seconds = round(start * STEPS), 0.0
    for linear, steps in ((True, first), (False, STEPS - first)):
        if isinstance(model, MemN2N):
            model.hops.linear = linear
        budget = Budget(steps=steps)
        if steps:
            history = fit(
                model, train, loss=loss, optimizer=optimizer, budget=budget, batch_size=BATCH, seed=seed, clip=40.0
            )
            seconds += history.seconds
    return model, seconds


def loss(output: Tensor | tuple[Tensor, Tensor], target: Int[Tensor, "batch four"]) -> Float[Tensor, ""]:
    """Cross-entropy of the answer, and of the supporting sentences where the weights are given."""
    if isinstance(output, Tensor):
        return F.cross_entropy(output, target[:, 0])
    logits, weights = output
    logarithms = weights.clamp(min=1e-9).log().transpose(1, 2)
    return F.cross_entropy(logits, target[:, 0]) + F.nll_loss(logarithms, target[:, 1:], ignore_index=-1)


def error(model: nn.Module, split: Samples) -> float:
    """Share of wrong answers."""
    wrong = [output.argmax(1) != target[:, 0] for output, target in predictions(model, split)]
    return float(torch.cat(wrong).double().mean())
