"""Verifying runs every seed, judges by the rule, and writes a record that goes stale when rule or code change."""

import json
import sys
from dataclasses import replace
from types import ModuleType

import pytest

from anabranch.claims import Claim, Evidence, Rule, _evidence, _verify
from anabranch.claims._plot import strip, svg
from anabranch.errors import InputError

CLAIM = Claim(
    paper="toy",
    statement="Twice is more than once.",
    rules=(Rule("twice.gain - once.gain", ">", 0.5), Rule("once.gain", ">=", 1.0)),
    seeds=4,
    minutes=0.1,
    smaller="Everything.",
)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """A paper called toy with a claim in a file of its own."""
    path = tmp_path / "toy.py"
    path.write_text('"""Docstring."""\nX = 1\n')
    module = ModuleType("toy_claim")
    module.CLAIM = CLAIM
    module.measure = lambda seed: {"once.gain": 1.0 + seed / 10, "twice.gain": 2.0 + seed / 5}
    monkeypatch.setitem(sys.modules, "toy_claim", module)
    monkeypatch.setattr(_evidence, "claims", lambda: ["toy"])
    monkeypatch.setattr(_evidence, "_module", lambda slug: f"{slug}_claim")
    monkeypatch.setattr(_evidence, "sources", lambda slug: {"anabranch.claims.toy": path})
    monkeypatch.setattr(_evidence, "evidence_folder", lambda: tmp_path)
    _evidence._behaviour_hash.cache_clear()
    yield path
    _evidence._behaviour_hash.cache_clear()


def test_the_record_holds_what_is_needed_to_doubt_it(toy, tmp_path):
    seen = []
    evidence = _verify.verify("toy", folder=tmp_path, on_seed=lambda seed, seconds: seen.append(seed))
    assert seen == [0, 1, 2, 3]
    assert evidence.verdict == "holds"
    data = json.loads((tmp_path / "toy.json").read_text())
    assert data["verdict"] == "holds"
    assert data["measurements"][3] == {"once.gain": 1.3, "twice.gain": 2.6}
    assert data["rules"][0]["values"] == pytest.approx([1.0, 1.1, 1.2, 1.3])
    assert data["versions"]["torch"] and data["machine"]["cores"]
    assert isinstance(_evidence.recorded("toy"), Evidence)
    assert _evidence.stale(_evidence.recorded("toy")) == []


def test_the_finding_counts_the_rules_that_speak_of_the_paper(toy, monkeypatch):
    rules = (*CLAIM.rules, Rule("once.gain", ">=", 9.0), Rule("once.gain", ">=", 1.0, check=True))
    monkeypatch.setattr(sys.modules["toy_claim"], "CLAIM", replace(CLAIM, rules=rules))
    evidence = _verify.verify("toy", draft=True)
    assert (evidence.verdict, evidence.finding) == ("holds in part", "holds in part (2 of 3 rules)")
    rules = (*CLAIM.rules, Rule("once.gain", ">=", 9.0, check=True))
    monkeypatch.setattr(sys.modules["toy_claim"], "CLAIM", replace(CLAIM, rules=rules))
    assert _verify.verify("toy", draft=True).finding == "holds in part (2 of 2 rules; a check does not)"
    monkeypatch.setattr(sys.modules["toy_claim"], "CLAIM", CLAIM)
    assert _verify.verify("toy", draft=True).finding == "holds"


def test_a_changed_rule_or_code_makes_it_stale_but_not_a_changed_docstring(toy, tmp_path, monkeypatch):
    evidence = _verify.verify("toy", folder=tmp_path)
    toy.write_text('"""Another docstring."""\n\nX  =  1  # a comment\n')
    _evidence._behaviour_hash.cache_clear()
    assert _evidence.stale(evidence) == []
    toy.write_text('"""Docstring."""\nX = 2\n')
    _evidence._behaviour_hash.cache_clear()
    assert _evidence.stale(evidence) == ["anabranch.claims.toy has changed"]
    toy.write_text('"""Docstring."""\nX = 1\n')
    _evidence._behaviour_hash.cache_clear()
    other = Claim(paper="toy", statement="", rules=(Rule("once.gain", ">", 0),), seeds=4, minutes=1, smaller="")
    monkeypatch.setattr(sys.modules["toy_claim"], "CLAIM", other)
    assert _evidence.stale(evidence) == ["the decision rule is another"]


def test_uncommitted_code_is_refused_unless_it_is_a_draft(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(_evidence, "uncommitted", lambda slug: ["src/toy.py"])
    with pytest.raises(InputError, match=r"not committed: src/toy.py"):
        _verify.verify("toy", folder=tmp_path)
    assert _verify.verify("toy", folder=tmp_path, draft=True).verdict == "holds"
    assert not (tmp_path / "toy.json").exists()


def test_a_seed_that_fails_leaves_the_old_record(toy, tmp_path, monkeypatch):
    _verify.verify("toy", folder=tmp_path)
    before = (tmp_path / "toy.json").read_text()

    def measure(seed):
        raise RuntimeError("broke")

    monkeypatch.setattr(sys.modules["toy_claim"], "measure", measure)
    with pytest.raises(RuntimeError, match="broke"):
        _verify.verify("toy", folder=tmp_path)
    assert (tmp_path / "toy.json").read_text() == before
    assert not list(tmp_path.glob(".*.part"))


def test_evidence_of_another_version_is_named(toy, tmp_path):
    (tmp_path / "toy.json").write_text('{"format": 99}')
    with pytest.raises(InputError, match=r"expected evidence of format 1 in toy\.json; got 99"):
        _evidence.recorded("toy")
    (tmp_path / "toy.json").write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        _evidence.recorded("toy")


def test_the_pictures_show_the_bound_and_the_seeds(toy):
    evidence = _verify.verify("toy", draft=True)
    picture = svg(evidence)
    assert picture.count("<circle") == 8
    assert "twice.gain - once.gain &gt; 0.5" in picture
    assert "┃" in strip(evidence.rules[0]) and "●" in strip(evidence.rules[0])


def test_an_unknown_claim_is_an_input_error():
    with pytest.raises(InputError, match="unknown claim 'nope'"):
        _verify.verify("nope")


def test_evidence_rests_on_what_claims_share():
    modules = _evidence.sources("ahn")
    assert {"anabranch.claims.ahn", "anabranch.claims.common.language", "anabranch.nn.attention.hippocampal"} <= set(
        modules
    )
    assert modules["anabranch.claims.common.language"].name == "language.py"
    assert not any("common" in name for name in _evidence.sources("kan"))
