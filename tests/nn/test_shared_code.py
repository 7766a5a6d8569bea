"""A code that several kinds of things share (arXiv 2205.04602)."""

import pytest
import torch
from torch import nn

from anabranch.nn.fusion import SharedCode
from anabranch.testing import check_part


def middle(**options):
    torch.manual_seed(0)
    kinds = {"sound": 3, "image": 5, "text": 4}
    into = {kind: nn.Linear(size, 8) for kind, size in kinds.items()}
    return SharedCode(into, {kind: nn.Linear(8, size) for kind, size in kinds.items()}, 8, **options).double().eval()


def things():
    return {kind: torch.randn(2, size, dtype=torch.float64) for kind, size in (("sound", 3), ("image", 5), ("text", 4))}


def test_every_kind_is_had_from_every_kind():
    part = middle()
    for kind, x in things().items():
        for wanted, like in things().items():
            assert part.decode(wanted, part.encode(kind, x)).shape == like.shape


def test_one_perceptron_learns_from_all_kinds_or_each_kind_has_its_own():
    for shared, expected in ((True, 1), (False, 3)):
        part = middle(shared=shared)
        assert len(part.perceptrons) == expected
        for i, (kind, x) in enumerate(things().items()):
            part.zero_grad()
            part.encode(kind, x).square().sum().backward()
            reached = [any(p.grad is not None and p.grad.any() for p in s.parameters()) for s in part.perceptrons]
            assert reached == ([True] if shared else [j == i for j in range(3)])


def test_the_code_is_the_perceptron_of_what_the_encoder_gives():
    part, x = middle(), things()["image"]
    _, first, _, second = part.perceptrons[0].children()
    torch.testing.assert_close(part.encode("image", x), second(first(part.encoders["image"](x)).relu()))


def test_disagreement_is_the_mean_over_pairs_of_kinds():
    a, b, c = torch.randn(3, 4, 8)
    expected = ((a - b).square().mean() + (a - c).square().mean() + (b - c).square().mean()) / 3
    torch.testing.assert_close(SharedCode.disagreement([a, b, c]), expected)
    torch.testing.assert_close(SharedCode.disagreement([a, b]), (a - b).square().mean())


def test_gradients_are_right_in_double_precision():
    part, x = middle(), things()["text"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: part.decode("sound", part.encode("text", x)), x)


class Converted(nn.Module):
    """From an image to a text."""

    def __init__(self, shared):
        super().__init__()
        self.part = SharedCode(
            {"image": nn.Linear(5, 8), "text": nn.Linear(4, 8)}, {"text": nn.Linear(8, 4)}, 8, shared=shared
        )

    def forward(self, x):
        return self.part.decode("text", self.part.encode("image", x))


@pytest.mark.parametrize("shared", [True, False])
def test_it_keeps_the_laws_of_every_part(shared):
    check_part(lambda: Converted(shared), torch.randn(3, 5))


def test_a_decoder_without_an_encoder_is_refused():
    with pytest.raises(ValueError, match=r"an encoder for every kind that has a decoder; got \['a'\], \['b'\]"):
        SharedCode({"a": nn.Linear(2, 2)}, {"b": nn.Linear(2, 2)}, 2)
