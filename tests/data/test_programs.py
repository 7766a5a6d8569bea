from collections import Counter
from itertools import product
from random import Random

import pytest
import torch

from anabranch.data.programs import StringDSL, StringPrograms, StringTask, consistent, enumerate_programs, tasks, typo
from anabranch.data.programs.language import COMPOSE, END
from anabranch.data.programs.operators import OPERATORS
from anabranch.errors import InputError
from anabranch.models.decode import beam

DSL = StringDSL()
TEXT = "Ab12, cD-ef Ghi 345"
WORDS = ("sun", "river", "oak", "stone", "leaf")

TRUTH = [
    ("SubStr", (1, 2), "Ab"),
    ("SubStr", (-3, -1), "345"),
    ("SubStr", (3, -16), "12"),
    ("SubStr", (5, 4), None),
    ("SubStr", (1, 20), None),
    ("SubStr", (-20, 1), None),
    ("GetSpan", (",", 1, "End", "-", 1, "Start"), " cD"),
    ("GetSpan", ("Number", 1, "Start", "Number", 2, "End"), "12, cD-ef Ghi 345"),
    ("GetSpan", ("PropCase", -1, "Start", "PropCase", -1, "End"), "Ghi"),
    ("GetSpan", ("Number", 2, "Start", "Number", 1, "End"), None),
    ("GetSpan", ("Number", 3, "Start", "Number", 1, "End"), None),
    ("GetToken", ("Number", 2), "345"),
    ("GetToken", ("Word", -2), "ef"),
    ("GetToken", ("Alphanum", 1), "Ab12"),
    ("GetToken", ("AllCaps", 2), "D"),
    ("GetToken", ("PropCase", 2), "Ghi"),
    ("GetToken", ("Lower", 3), "ef"),
    ("GetToken", ("Digit", -1), "5"),
    ("GetToken", ("Char", 4), "2"),
    ("GetToken", ("Number", 3), None),
    ("ToCase", ("Proper",), "Ab12, Cd-Ef Ghi 345"),
    ("ToCase", ("AllCaps",), "AB12, CD-EF GHI 345"),
    ("ToCase", ("Lower",), "ab12, cd-ef ghi 345"),
    ("Replace", (" ", "/"), "Ab12,/cD-ef/Ghi/345"),
    ("Replace", (";", "/"), TEXT),
    ("GetUpto", ("Number",), "Ab12"),
    ("GetUpto", (";",), None),
    ("GetFrom", (" ",), "cD-ef Ghi 345"),
    ("GetFrom", ("Number",), ", cD-ef Ghi 345"),
    ("GetFirst", ("Word", 2), "AbcD"),
    ("GetFirst", ("Number", 3), None),
    ("GetAll", ("Number",), "12345"),
    ("GetAll", ("AllCaps",), "ADG"),
    ("ConstStr", ("@",), "@"),
]


@pytest.mark.parametrize("name, arguments, expected", TRUTH, ids=lambda x: str(x))
def test_operators_do_what_the_paper_says(name, arguments, expected):
    assert DSL.apply((name, *arguments), TEXT) == expected


def test_every_operator_is_in_the_table():
    assert {name for name, *_ in TRUTH} | {"Trim"} == OPERATORS.keys()
    assert DSL.apply(("Trim",), "  a b ") == "a b"
    assert DSL.apply(("GetAll", "Digit"), "abc") is None


def test_programs_join_and_nest():
    program = DSL.parse("""GetToken Word i-1 ConstStr "," ConstStr "␣" Compose ToCase ToLower SubStr k1 k2""")
    assert program == (
        ("GetToken", "Word", -1),
        ("ConstStr", ","),
        ("ConstStr", " "),
        (COMPOSE, ("ToCase", "Lower"), ("SubStr", 1, 2)),
    )
    assert DSL.run(program, TEXT) == "Ghi, ab"
    assert DSL.run((*program, ("GetToken", "Number", 4)), TEXT) is None


def test_what_is_written_is_read_again():
    random = Random(0)
    for _ in range(500):
        program = tuple(DSL.draw(random) for _ in range(random.randint(1, 4)))
        assert DSL.parse(DSL.write(program)) == program
        numbers = DSL.numbers(program)
        assert DSL.read(numbers) == (program, True)
        assert 0 not in numbers
        assert " ".join(DSL.vocabulary[i] for i in numbers) == DSL.write(program)
        # Whatever begins a program has as its finished expressions a beginning of them.
        for size in range(len(numbers)):
            begun, finished = DSL.read(numbers[:size])
            assert begun == program[: len(begun)]
            assert finished == (DSL.numbers(begun) == numbers[:size])


def test_words_that_are_no_program_are_refused():
    for text in ("k1", "SubStr Word", "Compose SubStr", "Compose ToCase ToLower ConstStr", "GetToken Word Word"):
        with pytest.raises(ValueError, match="expected"):
            DSL.parse(text)
    with pytest.raises(ValueError, match="in the middle"):
        DSL.parse("GetToken Word")
    with pytest.raises(ValueError, match="no word 'Frobnicate'"):
        DSL.parse("Frobnicate")
    with pytest.raises(InputError, match="did you mean 'GetToken'"):
        StringDSL(operators=["GetTokens"])
    with pytest.raises(InputError, match="did you mean 'Number'"):
        StringDSL(types=["Numbers"])


def test_all_expressions_are_listed_once():
    small = StringDSL(operators=["SubStr", "ToCase", "ConstStr"], characters="ab", positions=1)
    found = list(small.expressions())
    # SubStr 2 * 2, ToCase 3, ConstStr 2, ToCase of any of the first seven
    assert len(found) == len(set(found)) == 4 + 3 + 2 + 3 * 7
    random = Random(0)
    assert {small.draw(random) for _ in range(2000)} == set(found)


def test_tasks_are_made_by_their_program_and_never_give_nothing():
    source = StringPrograms(DSL, WORDS, seed=1)
    for task in source.tasks(200):
        assert len(task.inputs) == len(task.outputs) == 10
        assert tuple(DSL.run(task.program, text) for text in task.inputs) == task.outputs
        assert all(0 < len(output) <= 20 for output in task.outputs)
        assert 1 <= len(task.program) <= 3
    assert source.tasks(1) != StringPrograms(DSL, WORDS, seed=2).tasks(1)
    assert StringPrograms(DSL, WORDS, seed=1).tasks(3) == StringPrograms(DSL, WORDS, seed=1).tasks(3)


def test_programs_to_avoid_are_not_drawn():
    dsl = StringDSL(operators=["ToCase"], compose=False)
    options = {"expressions": 1, "seed": 0}
    drawn = Counter(dsl.write(t.program) for t in StringPrograms(dsl, WORDS, **options).tasks(100))
    assert len(drawn) == 3
    avoid = frozenset({"ToCase ToLower", "ToCase ToProper"})
    drawn = Counter(dsl.write(t.program) for t in StringPrograms(dsl, WORDS, avoid=avoid, **options).tasks(100))
    assert drawn.keys() == {"ToCase ToAllCaps"}


def test_inputs_on_which_no_expression_is_defined_are_drawn_anew():
    dsl = StringDSL(operators=["GetToken"], types=["Number"])
    for task in StringPrograms(dsl, ("sun", "oak"), seed=0, fields=1).tasks(4):
        assert all(output.isdigit() for output in task.outputs)


def test_a_source_without_tasks_says_what_it_looked_for(monkeypatch):
    monkeypatch.setattr(tasks, "INPUTS", 5)
    monkeypatch.setattr(tasks, "PROGRAMS", 50)
    undefined = StringDSL(operators=["GetToken"], types=["AllCaps"])
    monkeypatch.setattr(StringPrograms, "inputs", lambda self: ("sun", "oak"))
    with pytest.raises(InputError, match="got none with the operators GetToken, the types AllCaps"):
        StringPrograms(undefined, WORDS, seed=0).task()
    dsl = StringDSL(operators=["ToCase"], compose=False)
    with pytest.raises(InputError, match="at most 2 characters"):
        StringPrograms(dsl, WORDS, seed=0, longest=2).task()
    avoid = frozenset(f"ToCase To{case}" for case in ("Lower", "AllCaps", "Proper"))
    with pytest.raises(InputError, match="and 3 programs to avoid"):
        StringPrograms(dsl, WORDS, seed=0, expressions=1, avoid=avoid).task()


def test_a_typo_changes_one_character():
    random = Random(0)
    for text in ("a", "Hello 12"):
        changed = typo(text, random)
        assert sum(a != b for a, b in zip(text, changed, strict=True)) == 1


SMALL = StringDSL(
    operators=["SubStr", "GetToken", "ConstStr"],
    types=["Word"],
    characters="-.",
    positions=2,
    indices=2,
    compose=False,
)
INPUTS, OUTPUTS = ("ab cd", "xyz uv"), ("cd-a", "uv-x")


def every_program(most):
    expressions = list(SMALL.expressions())
    return [program for size in range(1, most + 1) for program in product(expressions, repeat=size)]


def test_an_exhaustive_beam_with_the_check_keeps_every_consistent_program_and_only_those():
    right = {SMALL.numbers(p) for p in every_program(3) if tuple(SMALL.run(p, text) for text in INPUTS) == OUTPUTS}
    assert len(right) == 3

    def step(last, state):
        return torch.zeros(len(last), len(SMALL.vocabulary)), state

    found = beam(step, torch.zeros(1), 10**6, consistent(SMALL, INPUTS, OUTPUTS), longest=10)
    assert {h.words for h in found if len(SMALL.read(h.words)[0]) <= 3} == right
    for hypothesis in found:
        program, finished = SMALL.read(hypothesis.words)
        assert finished and tuple(SMALL.run(program, text) for text in INPUTS) == OUTPUTS


def test_the_search_finds_the_shortest_program_and_nothing_that_is_wrong():
    program = enumerate_programs(SMALL, INPUTS, OUTPUTS)
    assert program is not None and len(program) == 3
    assert tuple(SMALL.run(program, text) for text in INPUTS) == OUTPUTS
    assert enumerate_programs(SMALL, INPUTS, ("cd-a", "uv-q")) is None
    assert enumerate_programs(SMALL, INPUTS, OUTPUTS, expressions=2) is None
    assert enumerate_programs(SMALL, INPUTS, OUTPUTS, limit=3) is None


def test_the_search_finds_programs_of_which_a_part_gives_nothing_for_some_inputs():
    dsl = StringDSL(operators=["ConstStr", "GetFrom"], types=["Word"], delimiters=".", characters="x")
    for text in ("""ConstStr "x" GetFrom '.'""", """GetFrom '.' ConstStr "x" """, "GetFrom '.'"):
        program = dsl.parse(text)
        for inputs in (("a.b", "a."), ("a.", "b."), ("a.b", "c.d")):
            outputs = tuple(dsl.run(program, given) or "" for given in inputs)
            found = enumerate_programs(dsl, inputs, outputs)
            assert found is not None and len(found) <= len(program)
            assert tuple(dsl.run(found, given) for given in inputs) == outputs
            assert consistent(dsl, inputs, outputs)((*dsl.numbers(found), END))
    assert enumerate_programs(dsl, ("a.", "b."), ("", "")) == (("GetFrom", "."),)
    assert enumerate_programs(dsl, ("a.", "b."), ("", "b"), expressions=4) is None


def test_the_search_solves_tasks_of_the_source():
    dsl = StringDSL(operators=["GetToken", "ToCase", "ConstStr"], types=["Word", "Number"], delimiters=" ,", indices=2)
    drawn: list[StringTask] = StringPrograms(dsl, WORDS, seed=0, expressions=2).tasks(10)
    for task in drawn:
        program = enumerate_programs(dsl, task.inputs, task.outputs, expressions=2)
        assert program is not None
        assert tuple(dsl.run(program, text) for text in task.inputs) == task.outputs
