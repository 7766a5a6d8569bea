import math

import pytest

from anabranch.metrics import bleu


def test_a_right_text_scores_one_whichever_of_the_right_ones_it_is():
    choices = ["a", "small", "dog", "of", "old"], ["an", "animal"]
    assert bleu(choices, [choices, choices]) == pytest.approx(1.0)


def test_shares_of_runs_are_averaged_geometrically():
    # Runs: 3 of 4 words, and with one added to both, 2 of 4, 1 of 3 and 1 of 2.
    expected = math.exp(sum(map(math.log, (3 / 4, 2 / 4, 1 / 3, 1 / 2))) / 4)
    assert bleu([list("abxd")], [[list("abcd")]]) == pytest.approx(expected)
    assert bleu([list("xyz")], [[list("abc")]]) == 0.0
    assert bleu([[]], [[list("abc")]]) == 0.0


def test_a_word_counts_no_more_often_than_a_right_text_has_it():
    assert bleu([list("aaaa")], [[list("abcd"), list("aacd")]], longest=1) == pytest.approx(2 / 4)


def test_shorter_texts_than_the_nearest_right_one_are_penalised():
    assert bleu([list("ab")], [[list("abcd"), list("abcdefgh")]], longest=1) == pytest.approx(math.exp(1 - 4 / 2))
    assert bleu([list("abcd")], [[list("abc")]], longest=1) == pytest.approx(3 / 4)
