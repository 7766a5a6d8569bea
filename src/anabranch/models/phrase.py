"""The recurrent encoder-decoder that scores phrase pairs (Cho et al. 2014, arXiv 1406.1078, section 2, appendix A)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from anabranch.nn.recurrent.cho import ChoGRUCell

END = 0


class PhraseEncoderDecoder(nn.Module):
    """Probability of a target phrase given a source phrase, through one vector of fixed size.

    The encoder is a :class:`~anabranch.nn.recurrent.ChoGRUCell`; its last state gives the summary ``c = tanh(V h_N)``.
    The decoder starts from ``h'_0 = tanh(V' c)`` and reads the target word before and ``c`` in every gate:

    ``z' = σ(W_z e + U_z h' + C_z c)``, ``r' = σ(W_r e + U_r h' + C_r c)``,
    ``h~ = tanh(W e + r' * (U h' + C c))``, ``h'' = z' * h' + (1 - z') * h~``,

    where, unlike in the encoder, the reset gate acts after the matrix. The logits are ``G_l G_r s`` with a rank of
    ``embed``, and ``s`` the maxima of pairs of ``O_h h'' + O_e e + O_c c``. Each sum has a bias, which the paper leaves
    out of its formulas. Embedding of the word before the first: zeros. As in the paper, recurrent matrices start
    orthogonal; the others as torch does it, by their width, since the paper's standard deviation of 0.01 everywhere
    leaves networks of fewer units without a signal.

    A phrase is a row of numbers of words, of which 0 is the end of the phrase; what stands behind the first 0 counts
    for nothing. The end is read by the encoder and predicted by the decoder.

    Arguments:
        source_words, target_words: sizes of the vocabularies, with the end.
        dim: units of encoder and decoder. The paper's numbers are the defaults.
        embed: width of the embeddings.
        maxout: number of maxima.
    """

    def __init__(self, source_words: int, target_words: int, *, dim: int = 1000, embed: int = 100, maxout: int = 500):
        super().__init__()
        if min(source_words, target_words) < 2:
            raise ValueError(f"a vocabulary has at least one word and the end; got {source_words} and {target_words}")
        self.source_words, self.target_words = source_words, target_words
        self.source_embedding = nn.Embedding(source_words, embed)
        self.target_embedding = nn.Embedding(target_words, embed)
        self.encoder = ChoGRUCell(embed, dim)
        self.summary = nn.Linear(dim, dim)
        self.start = nn.Linear(dim, dim)
        self.from_word = nn.Linear(embed, 3 * dim)  # rows in the order z, r, h~, here and in the next two
        self.from_state = nn.Linear(dim, 3 * dim, bias=False)
        self.from_summary = nn.Linear(dim, 3 * dim)
        self.maxout_state = nn.Linear(dim, 2 * maxout)
        self.maxout_word = nn.Linear(embed, 2 * maxout, bias=False)
        self.maxout_summary = nn.Linear(dim, 2 * maxout, bias=False)
        self.low_rank = nn.Linear(maxout, embed, bias=False)
        self.output = nn.Linear(embed, target_words)
        for block in self.from_state.weight.detach().split(dim):
            nn.init.orthogonal_(block)

    def forward(
        self, source: Int[Tensor, "batch source_time"], target: Int[Tensor, "batch target_time"]
    ) -> Float[Tensor, "batch"]:
        """``log p(target | source)`` of every pair, the end of the target included."""
        following = F.pad(target, (0, 1), value=END)
        logits = self.logits(self.encode(source), target)
        losses = F.cross_entropy(logits.transpose(1, 2), following, reduction="none")
        first = F.pad(before_end(target), (1, 0), value=True)  # the end itself is predicted too
        return -(losses * first).sum(1)

    def encode(self, source: Int[Tensor, "batch source_time"]) -> Float[Tensor, "batch dim"]:
        """The summary ``c`` of each phrase."""
        check(source, self.source_words, "source")
        words = F.pad(source, (0, 1), value=END)
        _, last = self.encoder(self.source_embedding(words), lengths=before_end(source).sum(1) + 1)
        return torch.tanh(self.summary(last))

    def logits(
        self, c: Float[Tensor, "batch dim"], target: Int[Tensor, "batch target_time"]
    ) -> Float[Tensor, "batch target_time+1 target_words"]:
        """Logits of every target word and of the end, each given the true words before it."""
        check(target, self.target_words, "target")
        before = F.pad(self.target_embedding(target), (0, 0, 1, 0))
        h, states = torch.tanh(self.start(c)), []
        c_sums, word_sums = self.from_summary(c), self.from_word(before)
        for word in word_sums.unbind(1):
            h = self.advance(word, c_sums, h)
            states.append(h)
        return self.readout(torch.stack(states, dim=1), before, c)

    def advance(
        self, word: Float[Tensor, "batch gates"], c: Float[Tensor, "batch gates"], h: Float[Tensor, "batch dim"]
    ) -> Float[Tensor, "batch dim"]:
        """The decoder's next state, given the share of word and summary in the sums."""
        split = [2 * h.shape[1], h.shape[1]]
        word_gates, word_h = word.split(split, dim=1)
        rest_gates, rest_h = torch.addmm(c, h, self.from_state.weight.t()).split(split, dim=1)
        z, r = torch.sigmoid(word_gates + rest_gates).chunk(2, dim=1)
        return torch.lerp(torch.tanh(torch.addcmul(word_h, r, rest_h)), h, z)

    def readout(
        self,
        h: Float[Tensor, "batch time dim"],
        before: Float[Tensor, "batch time embed"],
        c: Float[Tensor, "batch dim"],
    ) -> Float[Tensor, "batch time target_words"]:
        sums = self.maxout_state(h) + self.maxout_word(before) + self.maxout_summary(c)[:, None]
        return self.output(self.low_rank(sums.unflatten(-1, (-1, 2)).amax(-1)))

    @torch.no_grad()
    def translate(
        self, source: Int[Tensor, "batch source_time"], *, longest: int = 20
    ) -> Int[Tensor, "batch target_time"]:
        """The likeliest word at every step, until all phrases have ended or have ``longest`` words."""
        c = self.encode(source)
        c_sums, h = self.from_summary(c), torch.tanh(self.start(c))
        before, words = torch.zeros_like(self.target_embedding(source[:, :0].sum(1))), []
        running = torch.ones_like(source[:, :0].sum(1), dtype=torch.bool)
        while len(words) < longest and running.any():
            h = self.advance(self.from_word(before), c_sums, h)
            word = self.readout(h[:, None], before[:, None], c)[:, 0].argmax(-1) * running
            running = running & (word != END)
            before = self.target_embedding(word)
            words.append(word)
        return torch.stack(words, dim=1)


def before_end(phrases: Int[Tensor, "batch time"]) -> Tensor:
    """True for the words that stand before the first end."""
    return (phrases != END).cummin(1).values if phrases.shape[1] else phrases.bool()


def check(phrases: Tensor, words: int, which: str) -> None:
    """Numbers of words must be in the vocabulary; torch's own error would not say which they are."""
    if phrases.ndim != 2:
        raise ValueError(f"expected {which} phrases (batch, time); got {tuple(phrases.shape)}")
    if phrases.numel() and not 0 <= int(phrases.min()) <= int(phrases.max()) < words:
        raise ValueError(
            f"expected {which} words from 0 to {words - 1}; got {int(phrases.min())} to {int(phrases.max())}"
        )
