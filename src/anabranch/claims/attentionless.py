"""Shallow perceptrons can take over a trained transformer's self-attention, but not its cross-attention.

Bozic et al. (2023) train a transformer to translate, teach flat perceptrons to imitate its attention layers one by one,
put them in their places without further training, and find that the encoder's self-attention can be replaced at hardly
any cost, the decoder's too, and that cross-attention is where it fails.

Here the task is from the letters of English words to their phonemes (espeak-ng's, without stress), the teacher has two
encoder and two decoder layers, and what counts is the share of test words whose phonemes are all right, written
greedily. Encoder attentions are replaced (level ALR: the attention alone) by perceptrons of the paper's sizes S, M and
L; the decoder's self-attentions, its cross-attentions, and all of them, by size L. Two controls learn from the same
teacher in the same way: a linear map of each token by itself, which passes nothing between tokens, and a linear map of
the mean over all tokens, which passes the same to all. All train at the paper's rate of 1e-3, which is not tuned for
any; the teacher's rate is the better of two by its validation loss.

Made smaller: words instead of sentences, so that a sequence has about 10 symbols instead of 50; 64 channels instead
of 128; 2 layers instead of 6; 3 passes instead of about 20. Fewer places make flat perceptrons smaller and their task easier,
the few passes make it harder. All numbers of hidden units follow from the paper's ratios.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.bench.fit import Budget, fit
from anabranch.claims import Claim, Measurements, Rule
from anabranch.compress import flat_students, imitate, replaced
from anabranch.data import Samples
from anabranch.data.g2p import g2p
from anabranch.models.seq2seq import TransformerSeq2Seq, before_end
from anabranch.nn.mixing.grid import hide

CLAIM = Claim(
    paper="attentionless",
    statement=(
        "Flat perceptrons that imitate a trained transformer's encoder self-attention replace it at little cost, the "
        "larger the better; cross-attention is hardest to replace."
    ),
    rules=(
        Rule("encoder_L - teacher", ">=", -0.05),
        Rule("encoder_L - encoder_M", ">", 0.0),
        Rule("encoder_M - encoder_S", ">", 0.0),
        Rule("encoder_L - cross_L", ">=", 0.05),
        Rule("decoder_L - cross_L", ">", 0.0),
        # What was replaced was needed, and the teacher has learned its task.
        Rule("encoder_L - encoder_alone", ">=", 0.05),
        Rule("encoder_L - encoder_mean", ">=", 0.05),
        Rule("teacher", ">=", 0.25, check=True),
    ),
    seeds=3,
    minutes=5,
    smaller=(
        "Words of at most 8 letters instead of sentences of up to 50 tokens, 64 channels, 2 + 2 layers, 3 passes "
        "instead of about 20 (sizes, steps and rates settled by pilots of the teacher); longer sequences would make the "
        "perceptrons larger and their task harder."
    ),
)

WORDS, LONGEST = 40_000, 8
DIM, STEPS, BATCH, RATES = 64, 300, 64, (2e-3, 5e-3)
SIZES = {"S": 1 / 128, "M": 1 / 8, "L": 1 / 2}
EPOCHS, IMITATED = 3, 128


def measure(seed: int) -> Measurements:
    """Train the teacher, replace its attentions, and count the words that are written without a fault."""
    train, valid, test, words, sounds = data()
    tried = [teach(train, valid, rate, words, sounds, seed) for rate in RATES]
    teacher, loss = min(tried, key=lambda pair: pair[1])
    torch.manual_seed(seed)
    arms: dict[str, dict[str, nn.Module]] = {
        f"encoder_{size}": flat_students(teacher, train, where=["encoder"], level="ALR", ratio=ratio)
        for size, ratio in SIZES.items()
    }
    for place in ("decoder", "cross"):
        arms[f"{place}_L"] = flat_students(teacher, train, where=[place], level="ALR", ratio=SIZES["L"])
    for name, across in (("alone", False), ("mean", True)):
        arms[f"encoder_{name}"] = {
            f"encoder.{i}.attention.part": Linear(DIM, across) for i in range(len(teacher.encoder))
        }
    students = [(part, student) for arm in arms.values() for part, student in arm.items()]
    errors = iter(imitate(teacher, train, students, epochs=EPOCHS, batch_size=IMITATED, seed=seed))

    measured: Measurements = {"teacher": right(teacher, test), "teacher.valid_loss": loss}
    measured["teacher.parameters"] = size_of(teacher)
    for name, arm in arms.items():
        measured |= {f"{name}.{part.removesuffix('.part')}.error": next(errors) for part in arm}
    # Each layer has learned alone: replacing all of them puts the same parts into one model.
    arms["all_L"] = arms["encoder_L"] | arms["decoder_L"] | arms["cross_L"]
    for name, arm in arms.items():
        model = replaced(teacher, arm)
        measured |= {name: right(model, test), f"{name}.parameters": size_of(model)}
    return measured


def data() -> tuple[Samples, Samples, Samples, int, int]:
    """The words of at most ``LONGEST`` letters, in rows as long as the longest, and the sizes of both vocabularies."""
    spellings = g2p(WORDS)
    splits = []
    for split in (spellings.train, spellings.valid, spellings.test):
        assert split.lengths is not None
        short = split.lengths <= LONGEST
        splits.append((split.inputs[short, :LONGEST], split.targets[short]))
    longest = max(int(before_end(targets).sum(1).max()) for _, targets in splits) + 1
    train, valid, test = (Samples(inputs, targets[:, :longest]) for inputs, targets in splits)
    return train, valid, test, len(spellings.letters), len(spellings.phonemes)


def teach(
    train: Samples, valid: Samples, rate: float, words: int, sounds: int, seed: int
) -> tuple[TransformerSeq2Seq, float]:
    """A trained transformer and its validation loss."""
    torch.manual_seed(seed)
    model = TransformerSeq2Seq(words, sounds, dim=DIM)
    rows = Samples(torch.cat([train.inputs, train.targets], 1), torch.zeros(len(train)))
    fit(
        Loss(model),
        rows,
        loss=lambda loss, _: loss,
        optimizer=torch.optim.Adam(model.parameters(), rate, fused=True),
        budget=Budget(steps=STEPS),
        batch_size=BATCH,
        seed=seed,
    )
    with torch.no_grad():
        return model.eval(), float(model.loss(valid.inputs, valid.targets))


class Loss(nn.Module):
    """The model's loss on rows that hold a word and its phonemes side by side."""

    def __init__(self, model: TransformerSeq2Seq):
        super().__init__()
        self.model = model

    def forward(self, rows: Tensor) -> Tensor:
        return self.model.loss(rows[:, :LONGEST], rows[:, LONGEST:])


class Linear(nn.Module):
    """A control: a linear map of each token by itself, or of the mean over all."""

    def __init__(self, dim: int, across: bool):
        super().__init__()
        self.map = nn.Linear(dim, dim)
        self.across = across

    def forward(self, x: Float[Tensor, "batch time dim"], *, mask: Tensor) -> Float[Tensor, "batch time dim"]:
        if self.across:
            x = (hide(x, mask).sum(1, keepdim=True) / mask.sum(1)[:, None, None]).expand_as(x)
        return self.map(x)


@torch.no_grad()
def right(model: TransformerSeq2Seq, split: Samples) -> float:
    """Share of words of which every phoneme is right."""
    longest = split.targets.shape[1]
    written = model.write(split.inputs, longest=longest)
    written = nn.functional.pad(written, (0, longest - written.shape[1]))
    return float((written == split.targets).all(1).float().mean())


def size_of(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))
