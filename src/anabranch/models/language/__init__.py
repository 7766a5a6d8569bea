"""Models of language, with a paper's choices: reading, answering, translating, tagging."""

from anabranch.models.language.dual_dictionary import DualDictionary
from anabranch.models.language.memn2n import MemN2N
from anabranch.models.language.minilm import MiniLM, load_minilm, sentence_vectors, token_states
from anabranch.models.language.poly_encoder import BiEncoder, CrossEncoder, PolyEncoder
from anabranch.models.language.reader import AttentiveLSTM, PairReader
from anabranch.models.language.robustfill import RobustFill, RobustFillInduction
from anabranch.models.language.scorer import Encoder, Scorer, Texts, ranks_among

__all__ = [
    "AttentiveLSTM",
    "BiEncoder",
    "CrossEncoder",
    "DualDictionary",
    "Encoder",
    "MemN2N",
    "MiniLM",
    "PairReader",
    "PolyEncoder",
    "RobustFill",
    "RobustFillInduction",
    "Scorer",
    "Texts",
    "load_minilm",
    "ranks_among",
    "sentence_vectors",
    "token_states",
]
