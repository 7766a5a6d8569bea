"""Pooling by second moments and a little attention (Ryu, Han and Lim 2023, arXiv 2310.16483)."""

from math import gcd
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.nn.feedforward import MLP
from anabranch.nn.mixing import ConvMixing
from anabranch.nn.mixing.base import Grid
from anabranch.nn.mixing.grid import hide
from anabranch.nn.norm import LayerNorm
from anabranch.nn.pool.base import Pool
from anabranch.spaces import Choice, Space


class GramianPool(Pool):
    """One Gramian attention head without its classifier: which channels go together, then one look at the tokens.

    The tokens are narrowed to ``gram_dim`` channels (linear map, batch norm, one ConvNeXt block); the products of all
    pairs of channels, averaged over the tokens and brought to length 1, become a class token (grouped linear map, batch
    norm). The class token then reads the tokens by attention and passes a grouped perceptron, each on a residual branch
    that starts at 1e-4 (section 3.1). Several of them with a classifier each make
    :class:`anabranch.models.GramianHeads`.

    Arguments:
        dim: channels of a token.
        gram_dim: channels whose products are taken, ``c`` in the paper.
        grid: how the tokens lie, for the ConvNeXt block; in one line if not given.
        heads, attention_dim: of the class token's attention.
        groups: of the linear maps on the class token; the largest common divisor with ``dim`` is taken.

    Raises: ``ValueError`` in training on a batch with less than two samples that have tokens: a batch norm needs more
        than one value per channel.
    """

    space: ClassVar[Space] = {"gram_dim": Choice(192, 48)}

    def __init__(
        self,
        dim: int,
        *,
        gram_dim: int = 192,
        grid: Grid | None = None,
        heads: int = 8,
        attention_dim: int = 128,
        groups: int = 8,
    ):
        super().__init__(dim)
        if gram_dim < 1 or heads < 1 or attention_dim % heads:
            raise ValueError(
                f"expected gram_dim and heads of at least 1, and heads that divide attention_dim; "
                f"got {gram_dim}, {heads} and {attention_dim}"
            )
        self.grid, self.heads, groups = grid, heads, gcd(groups, dim)
        self.narrow = nn.Linear(dim, gram_dim, bias=False)
        self.narrow_norm = nn.BatchNorm1d(gram_dim)
        self.convolve = ConvMixing(gram_dim, window=7, grid=grid)
        self.convolve_norm, self.channel = LayerNorm(gram_dim), MLP(gram_dim)
        self.convolve_scale = nn.Parameter(torch.full((gram_dim,), 1e-6))
        pairs = gram_dim * (gram_dim + 1) // 2
        self.padding = -pairs % groups
        self.embed = nn.Conv1d(pairs + self.padding, dim, 1, groups=groups, bias=False)
        self.embed_norm = nn.BatchNorm1d(dim)
        self.norm1, self.norm2 = LayerNorm(dim), LayerNorm(dim)
        self.query, self.key_value = nn.Linear(dim, attention_dim), nn.Linear(dim, 2 * attention_dim)
        self.project = nn.Linear(attention_dim, dim)
        self.widen, self.activation = nn.Conv1d(dim, 4 * dim, 1, groups=groups), nn.GELU()
        self.back = nn.Conv1d(4 * dim, dim, 1, groups=groups)
        self.scale1 = nn.Parameter(torch.full((dim,), 1e-4))
        self.scale2 = nn.Parameter(torch.full((dim,), 1e-4))

    def pool(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch out"]:
        if self.training and (samples := len(x) if mask is None else int(mask.any(1).sum())) < 2:
            raise ValueError(f"GramianPool expected two samples with tokens or more in training; got {samples}")
        x = hide(x, mask)
        token = self.class_token(self.features(x, mask), mask)
        token = token + self.scale1 * self.read(token, x, mask)
        hidden = self.activation(self.widen(self.norm2(token)[:, :, None]))
        token = token + self.scale2 * self.back(hidden)[:, :, 0]
        return token if mask is None else token.where(mask.any(1, keepdim=True), 0)

    def features(
        self, x: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch time gram_dim"]:
        """What the products are taken of."""
        f = normalise_existing(self.narrow_norm, self.narrow(x), mask)
        update = self.channel(self.convolve_norm(self.convolve(f, mask=mask, grid=self.grid)))
        return hide(f + self.convolve_scale * update, mask)

    def class_token(
        self, features: Float[Tensor, "batch time gram_dim"], mask: Bool[Tensor, "batch time"] | None
    ) -> Float[Tensor, "batch dim"]:
        count = features.shape[1] if mask is None else mask.sum(1, keepdim=True).clamp(min=1)
        pairs = F.normalize(gram_triangle(features) / count, dim=1).to(self.embed.weight.dtype)
        token = self.embed(F.pad(pairs, (0, self.padding))[:, :, None])
        return normalise_existing(self.embed_norm, token.mT, None if mask is None else mask.any(1, keepdim=True))[:, 0]

    def read(
        self,
        token: Float[Tensor, "batch dim"],
        x: Float[Tensor, "batch time dim"],
        mask: Bool[Tensor, "batch time"] | None,
    ) -> Float[Tensor, "batch dim"]:
        """Attention with the class token as the only query, over itself and the tokens."""
        u = self.norm1(torch.cat([token[:, None], x], dim=1))
        query, (key, value) = self.query(u[:, :1]), self.key_value(u).chunk(2, dim=-1)
        query, key, value = (part.unflatten(2, (self.heads, -1)).transpose(1, 2) for part in (query, key, value))
        readable = None if mask is None else F.pad(mask, (1, 0), value=True)[:, None, None]
        return self.project(F.scaled_dot_product_attention(query, key, value, attn_mask=readable).flatten(1))


def normalise_existing(
    norm: nn.BatchNorm1d, x: Float[Tensor, "batch time channels"], mask: Bool[Tensor, "batch time"] | None
) -> Float[Tensor, "batch time channels"]:
    """Batch norm whose statistics are those of the tokens that exist; zeros in the place of the others."""
    if mask is None or not norm.training:
        return hide(norm(x.mT).mT, mask)
    existing = norm(x[mask])
    return existing.new_zeros(x.shape).index_put((mask,), existing)


def gram_triangle(features: Float[Tensor, "batch time channels"]) -> Float[Tensor, "batch pairs"]:
    """Sums over the tokens of the products of all pairs of channels, each pair once; never in half precision.

    Permuting the tokens, or turning all signs, changes nothing.
    """
    channels = features.shape[2]
    row, column = torch.triu_indices(channels, channels, device=features.device)
    with torch.autocast(features.device.type, enabled=False):
        full = features if features.dtype == torch.float64 else features.float()
        return (full.mT @ full)[:, row, column]


def diverse_heads_loss(
    logits: Float[Tensor, "batch heads classes"], target: Tensor, *, weight: float = -0.8
) -> Float[Tensor, ""]:
    """Cross-entropy of every head, plus ``weight`` times how far each is from what all say together (equation 4).

    The distance is the divergence of a head's probabilities from those of the mean logit, averaged over samples and
    classes. A negative weight drives the heads apart; the paper's is -0.8. The mean is held constant, as in the paper;
    no gradient would pass it anyway, for summed over the heads the distance is stationary in it.

    Arguments:
        logits: of every head.
        target: the classes, ``(batch,)``.
        weight: ``lambda`` in the paper.

    Returns: the sum over the heads.
    """
    heads = logits.shape[1]
    right = F.cross_entropy(logits.flatten(0, 1), target.repeat_interleave(heads)) * heads
    together = logits.detach().mean(1, keepdim=True).softmax(-1).expand_as(logits)
    apart = F.kl_div(logits.log_softmax(-1), together, reduction="none").mean((0, 2)).sum()
    return right + weight * apart
