"""Forward-forward (Hinton 2022): each layer learns alone, and tells the next one a direction and not a length."""

from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from anabranch.data.task import Batch
from anabranch.errors import InputError
from anabranch.learning import Backprop, ForwardForward
from anabranch.learning.forward_forward import goodness, unit_length
from anabranch.learning.negatives import HardLabel, HybridImage, WrongLabel, append_label, blurred_mask, overwrite_label
from anabranch.optim import SGD


def chain(widths, seed=0):
    torch.manual_seed(seed)
    layers = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1])).double()


def batch_of(size=8, width=12, classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, width, generator=generator, dtype=torch.float64)
    return Batch(x, torch.randint(classes, (size,), generator=generator))


def test_a_layer_learns_the_same_whatever_comes_after_it():
    short, long = chain([12, 16, 4]), chain([12, 16, 16, 16, 4])
    long[0].load_state_dict(short[0].state_dict())
    for net in (short, long):
        torch.manual_seed(1)
        ForwardForward().bind(net, make_optimizer=partial(SGD, lr=0.1)).step(batch_of())
    assert torch.equal(short[0].weight, long[0].weight)


def test_a_layers_step_is_the_gradient_of_its_own_loss_alone():
    net = chain([12, 16, 8, 4])
    rule = ForwardForward(theta=1.5)
    batch = batch_of()
    trainer = rule.bind(net, make_optimizer=partial(SGD, lr=0.1, momentum=0.0))
    torch.manual_seed(1)
    positive, negative = rule.negatives.pair(batch, torch.zeros(8, 4))
    with torch.no_grad():
        below = [net[1](net[0](unit_length(x))) for x in (positive, negative)]
    weight = net[2].weight.detach().clone().requires_grad_()
    loss = 0.0
    for sign, x in zip((1, -1), below, strict=True):
        for row in x / (x.norm(dim=1, keepdim=True) + 1e-8):
            g = sum(torch.relu(weight[j] @ row + net[2].bias[j].detach()) ** 2 for j in range(8))
            loss = loss + torch.log1p(torch.exp(sign * (1.5 - g))) / 8
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.manual_seed(1)
    trainer.step(batch)
    torch.testing.assert_close(net[2].weight, weight - 0.1 * gradient, rtol=1e-10, atol=1e-12)


def test_a_small_step_on_one_example_only_lengthens_the_activity():
    net = chain([12, 16, 4])
    x = unit_length(batch_of(size=1).inputs)
    before = net[1](net[0](x)).detach()
    loss = torch.nn.functional.softplus(2.0 - goodness(net[1](net[0](x)))).mean()
    loss.backward()
    with torch.no_grad():
        for p in net[0].parameters():
            p -= 1e-3 * p.grad
    after = net[1](net[0](x)).detach()
    assert (before > 0).sum() > 3
    factors = (after / before)[before > 0]
    torch.testing.assert_close(factors, factors[:1].expand_as(factors), rtol=1e-9, atol=0)
    assert factors[0] > 1.0001
    torch.testing.assert_close(unit_length(after), unit_length(before), rtol=0, atol=1e-9)


def test_the_next_layer_cannot_see_the_length_of_an_activity():
    net = chain([12, 16, 8, 4])
    trainer = ForwardForward().bind(net)
    x = batch_of().inputs
    with torch.no_grad():
        first, second = trainer._activities(x)
        net[0].weight *= 7
        net[0].bias *= 7
        longer, same = trainer._activities(x)
    torch.testing.assert_close(longer, 7 * first)
    torch.testing.assert_close(same, second)


def saved(rule, depth):
    net = chain([12, *[32] * depth, 4])
    trainer = rule.bind(net)
    with trainer.metered():
        return trainer.step(batch_of()).saved_peak


def test_what_is_kept_for_the_backward_pass_does_not_grow_with_depth():
    assert saved(ForwardForward(), 8) == saved(ForwardForward(), 2)
    assert saved(Backprop(), 8) >= 3 * saved(Backprop(), 2)


@pytest.mark.parametrize("inverted", [False, True])
def test_the_prediction_is_the_label_with_most_goodness_over_all_layers_but_the_first(inverted):
    net = chain([12, 16, 8, 9, 4])
    batch = batch_of(size=5)
    scores = ForwardForward(inverted=inverted).bind(net).predict(batch.inputs)
    for i, row in enumerate(batch.inputs):
        for label in range(4):
            x = row.clone()
            x[:4] = 0
            x[label] = 1
            total = 0.0
            for k in (0, 2, 4):
                x = torch.relu(net[k](x / x.norm()))
                total += float((x**2).sum().detach()) if k else 0.0
            assert float(scores[i, label]) == pytest.approx(-total if inverted else total, rel=1e-6)


def test_the_inverted_rule_makes_real_data_quiet():
    batch = batch_of(size=64)
    for inverted in (False, True):
        torch.manual_seed(0)
        rule = ForwardForward(inverted=inverted)
        net = chain([12, 32, 32, 4])
        trainer = rule.bind(net, make_optimizer=partial(SGD, lr=0.03))
        for _ in range(200):
            trainer.step(batch)
        with torch.no_grad():
            positive, negative = (
                goodness(trainer._activities(x)[-1]).mean() for x in rule.negatives.pair(batch, torch.zeros(64, 4))
            )
        assert (positive < negative) == inverted


def test_wrong_labels_are_wrong_and_equally_likely():
    batch = Batch(torch.zeros(4000, 10), torch.full((4000,), 2))
    _, negative = WrongLabel().pair(batch, torch.zeros(4000, 4))
    share = negative[:, :4].mean(0)
    assert share[2] == 0
    torch.testing.assert_close(share[[0, 1, 3]], torch.full((3,), 1 / 3), rtol=0, atol=0.04)


def test_hard_labels_come_in_proportion_to_the_networks_own_probabilities():
    batch = Batch(torch.zeros(4000, 10), torch.full((4000,), 2))
    probabilities = torch.tensor([0.3, 0.1, 0.6, 0.0])
    _, negative = HardLabel().pair(batch, probabilities.log().clamp_min(-50).expand(4000, 4))
    torch.testing.assert_close(negative[:, :4].mean(0), torch.tensor([0.75, 0.25, 0.0, 0.0]), rtol=0, atol=0.04)
    # A network that is certain of the right label still gets a wrong one.
    _, negative = HardLabel().pair(batch, torch.tensor([0.0, 0.0, 500.0, 0.0]).expand(4000, 4))
    assert float(negative[:, 2].sum()) == 0


def test_labels_are_written_over_or_appended():
    x, label = torch.arange(12.0).view(2, 2, 3), torch.eye(2)
    torch.testing.assert_close(overwrite_label(x, label)[1], torch.tensor([[0.0, 1.0, 8.0], [9.0, 10.0, 11.0]]))
    torch.testing.assert_close(append_label(x, label)[0], torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 0.0]))
    with pytest.raises(InputError, match="does not fit"):
        overwrite_label(torch.zeros(2, 2), label)


def test_a_network_with_room_for_the_label_is_trained_predicted_and_metered():
    batch = batch_of()
    trainer = ForwardForward(negatives=HardLabel(append_label)).bind(chain([12 + 4, 8, 8, 4]))
    with trainer.metered():
        report = trainer.step(batch)
    # Three passes over the hidden layers and one over the readout are a little less than three over all.
    assert 2 < report.forward_units < 3
    assert trainer.predict(batch.inputs).shape == (8, 4)


@pytest.mark.parametrize("shape", [(16, 1, 8, 8), (16, 64)])
def test_a_hybrid_takes_every_pixel_from_one_of_two_pictures(shape):
    x = torch.arange(16.0).view(-1, *[1] * (len(shape) - 1)).expand(shape)  # picture i is full of i
    positive, negative = HybridImage((8, 8)).pair(Batch(x, torch.zeros(16)), torch.zeros(16, 4))
    assert torch.equal(positive, x) and negative.shape == x.shape
    for i, picture in enumerate(negative):
        assert 1 <= len(picture.unique()) <= 2
        assert len(picture.unique()) == 1 or i in picture.unique()
    with pytest.raises(InputError, match="size of the picture"):
        HybridImage((3, 3)).pair(Batch(torch.zeros(2, 64), torch.zeros(2)), torch.zeros(2, 4))


def test_blurring_makes_patches_and_keeps_about_half():
    torch.manual_seed(0)
    rough, smooth = (blurred_mask(200, 16, 16, blurs).float() for blurs in (0, 6))
    assert 0.4 < float(smooth.mean()) < 0.6
    changes = [float((m[:, 1:] != m[:, :-1]).float().mean()) for m in (rough, smooth)]
    assert 0.45 < changes[0] < 0.55 and changes[1] < 0.25


def test_the_blur_is_a_quarter_a_half_and_a_quarter_along_both_axes():
    torch.manual_seed(3)
    found = blurred_mask(5, 7, 9, 2)
    torch.manual_seed(3)
    bits = torch.randint(2, (5, 1, 7, 9)).float()[:, 0]
    for _ in range(2):
        for axis in (1, 2):
            first, last = bits.narrow(axis, 0, 1), bits.narrow(axis, bits.shape[axis] - 1, 1)
            padded = torch.cat([first, bits, last], axis)
            size = bits.shape[axis]
            bits = sum(w * padded.narrow(axis, i, size) for i, w in enumerate((0.25, 0.5, 0.25)))
    assert torch.equal(found, bits > 0.5)


def test_without_labels_the_readout_predicts():
    net = chain([16, 8, 4])
    x = batch_of(width=16).inputs
    trainer = ForwardForward(negatives=HybridImage((4, 4))).bind(net)
    with torch.no_grad():
        hidden = torch.relu(net[0](x / x.norm(dim=1, keepdim=True)))
        expected = net[2](hidden / hidden.norm(dim=1, keepdim=True))
    torch.testing.assert_close(trainer.predict(x), expected, rtol=1e-5, atol=1e-6)
    trainer.step(batch_of(width=16))


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(InputError, match="hidden stage"):
        ForwardForward().bind(nn.Sequential(nn.Linear(3, 2)))
    with pytest.raises(InputError, match="out_features"):
        ForwardForward().bind(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm(2)))
    with pytest.raises(InputError, match="several lengths"):
        ForwardForward().bind(chain([12, 4, 4])).step(batch_of()._replace(lengths=torch.ones(8, dtype=torch.long)))
    with pytest.raises(ValueError, match="theta"):
        ForwardForward(theta=0.0)
