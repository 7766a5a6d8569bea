"""A dictionary in both directions: from a definition to its word, and back (Chen and Zhao 2022, arXiv 2205.04602)."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.models.decode import END, beam, greedy
from anabranch.models.positions import SinusoidalPositions
from anabranch.nn.fusion.shared_code import SharedCode, perceptron
from anabranch.nn.streaming import State

Term = Literal["codes", "word_from_word", "word_from_definition", "definition_from_word", "definition_from_definition"]
TERMS: tuple[Term, ...] = (
    "codes",
    "word_from_word",
    "word_from_definition",
    "definition_from_word",
    "definition_from_definition",
)


class DualDictionary(nn.Module):
    """Words and definitions meet in one code, from which both can be had.

    A word's vector goes through a perceptron ``E``, a definition through a transformer encoder, whose outputs are
    summed; then both go through the same perceptron ``S``. From the code, ``D`` makes a word's vector; a linear map of
    it, put before a definition, starts a causal transformer that writes it. One embedding serves encoder, decoder and
    output layer. A word that was never seen can be defined if its vector is known.

    Two starts differ from the paper's, and make training shorter. The embedding is scaled up to the positions where it
    is read (the authors' code leaves it small). ``D``'s last layer is a hundredth of its size: definitions foretell
    only a small part of a word's vector, and while a net unlearns a random start, it silences the code.

    Arguments:
        vocabulary: number of different tokens in definitions; 0 ends a definition and fills it up.
        word_dim: length of a word's vector.
        dim: width of codes and tokens.
        depth, heads: of encoder and decoder, whose feed-forward layers are twice as wide as ``dim``.
        shared: whether words and definitions share ``S``; else each has its own.
        dropout, inner_dropout: in the transformers, and in the perceptrons.
    """

    def __init__(
        self,
        vocabulary: int,
        word_dim: int,
        *,
        dim: int = 256,
        depth: int = 4,
        heads: int = 4,
        shared: bool = True,
        dropout: float = 0.3,
        inner_dropout: float = 0.2,
    ):
        super().__init__()
        if dim % heads or vocabulary < 2:
            raise ValueError(
                f"expected a dim that is a multiple of heads and 2 tokens or more; got {dim}, {heads} and {vocabulary}"
            )
        self.embedding = nn.Embedding(vocabulary, dim)
        self.positions = SinusoidalPositions(dim)
        self.dropout = nn.Dropout(dropout)
        self.encoder = _transformer(dim, depth, heads, dropout)
        self.decoder = _transformer(dim, depth, heads, dropout)
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        into = {"word": perceptron(word_dim, dim, dim, inner_dropout), "definition": nn.Linear(dim, dim)}
        to_word = perceptron(dim, dim, word_dim, inner_dropout)
        out = {
            "word": to_word,
            "definition": nn.Sequential(nn.Dropout(inner_dropout), nn.Linear(dim, dim)),
        }
        self.middle = SharedCode(into, out, dim, dropout=inner_dropout, shared=shared)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        *_, last, _ = to_word.parameters()
        nn.init.xavier_uniform_(last, gain=0.01)

    def embed(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time dim"]:
        """Vectors of tokens, as large as the positions that are added to them."""
        return self.embedding(tokens) * self.embedding.embedding_dim**0.5

    def code_of_words(self, words: Float[Tensor, "batch word"]) -> Float[Tensor, "batch dim"]:
        """The codes of words, from their vectors."""
        return self.middle.encode("word", words)

    def code_of_definitions(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch dim"]:
        """The codes of definitions, padded with 0."""
        padding = tokens == END
        x = self.dropout(self.embed(tokens) + self.positions(tokens.shape[1]))
        states = self.encoder(x, src_key_padding_mask=padding)
        return self.middle.encode("definition", states.masked_fill(padding[..., None], 0).sum(1).relu())

    def words(self, codes: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch word"]:
        """The vectors of the words that codes stand for."""
        return self.middle.decode("word", codes)

    def states(
        self, codes: Float[Tensor, "batch dim"], tokens: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time_and_one dim"]:
        """What the decoder holds before every token of a definition and behind the last."""
        x = torch.cat([self.middle.decode("definition", codes)[:, None], self.embed(tokens)], 1)
        x = self.dropout(x + self.positions(x.shape[1]))
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        # What stands behind a definition's end is later than all that is scored, so it needs no mask.
        return self.decoder(x, mask=later)

    def scores(self, states: Float[Tensor, "*places dim"]) -> Float[Tensor, "*places vocabulary"]:
        """Logits of the next token, by the embedding that reads."""
        return F.linear(states, self.embedding.weight, self.bias)

    def logits(
        self, codes: Float[Tensor, "batch dim"], tokens: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch time_and_one vocabulary"]:
        """At each place, of the next token of a definition: first before all tokens, last after all of them."""
        return self.scores(self.states(codes, tokens))

    def losses(
        self,
        words: Float[Tensor, "batch word"],
        tokens: Int[Tensor, "batch time"],
        terms: tuple[Term, ...] = TERMS,
        smoothing: float = 0.1,
    ) -> dict[str, Float[Tensor, ""]]:
        """The terms of the loss, which the paper sums; only what the asked terms need is computed.

        Codes that are all alike meet ``"codes"`` best: in a short training watch their variance, or leave it out.

        Arguments:
            words: the words' vectors.
            tokens: their definitions, padded with 0.
            smoothing: share of the target's probability that is spread over all tokens.
        """
        code_w = self.code_of_words(words) if any("from_word" in t or t == "codes" for t in terms) else None
        code_d = self.code_of_definitions(tokens) if any("from_def" in t or t == "codes" for t in terms) else None
        right = targets(tokens)
        scored = right != UNSCORED
        found: dict[str, Tensor] = {}
        for term in terms:
            if term == "codes":
                assert code_w is not None and code_d is not None
                found[term] = self.middle.disagreement([code_w, code_d])
                continue
            code = code_w if term.endswith("from_word") else code_d
            assert code is not None
            if term.startswith("word"):
                found[term] = F.mse_loss(self.words(code), words)
            else:
                # The output layer is most of the work: nothing behind a definition's end goes through it.
                logits = self.scores(self.states(code, tokens)[scored])
                found[term] = F.cross_entropy(logits, right[scored], label_smoothing=smoothing)
        return found

    def step(self, words: Int[Tensor, "batch"], state: State) -> tuple[Float[Tensor, "batch vocabulary"], State]:
        """What may follow in definitions of which the newest token is ``words``; see :mod:`anabranch.models.decode`."""
        text = torch.cat([state["text"], words[:, None]], 1)
        newest = self.states(state["code"], text[:, 1:])[:, -1]
        return self.scores(newest), {"code": state["code"], "text": text}

    @torch.no_grad()
    def define(self, words: Float[Tensor, "batch word"], *, width: int = 6, longest: int = 30) -> list[list[int]]:
        """Definitions of words, the likeliest that a beam search finds; empty where none ends in time.

        Arguments:
            words: the words' vectors.
            width: of the beam. With 1, the likeliest next token is taken again and again.
            longest: most tokens, the end included.
        """
        codes = self.code_of_words(words)
        start = {"code": codes, "text": codes.new_zeros(len(codes), 0, dtype=torch.long)}
        if width == 1:
            rows = greedy(self.step, start, longest=longest).tolist()
            return [row[: row.index(END)] if END in row else [] for row in rows]
        found = []
        for code, text in zip(codes, start["text"], strict=True):
            best = beam(self.step, {"code": code[None], "text": text[None]}, width, longest=longest)
            found.append(list(best[0].words) if best else [])
        return found


UNSCORED = -100


def targets(tokens: Int[Tensor, "batch time"]) -> Int[Tensor, "batch time_and_one"]:
    """The tokens and one end behind them; what follows is not scored."""
    longer = F.pad(tokens, (0, 1), value=END)
    behind = torch.arange(longer.shape[1], device=tokens.device) > (tokens != END).sum(1, keepdim=True)
    return longer.masked_fill(behind, UNSCORED)


def _transformer(dim: int, depth: int, heads: int, dropout: float) -> nn.TransformerEncoder:
    layer = nn.TransformerEncoderLayer(dim, heads, 2 * dim, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
