import pytest
import torch
from torch import nn

from anabranch.data.programs import StringDSL, StringPrograms, row_text, text_rows
from anabranch.errors import InputError
from anabranch.models.language import AttentiveLSTM, RobustFill, RobustFillInduction
from anabranch.models.language.reader import Memory, States
from anabranch.testing import check_autocast, check_gradients, check_same_seed, check_state_dict

DSL = StringDSL(operators=["GetToken", "ToCase", "ConstStr"], types=["Word", "Number"], characters=",.", indices=2)
WORDS = ("sun", "oak", "leaf")
each = pytest.mark.parametrize("attention", ["none", "A", "B", "C"])


def batch(tasks=3, pairs=4):
    drawn = StringPrograms(DSL, WORDS, seed=0, fields=2, expressions=2).tasks(tasks)
    inputs = torch.stack([text_rows(task.inputs[:pairs], 20) for task in drawn])
    outputs = torch.stack([text_rows(task.outputs[:pairs], 20) for task in drawn])
    program = torch.zeros(tasks, 14, dtype=torch.long)
    for row, task in zip(program, drawn, strict=True):
        numbers = DSL.numbers(task.program)
        row[: len(numbers)] = torch.tensor(numbers)
    return inputs, outputs, program


def build(attention="C", kind=RobustFill, **options):
    torch.manual_seed(0)
    words = (len(DSL.vocabulary),) if kind is RobustFill else ()
    return kind(*words, dim=8, embed=5, attention=attention, **options).double()


@each
def test_neither_the_order_of_the_examples_nor_repeating_one_changes_a_score(attention):
    model, (inputs, outputs, program) = build(attention), batch()
    scores = model(inputs, outputs, program)
    for order in ([2, 0, 3, 1], [0, 1, 2, 3, 1, 1]):
        torch.testing.assert_close(model(inputs[:, order], outputs[:, order], program), scores)
    assert not torch.allclose(model(inputs[:, :3], outputs[:, :3], program), scores)
    assert not torch.allclose(model(inputs, outputs[:, [1, 0, 2, 3]], program), scores), "pairs belong together"


@each
def test_writing_word_by_word_gives_the_logits_of_the_whole_program(attention):
    model, (inputs, outputs, program) = build(attention), batch()
    whole, state = model(inputs, outputs, program), model.read(inputs, outputs)
    before = torch.zeros(3, dtype=torch.long)
    for t in range(program.shape[1]):
        logits, state = model.step(before, state)
        torch.testing.assert_close(logits, whole[:, t])
        before = program[:, t]


@each
def test_padding_behind_a_text_changes_nothing(attention):
    model, (inputs, outputs, program) = build(attention), batch()
    torch.testing.assert_close(
        model(torch.cat([inputs, inputs[..., -1:]], -1), torch.cat([outputs, outputs[..., -1:]], -1), program),
        model(inputs, outputs, program),
    )
    junk = outputs.clone()
    junk[..., -1] = 7
    assert (outputs[..., -2:] == 0).all(), "the last two places are behind the end"
    torch.testing.assert_close(model(inputs, junk, program), model(inputs, outputs, program))


def test_the_attentions_are_those_of_the_paper():
    def reads(attention, part):
        """Whether the decoder's first step depends on a memory once the state is known."""
        model, (inputs, outputs, _) = build(attention), batch()
        state = model.read(inputs, outputs)
        memories = state["memories"]
        assert len(memories) == {"none": 0, "A": 1, "B": 2, "C": 2}[attention]
        if part >= len(memories):
            return False
        changed = tuple((2 * m[0] if i == part else m[0], m[1]) for i, m in enumerate(memories))
        words = torch.zeros(3, dtype=torch.long)
        return not torch.allclose(model.step(words, state)[0], model.step(words, state | {"memories": changed})[0])

    table = {attention: (reads(attention, 0), reads(attention, 1)) for attention in ("none", "A", "B", "C")}
    assert table == {"none": (False, False), "A": (True, False), "B": (True, True), "C": (True, True)}
    sizes = {a: (build(a).reader.input.bidirectional, len(build(a).reader.outputs)) for a in table}
    assert sizes == {"none": (False, 0), "A": (False, 1), "B": (False, 1), "C": (True, 2)}


def test_the_input_is_asked_for_with_what_was_read_of_the_output():
    torch.manual_seed(0)
    lstm = AttentiveLSTM(3, 4, memories=2, memory_dim=5).double()
    random = torch.Generator().manual_seed(0)
    x, h, c, o, i = (torch.randn(*s, generator=random).double() for s in ((2, 3), (2, 4), (2, 4), (2, 6, 5), (2, 7, 5)))
    exists = torch.arange(7) < 5
    memories = [Memory(o, torch.ones(2, 6, dtype=torch.bool)), Memory(i, exists.expand(2, 7))]
    new = lstm.step(x, States(h, c), memories)

    def attend(W, query, tokens):
        return torch.einsum("bs,bsd->bd", torch.einsum("bq,dq,bsd->bs", query, W.weight, tokens).softmax(1), tokens)

    first = attend(lstm.queries[0], torch.cat([h, x], 1), o)
    second = attend(lstm.queries[1], torch.cat([h, x, first], 1), i[:, :5])
    expected = lstm.cell(torch.cat([x, first, second], 1), (h, c))
    torch.testing.assert_close(new.h, expected[0])
    torch.testing.assert_close(new.c, expected[1])


def test_a_word_is_the_maximum_over_the_examples():
    model, (inputs, outputs, program) = build(), batch()
    h = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0)).double()
    expected = torch.tanh(model.pooled(h)).max(1).values @ model.output.weight.T
    torch.testing.assert_close(model.word(h), expected)
    for attention in ("A", "C"):  # one example: nothing to pool
        one = build(attention)(inputs[:, :1], outputs[:, :1], program)
        torch.testing.assert_close(build(attention)(inputs[:, [0, 0]], outputs[:, [0, 0]], program), one)


@each
def test_induction_shares_the_laws_and_reads_the_new_input(attention):
    model, (inputs, outputs, _) = build(attention, RobustFillInduction), batch()
    new, target = inputs[:, 0], outputs[:, 0]
    scores = model(inputs[:, 1:], outputs[:, 1:], new, target)
    torch.testing.assert_close(model(inputs[:, [3, 1, 2]], outputs[:, [3, 1, 2]], new, target), scores)
    assert not torch.allclose(model(inputs[:, 1:], outputs[:, 1:], inputs[:, 1], target), scores)
    answers = model.answer(
        [row_text(r) for r in inputs[0]], [row_text(r) for r in outputs[0]], ["ab", "c 1"], longest=5
    )
    assert len(answers) == 2


class Written(nn.Module):
    """Logits of fixed programs, or outputs, times a given vector for each task."""

    def __init__(self, attention, kind):
        super().__init__()
        words = (len(DSL.vocabulary),) if kind is RobustFill else ()
        self.model, self.given = kind(*words, dim=4, embed=3, attention=attention), batch(2, 3)

    def forward(self, x):
        inputs, outputs, program = self.given
        if isinstance(self.model, RobustFill):
            return self.model(inputs, outputs, program) * x
        return self.model(inputs[:, 1:], outputs[:, 1:], inputs[:, 0], outputs[:, 0]) * x


@each
@pytest.mark.parametrize("kind", [RobustFill, RobustFillInduction])
def test_both_keep_the_laws_of_every_part(attention, kind):
    for check in (check_gradients, check_state_dict, check_autocast, check_same_seed):
        check(lambda: Written(attention, kind), torch.randn(2, 1, 1))


@pytest.mark.parametrize("check", [True, False])
def test_an_untrained_net_with_the_check_finds_only_programs_that_agree(check):
    torch.manual_seed(0)
    model = RobustFill(len(DSL.vocabulary), dim=8, embed=5)
    agreed = []
    for task in StringPrograms(DSL, WORDS, seed=1, fields=2, expressions=1).tasks(5):
        inputs, outputs = task.inputs[:4], task.outputs[:4]
        program = model.solve(DSL, inputs, outputs, width=30, check=check, longest=7)
        agreed.append(program is not None and tuple(DSL.run(program, text) for text in inputs) == outputs)
        assert not check or program is None or agreed[-1]
    assert (sum(agreed) >= 4) == check


def test_a_net_learns_a_program_by_heart_and_writes_it():
    torch.manual_seed(0)
    model = RobustFill(len(DSL.vocabulary), dim=16, embed=8)
    inputs, outputs, program = batch(2, 2)
    optimizer = torch.optim.Adam(model.parameters(), 3e-2)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs, outputs, program).transpose(1, 2), program).backward()
        optimizer.step()
    texts = [[row_text(row) for row in part[0]] for part in (inputs, outputs)]
    found = model.solve(DSL, *texts, width=2, check=False)
    assert found is not None and [DSL.run(found, text) for text in texts[0]] == texts[1]


@pytest.mark.usefixtures("unchecked")
def test_errors_say_what_was_expected():
    with pytest.raises(InputError, match="known: A, B, C, none"):
        RobustFill(9, attention="D")
    with pytest.raises(ValueError, match="dim must be even"):
        RobustFill(9, dim=7)
    inputs, outputs, _ = batch()
    with pytest.raises(ValueError, match=r"expected inputs and outputs \(batch, pairs, time\)"):
        build().read(inputs, outputs[:, :2])
    with pytest.raises(ValueError, match="at most 3 printable"):
        text_rows(["abcd"], 3)
