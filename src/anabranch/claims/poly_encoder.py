"""Poly-encoders (arXiv 1905.01969) rank better than bi-encoders at their speed, and near to cross-encoders.

The paper fine-tunes BERT to choose the right reply among 20 candidates or more. Encoding context and candidate apart
lets candidates be encoded beforehand and is fast; reading them together is more accurate and hopelessly slow for many
candidates; poly-encoders are meant to lie between in accuracy and with the fast ones in time.

Here the context is a definition from WordNet and the right candidate a usage of the word it defines, among 20. All
three read the same frozen token states of the sentence encoder MiniLM through a linear map and two transformer blocks
of width 64 that they train themselves, with the same batches, whose other candidates are the negatives, the same
number of steps and the same two learning rates, of which validation chooses. Every seed draws its own splits.

Made smaller: two small trained blocks on frozen states instead of BERT fine-tuned, 2,600 pairs instead of 100,000 and
more; definitions of at most 14 word pieces instead of dialogues of hundreds, which leaves the codes less to choose
from; all 15 others of the batch as negatives for every arm (the paper gives the cross-encoder 15, the others up to
511). So small a cross-encoder, which has to learn from scratch how two texts compare, may fall short of its due. The
frozen encoder's own cosine is measured as a reference: where it ranks better than what was trained, as it does here,
the order of the trained arms says how much they learn from few pairs, and little of pre-trained networks, whose own
layers the paper fine-tunes.
"""

import time
from functools import cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from anabranch.bench.fit import cosine_with_warmup, minibatches
from anabranch.claims._claim import Claim, Measurements, Rule
from anabranch.data.glosses import gloss_pairs
from anabranch.models import MetaFormer
from anabranch.models.language import BiEncoder, CrossEncoder, Encoder, PolyEncoder, Scorer, Texts, ranks_among
from anabranch.models.language.minilm import load_minilm, token_states
from anabranch.nn.feedforward import MLP

CLAIM = Claim(
    paper="poly-encoder",
    statement="A poly-encoder ranks better than a bi-encoder in about its time, a cross-encoder at least as well and "
    "much more slowly.",
    rules=(
        Rule("poly.top1 - bi.top1", ">=", 0.01),
        Rule("poly.mrr - bi.mrr", ">", 0.0),
        Rule("cross.top1 - poly.top1", ">=", 0.0),
        Rule("cross.mrr - poly.mrr", ">=", 0.0),
        Rule("poly.seconds / bi.seconds", "<=", 2.0),
        Rule("cross.seconds / poly.seconds", ">=", 20.0),
        Rule("bi.top1", ">=", 0.2, check=True),
    ),
    seeds=3,
    minutes=5,
    smaller="Two trained blocks of width 64 on frozen MiniLM states, 2,600 pairs of a short definition and a usage, "
    "batches of 16, 300 steps; a pilot of the bi-encoder settled the numbers of pairs and steps.",
)

ARMS = {"bi": BiEncoder, "poly": partial(PolyEncoder, codes=64), "cross": CrossEncoder}
POOL, VALID, TEST, LISTED = 3600, 250, 750, 20
LONGEST = (14, 12)  # word pieces of a definition and of a usage
DIM, STEPS, BATCH, RATES = 64, 300, 16, (1e-3, 3e-3)


def measure(seed: int) -> Measurements:
    """Train every arm with both rates; rank 20 candidates on the test split; time one context against 1,000."""
    contexts, candidates = states()
    order = torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))
    valid, test, train = order.split([VALID, TEST, POOL - VALID - TEST])
    measured: Measurements = {}
    models: dict[str, Scorer] = {}
    for arm in ARMS:
        runs = [fit_scorer(arm, contexts[train], candidates[train], rate, seed) for rate in RATES]
        scored = [quality(model, contexts[valid], candidates[valid], seed)["mrr"] for model in runs]
        models[arm] = runs[scored.index(max(scored))]
        found = quality(models[arm], contexts[test], candidates[test], seed)
        found["rate"] = RATES[scored.index(max(scored))]
        measured |= {f"{arm}.{key}": value for key, value in found.items()}
    measured["frozen.top1"] = quality(Frozen(), contexts[test], candidates[test], seed)["top1"]
    timed = seconds(models, contexts, candidates[:1000])
    return measured | {f"{arm}.seconds": value for arm, value in timed.items()}


@cache
def states() -> tuple[Texts, Texts]:
    """Frozen token states of definitions and usages that are short enough to be read whole; once per process."""
    _, pieces = load_minilm()
    pairs = [
        pair
        for pair in gloss_pairs(8000, 1, 1).train
        if all(len(pieces.encode(text)) <= most for text, most in zip(pair, LONGEST, strict=True))
    ]
    definitions, usages = zip(*pairs[:POOL], strict=True)
    return Texts(*token_states(definitions, longest=LONGEST[0])), Texts(*token_states(usages, longest=LONGEST[1]))


def fit_scorer(arm: str, contexts: Texts, candidates: Texts, rate: float, seed: int) -> Scorer:
    torch.manual_seed(seed)
    trunk = MetaFormer(DIM, 2, mixer="attention", channel=partial(MLP, ratio=2))
    model: Scorer = ARMS[arm](Encoder(nn.Linear(384, DIM), trunk, DIM))
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    for step, rows in zip(range(STEPS), minibatches(len(contexts), BATCH, seed), strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine_with_warmup(step / STEPS)
        optimizer.zero_grad()
        model.loss(contexts[rows], candidates[rows]).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model.eval()


class Frozen(Scorer):
    """The sentence encoder as it came: cosine of the mean states."""

    def encode_candidates(self, candidates: Texts) -> Tensor:
        return F.normalize(candidates.tokens.sum(1) / candidates.mask.sum(1, keepdim=True), dim=-1)

    def score_encoded(self, contexts: Texts, encoded: Tensor) -> Tensor:
        return self.encode_candidates(contexts) @ encoded.mT


@torch.no_grad()
def quality(model: Scorer, contexts: Texts, candidates: Texts, seed: int) -> Measurements:
    """How often the right candidate of 20 comes first, and the mean of its inverse rank."""
    generator, size = torch.Generator().manual_seed(seed), len(contexts)
    others = torch.stack([1 + torch.randperm(size - 1, generator=generator)[: LISTED - 1] for _ in range(size)])
    own = torch.arange(size)[:, None]
    ranks = ranks_among(model, contexts, candidates, torch.cat([own, (own + others) % size], 1)).double()
    return {"top1": float((ranks == 1).double().mean()), "mrr": float((1 / ranks).mean())}


@torch.no_grad()
def seconds(models: dict[str, Scorer], contexts: Texts, candidates: Texts, rounds: int = 9) -> Measurements:
    """Time to score one context against the candidates, which were encoded before as far as can be; in turns."""
    encoded = {arm: model.encode_candidates(candidates) for arm, model in models.items()}
    seen: dict[str, list[float]] = {}
    for i in range(rounds):
        for arm, model in models.items():
            started = time.perf_counter()
            model.score_encoded(contexts[i : i + 1], encoded[arm])
            seen.setdefault(arm, []).append(time.perf_counter() - started)
    return {arm: min(times) for arm, times in seen.items()}
