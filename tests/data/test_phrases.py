import sys

import pytest

from anabranch.data.phrases import KINDS, cldr_phrases, plain, words
from anabranch.errors import InputError


def test_names_come_in_two_languages_and_are_not_spelled_alike():
    pytest.importorskip("babel")
    phrases = cldr_phrases("fr")
    assert len(phrases) > 1000
    assert {phrase.kind for phrase in phrases} == set(KINDS)
    assert len({(phrase.source, phrase.target) for phrase in phrases}) == len(phrases)
    assert all(phrase.source != phrase.target for phrase in phrases)
    found = {phrase.source: phrase.target for phrase in phrases}
    assert found["germany",] == ("allemagne",)
    assert found["armenia", "standard", "time"] == ("heure", "normale", "de", "l'", "arménie")


def test_a_language_that_cldr_lacks_is_an_input_error():
    pytest.importorskip("babel")
    with pytest.raises(InputError, match="expected codes of languages"):
        cldr_phrases("xx")


def test_without_babel_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "babel", None)
    with pytest.raises(InputError, match=r"pip install 'anabranch\[data\]'"):
        cldr_phrases("fr")


def test_words_keep_years_and_hyphens_together_and_cut_off_elided_articles():
    assert words(plain("Heure d’été de l’Est (1968–2012), Saint-Marin")) == (
        *("heure", "d'", "été", "de", "l'", "est", "(", "1968–2012", ")", ",", "saint-marin"),
    )
