import torch

from anabranch.metrics import retrieval_ranks


def test_ranks_are_by_cosine():
    known = torch.eye(3)
    found = torch.tensor([[9.0, 1.0, 0.0], [0.1, 0.3, 0.2]])
    assert retrieval_ranks(found, known, torch.tensor([0, 2])).tolist() == [1, 2]


def test_of_equals_the_right_one_comes_last():
    assert retrieval_ranks(torch.ones(1, 2), torch.ones(5, 2), torch.tensor([3])).tolist() == [5]
