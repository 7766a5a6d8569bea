"""Attention under a mask by the fused kernel is softmax of masked scores between two products."""

import pytest
import torch

from anabranch.nn.attention.masking import masked_attention, masked_softmax


@pytest.mark.parametrize("blocks", [(), (3,), (2, 3)])
@pytest.mark.parametrize("heads", [1, 2])
def test_it_is_the_softmax_of_masked_scores(blocks, heads):
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(4, 2, *blocks, n, d, dtype=torch.float64, requires_grad=True) for n, d in ((5, 8), (7, 8), (7, 3))
    )
    readable = torch.rand(4, heads, *blocks, 5, 7) < 0.5
    readable[1, ..., 2, :] = False  # nothing to read
    mixed = masked_attention(query, key, value, readable)
    expected = masked_softmax(query @ key.mT * 8**-0.5, readable) @ value
    torch.testing.assert_close(mixed, expected)
    assert (mixed[1, ..., 2, :] == 0).all()
    upstream = torch.randn_like(mixed)
    for found, wanted in zip(
        torch.autograd.grad(mixed, (query, key, value), upstream),
        torch.autograd.grad(expected, (query, key, value), upstream),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("blocks", [(), (3,)])
def test_one_row_of_the_mask_serves_all(blocks):
    query, key, value = torch.randn(3, 4, 2, *blocks, 5, 8).unbind()
    readable = torch.tensor([True, True, False, True, False]).expand(1, 1, *(1 for _ in blocks), 1, 5)
    whole = readable.expand(4, 2, *blocks, 5, 5)
    torch.testing.assert_close(
        masked_attention(query, key, value, readable), masked_attention(query, key, value, whole)
    )
