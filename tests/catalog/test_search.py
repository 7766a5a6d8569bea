"""Search finds papers by other words and in spite of typing errors."""

import pytest

from anabranch import catalog


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ("linear attention", "linear-transformer"),
        ("liner atention", "linear-transformer"),
        ("attention in linear time", "linear-transformer"),
        ("KANLinear", "kan"),
        ("splines instead of activations", "kan"),
        ("kolmogorof arnold", "kan"),
        ("forgets earlier tasks", "ewc"),
        ("catastrophic forgeting", "ewc"),
        ("lifelong learning", "ewc"),
        ("training without backpropagation", "forward-forward"),
        ("time series forecasting transformer", "patchtst"),
        ("explain a network by a decision tree", "nn-to-tree"),
        ("muon optimiser", "muon-tail"),
        ("GRU", "rnn-encoder-decoder"),
        ("all mlp vision", "mlp-mixer"),
        ("average pooling instead of attention", "metaformer"),
    ],
)
def test_the_paper_comes_first(words, slug):
    assert slug in catalog.papers()
    assert catalog.search(words)[0][0].slug == slug


def test_nonsense_finds_nothing_and_scores_fall():
    assert catalog.search("zzzzqqqq xxyyzz") == []
    assert catalog.search("   ") == []
    scores = [score for _, score in catalog.search("attention")]
    assert scores == sorted(scores, reverse=True)
    assert len(catalog.search("attention", limit=2)) <= 2
