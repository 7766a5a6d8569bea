"""The diagonal of the Fisher information of a classifier: how much each weight matters for what it predicts."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap


def diag_fisher(
    model: nn.Module,
    x: Float[Tensor, "samples *shape"],
    y: Int[Tensor, "samples"] | None = None,
    *,
    exact: bool = False,
    allowed: Bool[Tensor, "classes"] | None = None,
    generator: torch.Generator | None = None,
    chunk: int = 64,
) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of the log-likelihood, for each parameter that requires a gradient.

    Squares each sample's own gradient. Squaring the gradient of a batch's mean instead, a common slip, gives about the
    batch size times too little. The model is run in eval mode: no dropout, batch norm by its running statistics.

    Arguments:
        model: maps ``(batch, *shape)`` to logits ``(batch, classes)``, each sample by itself.
        y: labels to use. This is the *empirical* Fisher, which vanishes where the model fits its data. None: labels are
            drawn from the model's own prediction, once per sample, as the definition asks.
        exact: the expectation over the model's labels as a sum over all classes, instead of one draw per sample.
        allowed: classes that the prediction is restricted to; None for all.
        generator: source of the drawn labels.
        chunk: samples whose gradients are held at once.

    Raises:
        ValueError: if both ``y`` and ``exact`` are given, or there are no samples.
        ArithmeticError: if the model's output is not finite.

    Source: Kirkpatrick et al. 2016 (arXiv 1612.00796), section 2; Martens 2014 (arXiv 1412.1193) on the empirical form.
    """
    if y is not None and exact:
        raise ValueError("exact sums over the model's own labels, so it takes no y")
    if len(x) == 0:
        raise ValueError("expected at least one sample to measure the Fisher information on")
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        return _mean_squares(model, x, y, exact, allowed, generator, chunk)
    finally:
        for module, mode in modes.items():
            module.training = mode


def _mean_squares(
    model: nn.Module,
    x: Tensor,
    y: Tensor | None,
    exact: bool,
    allowed: Tensor | None,
    generator: torch.Generator | None,
    chunk: int,
) -> dict[str, Tensor]:
    wanted = {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
    fixed = {name: p.detach() for name, p in model.named_parameters() if not p.requires_grad}
    fixed |= dict(model.named_buffers())

    def logits(parameters: dict[str, Tensor], inputs: Tensor) -> Tensor:
        output = functional_call(model, {**parameters, **fixed}, (inputs,))
        return output if allowed is None else output.masked_fill(~allowed, -torch.inf)

    def log_likelihood(parameters: dict[str, Tensor], sample: Tensor, label: Tensor) -> Tensor:
        return -F.cross_entropy(logits(parameters, sample[None]), label[None])

    gradient_of = grad(log_likelihood)
    batched = vmap(gradient_of, in_dims=(None, 0, 0))

    def per_sample(inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        try:
            return batched(wanted, inputs, labels)
        except RuntimeError:  # not every layer can be batched by vmap (recurrent cells cannot)
            found = [gradient_of(wanted, *pair) for pair in zip(inputs, labels, strict=True)]
            return {name: torch.stack([one[name] for one in found]) for name in wanted}

    total = {name: torch.zeros_like(p) for name, p in wanted.items()}
    for index in torch.arange(len(x), device=x.device).split(chunk):
        inputs = x[index]
        with torch.no_grad():
            chance = logits(wanted, inputs).softmax(-1)
        if exact:
            possible = [int(c) for c in chance.sum(0).nonzero()]
            labels = [(torch.full_like(index, label), chance[:, label]) for label in possible]
        else:
            drawn = torch.multinomial(chance, 1, generator=generator).squeeze(1) if y is None else y[index]
            labels = [(drawn, torch.ones_like(chance[:, 0]))]
        for label, weight in labels:
            for name, gradient in per_sample(inputs, label).items():
                total[name] += torch.tensordot(weight, gradient.square(), dims=1)
    return {name: value / len(x) for name, value in total.items()}
