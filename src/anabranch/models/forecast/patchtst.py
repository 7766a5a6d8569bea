"""PatchTST: a time series is worth 64 words (Nie et al. 2022, arXiv 2211.14730)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from anabranch.models.forecast.base import ChannelMode, Forecaster, Norm
from anabranch.models.forecast.patching import FlattenHead, Padding, count_patches, patchify
from anabranch.nn.norm.window import WindowNorm
from anabranch.spaces import Choice, Range, Space

Scores = Float[Tensor, "rows heads tokens tokens"]


class PatchAttention(nn.Module):
    """Multi-head attention whose scores, before the softmax, are added to those of the layer below.

    Residual scores come from RealFormer (He et al. 2020); the paper's code uses them throughout.
    """

    def __init__(self, dim: int, heads: int, *, residual_scores: bool):
        super().__init__()
        self.heads, self.residual_scores = heads, residual_scores
        self.width = max(1, dim // heads)
        self.qkv = nn.Linear(dim, 3 * heads * self.width)
        self.out = nn.Linear(heads * self.width, dim)

    def forward(
        self, x: Float[Tensor, "rows tokens dim"], below: Scores | None
    ) -> tuple[Float[Tensor, "rows tokens dim"], Scores | None]:
        """Attend; return the output and the scores for the layer above."""
        rows, tokens, _ = x.shape
        q, k, v = self.qkv(x).view(rows, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        if self.residual_scores:
            scores = (q * self.width**-0.5) @ k.transpose(-2, -1)
            scores = scores if below is None else scores + below
            y = scores.softmax(-1) @ v
        else:
            scores = None
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(rows, tokens, -1)), scores


class TokenBatchNorm(nn.BatchNorm1d):
    """Batch normalisation of each feature over all tokens of all rows."""

    def forward(self, x: Float[Tensor, "rows tokens dim"]) -> Float[Tensor, "rows tokens dim"]:
        return super().forward(x.flatten(0, 1)).view_as(x)


class PatchTSTLayer(nn.Module):
    """Attention and feed-forward, each followed by a residual and a batch normalisation (post-norm)."""

    def __init__(self, dim: int, heads: int, hidden: int, *, dropout: float, residual_scores: bool):
        super().__init__()
        self.attention = PatchAttention(dim, heads, residual_scores=residual_scores)
        self.norm1, self.norm2 = TokenBatchNorm(dim), TokenBatchNorm(dim)
        self.feedforward = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "rows tokens dim"], below: Scores | None
    ) -> tuple[Float[Tensor, "rows tokens dim"], Scores | None]:
        y, scores = self.attention(x, below)
        x = self.norm1(x + self.dropout(y))
        return self.norm2(x + self.dropout(self.feedforward(x))), scores


class PatchTST(Forecaster):
    """Transformer over patches of each channel, with one linear head over all of them.

    Attention costs ``tokens ** 2``, and a stride of S leaves about ``past / S`` tokens. In mode ``"mixed"`` a patch
    holds the values of all channels: the paper's ablation.

    Arguments:
        dim: width of a token. The paper uses 128, and 16 for small data.
        heads: attention heads, each of ``dim // heads`` features; 16, or 4 for small data.
        layers: number of encoder layers.
        hidden: width of the feed-forward layers; ``2 * dim`` if not given (the paper's small setting has ``8 * dim``).
        patch, stride: length of a patch and distance between two, both no longer than the window.
        pad: ``"end"`` as in supervised training, None as in masked pretraining; see :func:`patchify`.
        residual_scores: add the attention scores of the layer below to those of each layer, before the softmax.
        dropout: after the embedding, in the feed-forward layers and on what each half of a layer adds.

    See :class:`Forecaster` for ``channels``, ``past``, ``future``, ``channel_mode`` and ``norm``.
    """

    space: ClassVar[Space] = {
        "patch": Choice(16, 8, 32),
        "layers": Choice(3, 2),
        "dropout": Range(0.0, 0.4, default=0.2),
    }

    def __init__(
        self,
        channels: int,
        past: int,
        future: int,
        *,
        dim: int = 128,
        heads: int = 16,
        layers: int = 3,
        hidden: int | None = None,
        patch: int = 16,
        stride: int = 8,
        pad: Padding = "end",
        residual_scores: bool = True,
        dropout: float = 0.2,
        channel_mode: ChannelMode = "independent",
        norm: Norm | None = WindowNorm,
    ):
        super().__init__(channels, past, future, channel_mode=channel_mode, norm=norm)
        if min(dim, heads, layers, patch, stride) < 1:
            raise ValueError(
                f"dim, heads, layers, patch and stride must be at least 1; "
                f"got {dim}, {heads}, {layers}, {patch} and {stride}"
            )
        self.dim, self.hidden = dim, hidden or 2 * dim
        self.features = heads * max(1, dim // heads)  # of all heads together
        self.patch = min(patch, past)
        self.pad: Padding = pad
        self.stride = min(stride, self.patch)
        self.tokens = count_patches(past, self.patch, self.stride, pad)
        self.embed = nn.Linear(self.patch * self.seen, dim)
        self.position = nn.Parameter(torch.empty(self.tokens, dim).uniform_(-0.02, 0.02))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            PatchTSTLayer(dim, heads, self.hidden, dropout=dropout, residual_scores=residual_scores)
            for _ in range(layers)
        )
        self.head = FlattenHead(self.tokens, dim, future * self.seen)

    def predict(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows future seen"]:
        return self.head(self.encode(self.patches(window))).view(-1, self.future, self.seen)

    def patches(self, window: Float[Tensor, "rows past seen"]) -> Float[Tensor, "rows tokens values"]:
        """The tokens' values: a patch of each channel that is seen, one after the other."""
        return patchify(window.transpose(1, 2), self.patch, self.stride, self.pad).transpose(1, 2).flatten(2)

    def encode(self, patches: Float[Tensor, "rows tokens values"]) -> Float[Tensor, "rows tokens dim"]:
        """Everything but the head."""
        x = self.dropout(self.embed(patches) + self.position)
        scores = None
        for layer in self.layers:
            x, scores = layer(x, scores)
        return x

    def attention_cost(self) -> int:
        """Multiply-adds of all attention scores and of the means they weight, one window, all channels."""
        return self.channels // self.seen * len(self.layers) * 2 * self.features * self.tokens**2

    def cost(self) -> int:
        per_layer = 4 * self.dim * self.features + 2 * self.dim * self.hidden
        per_token = self.dim * (self.patch * self.seen + self.future * self.seen) + len(self.layers) * per_layer
        return self.channels // self.seen * per_token * self.tokens + self.attention_cost()
