"""Gramian attention heads (arXiv 2310.16483): pairwise products of channels, class attention, and heads kept apart."""

import pytest
import torch
import torch.nn.functional as F

from anabranch.models import GramianHeads
from anabranch.nn.pool import GramianPool, MeanPool, diverse_heads_loss, gram_triangle

DIM, TIME, GRAM = 8, 12, 6


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def gramian_pool(**options):
    """In float64 and evaluation, with branches that count and batch statistics that are not trivial."""
    made = GramianPool(DIM, gram_dim=GRAM, grid=(3, 4), **options).double()
    with torch.no_grad():
        for p in made.parameters():
            p.normal_(std=0.5)
        for norm in (made.narrow_norm, made.embed_norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    return made.eval()


def image(batch=3):
    return torch.randn(batch, TIME, DIM).double()


def test_the_triangle_holds_every_pair_of_channels_once():
    features = torch.randn(2, TIME, 3).double()
    expected = [[sum(f[t, i] * f[t, j] for t in range(TIME)) for i in range(3) for j in range(i, 3)] for f in features]
    torch.testing.assert_close(gram_triangle(features), torch.tensor(expected))


def test_neither_the_order_of_the_pixels_nor_all_signs_matter_to_it():
    features = torch.randn(2, TIME, 5).double()
    expected = gram_triangle(features)
    torch.testing.assert_close(gram_triangle(features[:, torch.randperm(TIME)]), expected)
    torch.testing.assert_close(gram_triangle(-features), expected)
    one_sign = features * torch.tensor([1.0, 1, -1, 1, 1])
    assert not torch.allclose(gram_triangle(one_sign), expected)


def test_the_class_token_does_not_depend_on_scale_order_or_sign():
    pool, features = gramian_pool(), torch.randn(2, TIME, GRAM).double()
    token = pool.class_token(features, None)
    for same in (100 * features, features[:, torch.randperm(TIME)], -features):
        torch.testing.assert_close(pool.class_token(same, None), token)
    assert not torch.allclose(pool.class_token(features.roll(1, 2), None), token)


def test_a_head_sees_second_moments_that_a_mean_cannot_see():
    x = torch.randn(1, TIME, DIM).double()
    opposite = torch.cat([x, -x], 1)
    silent = torch.zeros(1, 2 * TIME, DIM).double()
    assert torch.allclose(MeanPool(DIM)(opposite), MeanPool(DIM)(silent))
    pool = GramianPool(DIM, gram_dim=GRAM, grid=(4, 6)).double().eval()
    assert not torch.allclose(pool(opposite), pool(silent))


def test_a_head_is_class_token_then_attention_then_perceptron():
    pool, x = gramian_pool(heads=2, attention_dim=8, groups=2), image()
    f = pool.narrow_norm((x @ pool.narrow.weight.T).mT).mT
    update = pool.convolve(f, grid=(3, 4))
    f = f + pool.convolve_scale * pool.channel(pool.convolve_norm(update))
    gram = f.mT @ f / TIME
    pairs = gram[:, *torch.triu_indices(GRAM, GRAM)]
    pairs = F.pad(pairs / pairs.norm(dim=1, keepdim=True), (0, pool.padding))
    halves = pairs.unflatten(1, (2, -1))
    matrices = pool.embed.weight[:, :, 0].unflatten(0, (2, -1))
    token = pool.embed_norm(torch.einsum("bgi, goi -> bgo", halves, matrices).flatten(1))

    u = pool.norm1(torch.cat([token[:, None], x], 1))
    query = pool.query(u[:, 0])
    key, value = pool.key_value(u).split(8, -1)
    mixed = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = torch.einsum("bi, bti -> bt", query[:, head], key[..., head]) / 4**0.5
        mixed.append(torch.einsum("bt, bti -> bi", scores.softmax(1), value[..., head]))
    token = token + pool.scale1 * pool.project(torch.cat(mixed, 1))
    hidden = F.gelu(F.conv1d(pool.norm2(token)[..., None], pool.widen.weight, pool.widen.bias, groups=2))
    token = token + pool.scale2 * F.conv1d(hidden, pool.back.weight, pool.back.bias, groups=2)[..., 0]
    torch.testing.assert_close(pool(x), token)


def test_branches_start_nearly_silent():
    pool = GramianPool(DIM, gram_dim=GRAM)
    assert (pool.scale1 == 1e-4).all()
    assert (pool.scale2 == 1e-4).all()


def test_padding_behind_the_tokens_is_as_if_it_were_cut_off():
    pool = GramianPool(DIM, gram_dim=GRAM).double().eval()
    x, mask = image(), torch.arange(TIME) < 7
    torch.testing.assert_close(pool(x, mask.expand(3, TIME)), pool(x[:, :7]))


def test_batch_statistics_are_those_of_the_tokens_that_exist():
    pool, x = GramianPool(DIM, gram_dim=GRAM).double(), image() + 1
    mask = torch.arange(TIME) < torch.tensor([[7], [2], [0]])
    narrow = pool.narrow(x)[mask]
    pool(x, mask)
    torch.testing.assert_close(pool.narrow_norm.running_mean, 0.1 * narrow.mean(0))
    torch.testing.assert_close(pool.narrow_norm.running_var, 0.9 + 0.1 * narrow.var(0))


def test_heads_answer_in_bfloat16():
    heads, x = GramianHeads(DIM, 5, heads=2, gram_dim=GRAM).eval(), torch.randn(2, TIME, DIM)
    expected = heads(x)
    torch.testing.assert_close(heads.bfloat16()(x.bfloat16()).float(), expected, rtol=0.05, atol=0.05)


def test_the_answer_is_the_mean_logit():
    heads, x = GramianHeads(DIM, 5, heads=3, gram_dim=GRAM, grid=(3, 4)).eval(), torch.randn(2, TIME, DIM)
    each = heads.each(x)
    assert each.shape == (2, 3, 5)
    torch.testing.assert_close(heads(x), each.mean(1))
    assert not torch.allclose(each[:, 0], each[:, 1])


def test_one_head_without_the_second_term_is_a_plain_classifier():
    heads, x = GramianHeads(DIM, 5, heads=1, gram_dim=GRAM).eval(), torch.randn(2, TIME, DIM)
    logits = heads.linears[0](heads.pools[0](x))
    torch.testing.assert_close(heads(x), logits)
    target = torch.tensor([1, 4])
    loss = diverse_heads_loss(heads.each(x), target, weight=0.0)
    torch.testing.assert_close(loss, F.cross_entropy(logits, target))
    # One head says what all say together.
    torch.testing.assert_close(diverse_heads_loss(heads.each(x), target), loss)


@pytest.mark.parametrize("weight", [-0.8, 0.5])
def test_the_common_answer_is_held_constant(weight):
    logits = torch.randn(4, 3, 5).double().requires_grad_()
    target = torch.tensor([0, 2, 4, 1])
    diverse_heads_loss(logits, target, weight=weight).backward()
    with torch.no_grad():
        own, together = logits.softmax(-1), logits.mean(1, keepdim=True).softmax(-1)
        right = F.one_hot(target, 5)[:, None]
        expected = (own - right) / 4 + weight * (own - together) / (4 * 5)
    torch.testing.assert_close(logits.grad, expected)


def test_a_negative_weight_drives_heads_apart():
    target = torch.zeros(6, dtype=torch.long)

    def disagreement(weight):
        torch.manual_seed(1)
        logits = (0.1 * torch.randn(6, 3, 4)).requires_grad_()
        for _ in range(200):
            (gradient,) = torch.autograd.grad(diverse_heads_loss(logits, target, weight=weight), logits)
            logits = (logits - 0.5 * gradient).detach().requires_grad_()
        return logits.softmax(-1).std(1).mean()

    assert disagreement(-0.8) > disagreement(0.0) > disagreement(0.8)


@pytest.mark.usefixtures("unchecked")
def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="divide attention_dim"):
        GramianPool(DIM, heads=3)
    with pytest.raises(ValueError, match="at least one head"):
        GramianHeads(DIM, 5, heads=0)
    with pytest.raises(ValueError, match="two samples with tokens or more in training; got 1"):
        GramianPool(DIM)(torch.randn(1, TIME, DIM))
    with pytest.raises(ValueError, match="two samples with tokens or more in training; got 1"):
        GramianPool(DIM)(torch.randn(2, TIME, DIM), torch.tensor([[True], [False]]).expand(2, TIME))
    with pytest.raises(ValueError, match="holds 12 tokens"):
        gramian_pool()(torch.randn(1, 10, DIM).double())
