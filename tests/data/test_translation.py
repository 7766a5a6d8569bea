from math import log

import pytest

from anabranch.data.translation import PhraseSystem, lexical_table, lexical_weight, phrase_pairs

PAIRS = [
    (("argentine", "peso"), ("peso", "argentin")),
    (("argentine", "dollar"), ("dollar", "argentin")),
    (("cuban", "peso"), ("peso", "cubain")),
    (("cuban", "franc"), ("franc", "cubain")),
    (("swiss", "franc"), ("franc", "suisse")),
]


def test_one_round_of_alignment_is_counted_by_hand():
    table = lexical_table([(("a",), ("x",)), (("a", "b"), ("x", "y"))], rounds=1)
    # Expected counts of a: x gets 1/2 + 1/3, y gets 1/3; of b: x and y get 1/3 each.
    assert table["a", "x"] == pytest.approx((5 / 6) / (7 / 6))
    assert table["b", "y"] == pytest.approx(1 / 2)
    assert sum(p for (s, _), p in table.items() if s == "a") == pytest.approx(1)


def test_alignment_finds_the_words_that_go_together():
    table = lexical_table(PAIRS, rounds=30)
    for s, t in [("argentine", "argentin"), ("peso", "peso"), ("cuban", "cubain"), ("franc", "franc")]:
        assert table[s, t] > 0.8
    right = lexical_weight(table, ("cuban", "peso"), ("peso", "cubain"))
    assert right > lexical_weight(table, ("cuban", "peso"), ("franc", "suisse")) + 3
    assert lexical_weight({("a", "x"): 0.5}, ("a",), ("x",), floor=0.0) == pytest.approx(log(0.25))


def test_phrase_pairs_agree_with_the_links_and_may_take_free_words_along():
    found = set(phrase_pairs(("a", "b"), ("x", "free", "y"), {(0, 0), (1, 2)}, longest=2))
    assert found == {
        *((("a",), ("x",)), (("a",), ("x", "free")), (("b",), ("y",)), (("b",), ("free", "y"))),
        (("a", "b"), ("x", "free", "y")),
    }
    assert set(phrase_pairs(("a", "b"), ("x", "y"), {(0, 0), (1, 0), (1, 1)}, longest=2)) == {
        (("a", "b"), ("x", "y")),
    }


def test_an_unseen_combination_is_among_the_candidates_once_with_its_features():
    system = PhraseSystem(PAIRS)
    candidates = system.candidates(("swiss", "peso"), 50)
    said = [candidate.words for candidate in candidates]
    assert ("peso", "suisse") in said and ("suisse", "peso") in said
    assert len(set(said)) == len(said)
    assert all(len(candidate.features) == len(PhraseSystem.features) for candidate in candidates)
    features = dict(zip(PhraseSystem.features, candidates[said.index(("peso", "suisse"))].features, strict=True))
    assert features["moves"] == 3  # to the second word, back over both, and no move after that
    assert features["pieces"] == 2 and features["length"] == 2
    assert features["frequency"] == pytest.approx((log(3) + log(2)) / 2)


def test_a_word_that_was_never_seen_is_copied():
    assert PhraseSystem(PAIRS).candidates(("zzz",), 5)[0].words == ("zzz",)
