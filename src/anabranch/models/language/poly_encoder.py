"""Three ways to score a candidate for a context: apart, nearly apart, together (Humeau et al. 2019, arXiv 1905.01969).

The better a way can compare the two texts, the less of the work can be done before the context is known.
"""

from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.language.scorer import Encoder, Scorer, Texts
from anabranch.nn.attention.poly import PolyAttention
from anabranch.nn.pool import MeanPool, Pool


class BiEncoder(Scorer):
    """Context and candidate become one vector each; their dot product is the score (section 4.2).

    Arguments:
        encoder: reads the contexts; a copy, with the same weights at first, reads the candidates.
        pool: from the states of a text's tokens to its vector; their mean if not given.
    """

    def __init__(self, encoder: Encoder, *, pool: Pool | None = None):
        super().__init__()
        self.contexts, self.candidates = encoder, deepcopy(encoder)
        self.pool = MeanPool(encoder.dim) if pool is None else pool

    def encode_candidates(self, candidates: Texts) -> Float[Tensor, "candidates dim"]:
        return self.pool(self.candidates(candidates), candidates.mask)

    def score_encoded(
        self, contexts: Texts, encoded: Float[Tensor, "candidates dim"]
    ) -> Float[Tensor, "contexts candidates"]:
        return self.pool(self.contexts(contexts), contexts.mask) @ encoded.mT


class PolyEncoder(BiEncoder):
    """Candidates become one vector each, contexts several, which every candidate weighs for itself (section 4.4).

    Arguments:
        encoder, pool: as in :class:`BiEncoder`; contexts are not pooled.
        codes: number of vectors of a context.
        learned: whether learned codes read them from the context; if not, they are the states of its first tokens.
    """

    def __init__(self, encoder: Encoder, *, codes: int = 64, learned: bool = True, pool: Pool | None = None):
        super().__init__(encoder, pool=pool)
        self.attention = PolyAttention(encoder.dim, codes=codes, learned=learned)

    def score_encoded(
        self, contexts: Texts, encoded: Float[Tensor, "candidates dim"]
    ) -> Float[Tensor, "contexts candidates"]:
        summaries = self.attention.summaries(self.contexts(contexts), contexts.mask)
        return self.attention.score(summaries, encoded, self.attention.summarised(contexts.mask))


class CrossEncoder(Scorer):
    """Context and candidate are read together, as one text; a linear map of the pooled result is the score (4.3).

    Nothing but the candidates' embedding can be computed beforehand. A learned vector each tells the tokens of context
    and candidate apart.

    Arguments:
        encoder: reads the joined texts.
        pool: from the states of the joined text's tokens to one vector; their mean if not given.
    """

    def __init__(self, encoder: Encoder, *, pool: Pool | None = None):
        super().__init__()
        self.encoder = encoder
        self.kinds = nn.Parameter(0.02 * torch.randn(2, encoder.dim))
        self.pool = MeanPool(encoder.dim) if pool is None else pool
        self.last = nn.Linear(encoder.dim, 1)

    def encode_candidates(self, candidates: Texts) -> Texts:
        return Texts(self.encoder.embed(candidates.tokens) + self.kinds[1], candidates.mask)

    def score_encoded(self, contexts: Texts, encoded: Texts) -> Float[Tensor, "contexts candidates"]:
        own = self.encoder.embed(contexts.tokens) + self.kinds[0]
        first, second = len(contexts), len(encoded)
        tokens = torch.cat([_repeat(own, second, 1), _repeat(encoded.tokens, first, 0)], 2).flatten(0, 1)
        mask = torch.cat([_repeat(contexts.mask, second, 1), _repeat(encoded.mask, first, 0)], 2).flatten(0, 1)
        states = self.encoder.trunk(tokens, mask=mask)
        return self.last(self.pool(states, mask)).view(first, second)


def _repeat(x: Tensor, times: int, axis: int) -> Tensor:
    """``x`` again and again along a new axis."""
    return x.unsqueeze(axis).expand(*x.shape[:axis], times, *x.shape[axis:])
