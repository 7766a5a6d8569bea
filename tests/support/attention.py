"""What tests of attentions share: small inputs, attentions, and dense softmax attention with the same weights."""

import torch

from anabranch.nn.attention import SoftmaxAttention

DIM, HEADS, TIME = 8, 2, 12


def tokens(time=TIME, batch=2):
    return 2 * torch.randn(batch, time, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def build(make, **options):
    return make(DIM, heads=HEADS, **options).double().eval()


def softmax_of(mixer, causal=False):
    """Softmax attention with a mixer's own queries, keys, values and output layer."""
    plain = build(SoftmaxAttention, causal=causal)
    state = mixer.state_dict()
    plain.load_state_dict({name: state[name] for name in plain.state_dict()})
    return plain


def hand_over(mixer, peer, prefix="", suffix=""):
    """Copy queries, keys and values to a peer's layers, which has no output layer."""
    torch.nn.init.eye_(mixer.out.weight)
    torch.nn.init.zeros_(mixer.out.bias)
    both = getattr(mixer, prefix + "key_value")
    getattr(peer, "query" + suffix).load_state_dict(getattr(mixer, prefix + "query").state_dict())
    for name, weight, bias in zip(("key", "value"), both.weight.chunk(2), both.bias.chunk(2), strict=True):
        getattr(peer, name + suffix).load_state_dict({"weight": weight, "bias": bias})
