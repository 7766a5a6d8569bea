"""A decision rule is arithmetic over measurements, judged by the interval over the seeds."""

import math

import pytest

from anabranch.claims import Claim, Rule


def claim(*rules: Rule, seeds: int = 3) -> Claim:
    return Claim(paper="x", statement="s", rules=rules, seeds=seeds, minutes=1, smaller="")


def test_a_quantity_is_arithmetic_over_dotted_names():
    measured = {"a.accuracy": 0.9, "b.accuracy": 0.5, "n": 4.0}
    assert Rule("a.accuracy - b.accuracy", ">=", 0).value(measured) == pytest.approx(0.4)
    assert Rule("max(a.accuracy, b.accuracy) / sqrt(n) + log(1)", ">", 0).value(measured) == pytest.approx(0.45)
    assert Rule("-abs(b.accuracy - a.accuracy) * 2", "<", 0).value(measured) == pytest.approx(-0.8)


def test_what_was_not_measured_is_named():
    with pytest.raises(KeyError, match=r"'c\.loss', which was not measured; measured: a"):
        Rule("c.loss", "<", 1).value({"a": 1.0})


@pytest.mark.parametrize("quantity", ["__import__('os').getcwd()", "[a][0]", "a if a else a", "a ** a", "f'{a}'"])
def test_nothing_but_arithmetic_is_evaluated(quantity):
    with pytest.raises(ValueError, match="a rule cannot use"):
        Rule(quantity, "<", 1).value({"a": 1.0})


@pytest.mark.usefixtures("unchecked")
def test_a_relation_must_be_an_inequality():
    with pytest.raises(ValueError, match="one of >=, >, <=, <; got '=='"):
        Rule("a", "==", 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "outcome"),
    [
        ([0.30, 0.31, 0.32], "holds"),
        ([0.19, 0.30, 0.31], "unsure"),  # the mean is above the bound, the interval is not
        ([0.10, 0.10, 0.21], "fails"),
        ([0.3, 0.3, math.nan], "fails"),
        ([0.25, 0.25, 0.25], "holds"),  # >= includes the bound
    ],
)
def test_the_whole_interval_must_be_on_the_right_side(values, outcome):
    assert Rule("a", ">=", 0.2).judge(values)[0] == outcome


def test_strict_relations_exclude_the_bound():
    assert Rule("a", ">", 0.25).judge([0.25, 0.25, 0.25])[0] == "fails"
    assert Rule("a", "<=", 0.25).judge([0.25, 0.25, 0.25])[0] == "holds"
    assert Rule("a", "<", 0.25).judge([0.1, 0.1, 0.1])[0] == "holds"


def test_the_interval_is_that_of_the_mean():
    _, mean, (low, high) = Rule("a", ">", 0).judge([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3.0
    assert 1.0 < low < 2.5 < 3.5 < high < 5.0


def test_verdicts():
    rule = Rule("a", ">", 0)
    two = claim(rule, rule)
    assert two.verdict(["holds", "holds"]) == "holds"
    assert two.verdict(["holds", "unsure"]) == "holds in part"
    assert two.verdict(["unsure", "fails"]) == "holds in part"
    assert two.verdict(["fails", "fails"]) == "does not hold here"


def test_a_check_alone_makes_no_claim_hold_in_part():
    checked = claim(Rule("learned", ">", 0, check=True), Rule("a", ">", 0), Rule("b", ">", 0))
    assert checked.verdict(["holds", "fails", "fails"]) == "does not hold here"
    assert checked.verdict(["holds", "holds", "fails"]) == "holds in part"
    assert checked.verdict(["fails", "holds", "holds"]) == "holds in part"
    assert checked.verdict(["holds", "holds", "holds"]) == "holds"
    with pytest.raises(ValueError, match="at least one rule that is not a mere check; got 1 rules"):
        claim(Rule("learned", ">", 0, check=True))


def test_the_fingerprint_follows_the_rule_and_not_the_wording():
    rule = Rule("a", ">", 0.1)
    base = claim(rule)
    reworded = Claim(paper="x", statement="other words", rules=(rule,), seeds=3, minutes=9, smaller="much")
    assert base.fingerprint() == reworded.fingerprint()
    assert base.fingerprint() != claim(Rule("a", ">", 0.2)).fingerprint()
    assert base.fingerprint() != claim(Rule("a", ">=", 0.1)).fingerprint()
    assert base.fingerprint() != claim(rule, seeds=4).fingerprint()
    assert base.fingerprint() != claim(Rule("a", ">", 0.1, check=True), rule).fingerprint()


def test_a_claim_needs_three_seeds_and_a_rule():
    with pytest.raises(ValueError, match="at least 3 seeds; got 2"):
        claim(Rule("a", ">", 0), seeds=2)
    with pytest.raises(ValueError, match="at least one rule"):
        claim()
