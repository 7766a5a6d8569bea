"""Everything that the catalog says is true: paths import, examples run, claims and evidence exist and are current."""

import re

import pytest
import torch

from anabranch import catalog, claims
from anabranch.catalog._entries import load
from anabranch.claims._evidence import evidence_folder
from anabranch.errors import InputError

PAPERS = list(catalog.papers().values())
EACH = pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.slug)


@EACH
def test_parts_and_fillings_can_be_imported(paper):
    for path in paper.parts:
        load(path)
    for slot, names in paper.fills.items():
        for name in names:
            assert callable(catalog.part(slot, name).load())


@EACH
def test_the_example_runs_and_is_short(paper):
    torch.manual_seed(0)
    code = paper.example
    assert len([line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from"))]) <= 6
    exec(compile(code, f"<example of {paper.slug}>", "exec"), {})


@EACH
def test_the_entry_is_filled_in(paper):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", paper.slug)
    assert 1 <= paper.number <= 232
    assert re.fullmatch(r"\d{4}\.\d{4,5}", paper.arxiv)
    assert 1940 < paper.year < 2100
    assert 40 < len(paper.summary) < 500
    assert len(paper.keywords) >= 2


@EACH
def test_there_is_a_claim_and_its_evidence_is_current(paper):
    assert claims.claim(paper.slug).paper == paper.slug
    evidence = claims.recorded(paper.slug)
    assert evidence is not None, f"no evidence for {paper.slug}: anabranch verify {paper.slug}"
    assert claims.stale(evidence) == []
    assert (evidence_folder() / f"{paper.slug}.svg").is_file()
    assert len(evidence.measurements) == claims.claim(paper.slug).seeds


def test_no_two_papers_share_a_number():
    assert len({paper.number for paper in PAPERS}) == len(PAPERS)


def test_evidence_belongs_to_papers_of_the_catalog():
    recorded = {path.stem for path in evidence_folder().glob("*.json")}
    assert recorded <= set(catalog.papers())


@pytest.mark.parametrize("slot", catalog.slots().values(), ids=lambda slot: slot.name)
def test_a_slot_has_a_contract_and_a_part(slot):
    load(slot.contract)
    for skeleton in slot.skeletons:
        load(skeleton)
    assert catalog.parts(slot.name), f"nothing fills the slot {slot.name}"
    for part in catalog.parts(slot.name).values():
        assert callable(part.load())


def test_unknown_names_get_a_near_one():
    with pytest.raises(InputError, match="unknown mixer 'atention'; did you mean 'attention'"):
        catalog.part("mixer", "atention")
    with pytest.raises(InputError, match="unknown slot 'mixr'; did you mean 'mixer'"):
        catalog.parts("mixr")
    with pytest.raises(InputError, match="unknown paper"):
        catalog.paper("no-such-paper")


def test_groups_name_parts_that_exist_and_are_replaced_by_them():
    for slot in catalog.slots():
        for name, members in catalog.groups(slot).items():
            assert name not in catalog.parts(slot)
            assert set(members) <= set(catalog.parts(slot))
            assert catalog.expand(slot, [members[-1], name]) == [members[-1], *members[:-1]]
    assert catalog.expand("mixer", ["pool", "pool"]) == ["pool", "pool"]  # which a race then refuses
