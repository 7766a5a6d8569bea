import pytest
import torch
from torch import nn

from anabranch.errors import InputError
from anabranch.models import (
    ByteEmbed,
    Classifier,
    ConvNet,
    FeatureEmbed,
    ForecastHead,
    FrameEmbed,
    LanguageHead,
    MetaFormer,
    Network,
    PatchEmbed,
    Regressor,
    SinusoidalPositions,
    generate,
)
from anabranch.models.vision import MLPMixer, PoolFormer
from anabranch.nn.block import PreNorm
from anabranch.nn.mixing import ConvMixing, PoolMixing


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def language_model(mixer, length=32, **options):
    stem = ByteEmbed(16, length=length)
    trunk = MetaFormer(16, 2, mixer=mixer, causal=True, length=length, **options)
    return Network(stem, trunk, LanguageHead(16, tie=stem.embedding)).eval()


@pytest.mark.parametrize("mixer", ["attention", "conv", "identity"])
@pytest.mark.parametrize("block", ["prenorm", "postnorm"])
def test_a_causal_network_streams_what_it_computes_in_parallel(mixer, block):
    model = language_model(mixer, block=block, layer_scale=0.5).double()
    text = torch.randint(256, (2, 13))
    whole = model(text)
    state = model.initial_state(2)
    first, state = model.chunk(text[:, :6], state)
    outputs = [first]
    for t in range(6, 9):
        y_t, state = model.step(text[:, t], state)
        outputs.append(y_t[:, None])
    rest, _ = model.chunk(text[:, 9:], state)
    torch.testing.assert_close(torch.cat([*outputs, rest], 1), whole)


def test_generation_follows_the_parallel_model():
    model = language_model("attention")
    prompt = torch.randint(256, (3, 4))
    drawn = generate(model, prompt, 8, temperature=0)
    text = torch.cat([prompt, drawn], 1)
    torch.testing.assert_close(model(text)[:, 3:-1].argmax(-1), drawn)


def test_generation_is_fixed_by_its_generator():
    model = language_model("conv")
    prompt = torch.zeros(2, 1, dtype=torch.long)
    a, b, c = (generate(model, prompt, 12, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert a.equal(b)
    assert not a.equal(c)


@pytest.mark.parametrize("mixer", ["pool", "token-mlp", "random"])
def test_a_causal_trunk_refuses_a_mixer_that_sees_the_future(mixer):
    with pytest.raises(InputError, match="cannot stand in a causal trunk"):
        MetaFormer(8, 1, mixer=mixer, causal=True, length=4)


def test_a_causal_trunk_refuses_a_norm_over_tokens():
    with pytest.raises(InputError, match="GroupNorm looks at all tokens"):
        MetaFormer(8, 1, norm="groupnorm", causal=True)


def test_a_mixer_of_fixed_length_says_that_the_length_is_unknown():
    with pytest.raises(InputError, match="needs length"):
        MetaFormer(8, 1, mixer="token-mlp")


@pytest.mark.parametrize("norm", ["layernorm", "groupnorm"])
@pytest.mark.parametrize("mixer", ["attention", "pool", "token-mlp", "random", "conv", "identity"])
@pytest.mark.parametrize("dims", [(8,), (8, 12)])
def test_frames_beyond_the_length_change_nothing(mixer, norm, dims):
    stem = FrameEmbed(3, 8, length=13, patch=2)
    trunk = MetaFormer(dims, (1,) * len(dims), mixer=mixer, norm=norm, length=stem.length)
    model = Network(stem, trunk, Classifier(trunk.out_dim, 5)).double()
    x, lengths = torch.randn(3, 13, 3).double(), torch.tensor([13, 1, 6])
    other = x.clone()
    other[1, 1:], other[2, 6:] = 1e3, -1e3
    torch.testing.assert_close(model(x, lengths), model(other, lengths))
    assert not torch.allclose(model(x, lengths)[1:], model(x)[1:])


def test_a_pyramid_halves_an_odd_grid_and_knows_what_is_left():
    trunk = MetaFormer((8, 12, 16), (1, 2, 1), mixer="pool", grid=(7, 5))
    assert trunk(torch.randn(2, 35, 8)).shape == (2, 2 * 2, 16)
    assert (trunk.out_dim, trunk.out_length) == (16, 4)
    assert len(trunk.blocks) == 4
    mask = torch.zeros(1, 35, dtype=torch.bool)
    mask[0, 0] = True
    assert trunk.mask_after(mask).tolist() == [[True, False, False, False]]


def test_the_grid_reaches_the_mixers():
    torch.manual_seed(0)
    trunk = MetaFormer(4, 1, mixer="pool", channel="identity", norm="identity", grid=(3, 4))
    x = torch.randn(1, 12, 4)
    mixed = x + PoolMixing(4)(x, grid=(3, 4))
    torch.testing.assert_close(trunk(x), 2 * mixed)


def test_a_factory_may_choose_a_mixer_by_its_block():
    def alternate(dim, depth):
        return PoolMixing(dim) if depth % 2 else ConvMixing(dim)

    names = [type(block.mixer).__name__ for block in MetaFormer(8, 4, mixer=alternate).blocks]
    assert names == ["ConvMixing", "PoolMixing"] * 2


def test_a_wiring_may_look_back_at_earlier_blocks():
    class AddFirst(PreNorm):
        def wire(self, x, mix, mask, earlier):
            earlier.append(super().wire(x, mix, mask, earlier))
            return earlier[-1] + earlier[0]

    trunk = MetaFormer(8, 2, block=AddFirst, causal=True).eval()
    x = torch.randn(1, 5, 8)
    first, second = trunk.blocks
    plain = PreNorm.wire
    y = plain(first, x, first.mixer, None, []) + x
    y = plain(second, y, second.mixer, None, []) + x
    torch.testing.assert_close(trunk(x), y)
    torch.testing.assert_close(trunk.chunk(x, trunk.initial_state(1))[0], y)


def test_drop_path_drops_whole_branches_in_training_only():
    trunk = MetaFormer(8, 2, mixer="conv", drop_path=0.5)
    x = torch.randn(64, 3, 8)
    torch.testing.assert_close(trunk.eval()(x), trunk(x))
    last = trunk.train().blocks[-1]
    left = (last(x) == x).flatten(1).all(1).float().mean()
    assert 0.05 < left < 0.5  # both branches are left out in a quarter of the samples
    assert trunk.blocks[0].branch1.drop_path == 0


@pytest.mark.parametrize(
    "model, x, shape",
    [
        (lambda: MLPMixer(1, 10, size=(12, 8), dim=8, depth=1), torch.randn(2, 1, 12, 8), (2, 10)),
        (lambda: PoolFormer(3, 4, size=24, dim=(4, 8), depth=(1, 1)), torch.randn(1, 3, 24, 24), (1, 4)),
        (
            lambda: Network(FeatureEmbed(5, 8), MetaFormer(8, 1), Regressor(8, pool="max")),
            torch.randn(3, 5),
            (3,),
        ),
        (
            lambda: Network(
                FrameEmbed(2, 8, length=9, positions=SinusoidalPositions),
                MetaFormer(8, 1, channel="gated-mlp", norm="rmsnorm"),
                ForecastHead(8, future=4, channels=2, pool="flatten", length=9),
            ),
            torch.randn(2, 9, 2),
            (2, 4, 2),
        ),
        (
            lambda: Network(
                PatchEmbed(1, 8, size=9, patch=2, positions=None), ConvNet((8, 12), grid=(4, 4)), Classifier(12, 3)
            ),
            torch.randn(2, 1, 9, 9),
            (2, 3),
        ),
        (
            lambda: Network(FrameEmbed(2, 8, length=9), ConvNet((8, 12)), Classifier(12, 3)),
            torch.randn(2, 9, 2),
            (2, 3),
        ),
    ],
    ids=["mixer", "poolformer", "table", "forecast", "convnet", "convnet-1d"],
)
def test_networks_of_every_kind_answer_and_learn(model, x, shape):
    model = model()
    y = model(x)
    assert y.shape == shape
    (y - 1).square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing


def test_tied_weights_are_one_parameter():
    model = language_model("conv")
    assert isinstance(model.head, LanguageHead)
    assert isinstance(model.stem, ByteEmbed)
    assert model.head.linear.weight is model.stem.embedding.weight
    with pytest.raises(ValueError, match="to tie"):
        LanguageHead(8, tie=nn.Embedding(256, 9))


def test_learned_positions_end_where_they_end():
    with pytest.raises(ValueError, match="learned for 4 places; got 5"):
        FrameEmbed(1, 8, length=4)(torch.zeros(1, 5, 1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_sinusoidal_positions_are_rounded_once(dtype):
    positions = SinusoidalPositions(9)
    assert not positions.state_dict()
    expected, start = positions(3000), torch.tensor([0, 70_000])
    later = positions(2, start)
    positions.to(dtype)
    for found, wanted in ((positions(3000), expected), (positions(2, start), later)):
        # In float64 the angles themselves are finer.
        torch.testing.assert_close(found, wanted.to(dtype), rtol=0, atol=0.01 if dtype == torch.float64 else 0)
    torch.testing.assert_close(positions.float()(3000), expected, rtol=0, atol=0)


def test_more_tokens_than_the_cache_holds_are_refused():
    from functools import partial

    from anabranch.nn.attention import SoftmaxAttention

    trunk = MetaFormer(8, 1, mixer=partial(SoftmaxAttention, max_len=3), causal=True)
    _, state = trunk.chunk(torch.zeros(1, 3, 8), trunk.initial_state(1))
    with pytest.raises(ValueError, match="at most 3 tokens"):
        trunk.step(torch.zeros(1, 8), state)
