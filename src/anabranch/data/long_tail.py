"""Facts about people of whom a few are asked about often and most hardly ever (after arXiv 2509.26030)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from anabranch.data.task import Batch


class LongTailFacts:
    """People with attributes: a model is to answer with the value of a person's attribute, from memory.

    A question is the person's name, in several tokens that only together say who is meant, and the attribute. People
    are asked about with frequencies that fall as a power of their rank. As a split, it is every fact once.

    Arguments:
        people: number of people, in the order of their frequency.
        attributes: facts known of each.
        values: possible answers, each equally likely; the same for all attributes.
        name_length, name_tokens: tokens in a name, and different tokens at each place of it.
        exponent: frequency of the person of rank r is proportional to r to the minus this.
        seed: fixes names and facts.

    Shapes: inputs ``(batch, name_length + 1)`` of integers below ``vocabulary``; targets ``(batch,)`` below ``values``.
    """

    def __init__(
        self,
        people: int = 512,
        attributes: int = 4,
        values: int = 64,
        *,
        name_length: int = 3,
        name_tokens: int = 16,
        exponent: float = 1.0,
        seed: int = 0,
    ):
        if people > name_tokens**name_length:
            raise ValueError(f"{name_length} tokens of {name_tokens} kinds cannot name {people} people apart")
        generator = torch.Generator().manual_seed(seed)
        code = torch.randperm(name_tokens**name_length, generator=generator)[:people]
        names = [code // name_tokens**i % name_tokens for i in range(name_length)]
        name = torch.stack(names, dim=1).repeat_interleave(attributes, dim=0)
        attribute = name_tokens + torch.arange(attributes).repeat(people)
        self.attributes, self.values, self.vocabulary = attributes, values, name_tokens + attributes
        self.inputs = torch.cat([name, attribute[:, None]], dim=1)
        self.targets = torch.randint(values, (people * attributes,), generator=generator)
        weight = torch.arange(1, people + 1, dtype=torch.float64) ** -exponent
        self.frequencies = weight / weight.sum()

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Int[Tensor, "batch"]) -> Batch:
        return Batch(self.inputs[index], self.targets[index])

    def draw(self, size: int, generator: torch.Generator | None = None) -> Batch:
        """Questions as they come: people by their frequency, attributes evenly."""
        person = torch.multinomial(self.frequencies, size, replacement=True, generator=generator)
        return self.batch(person * self.attributes + torch.randint(self.attributes, (size,), generator=generator))

    def ranks(self, start: float, stop: float) -> Bool[Tensor, "facts"]:
        """Which facts are about the people between two shares of the ranks: the most frequent tenth is (0, 0.1)."""
        if not 0 <= start < stop <= 1:
            raise ValueError(f"expected 0 <= start < stop <= 1; got {start} and {stop}")
        share = torch.arange(len(self)) // self.attributes / len(self.frequencies)
        return (share >= start) & (share < stop)
