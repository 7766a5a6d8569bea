"""Masked pretraining: learn what patches look like before learning to forecast (PatchTST, section 3.2)."""

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from anabranch.models.forecast.patchtst import PatchTST


def random_patch_mask(
    rows: int, tokens: int, share: float, generator: torch.Generator | None = None
) -> Bool[Tensor, "rows tokens"]:
    """True for the patches to hide: the same number in each row, at least 1, drawn without replacement."""
    if not 0 < share < 1:
        raise ValueError(f"expected a share of hidden patches between 0 and 1; got {share}")
    hidden = min(max(1, round(share * tokens)), tokens)
    return torch.rand(rows, tokens, generator=generator).argsort(-1).argsort(-1) < hidden


def masked_patch_loss(
    model: PatchTST,
    head: Callable[[Tensor], Tensor],
    past: Float[Tensor, "batch past channels"],
    hidden: Bool[Tensor, "rows tokens"],
) -> Float[Tensor, ""]:
    """Mean squared error of the reconstruction, over the hidden patches only.

    Hidden patches are set to zero, the mean of a normalised window; what is reconstructed are normalised values.
    """
    patches = model.patches(model.prepare(past, None)[0])
    reconstruction = head(model.encode(patches.masked_fill(hidden[..., None], 0)))
    return (reconstruction - patches)[hidden].square().mean()


def pretrain_masked(
    model: PatchTST,
    batches: Iterable[Float[Tensor, "batch past channels"]],
    *,
    share: float = 0.4,
    lr: float = 1e-4,
    generator: torch.Generator | None = None,
) -> list[float]:
    """Train everything but the forecasting head of a PatchTST, in place, to reconstruct hidden patches.

    Afterwards train ``model.head`` alone (a linear probe), or the whole model.

    Arguments:
        model: with patches that do not overlap and no padding, since a neighbour would give a hidden patch away.
        batches: look-back windows, one optimiser step each.
        share: of the patches that are hidden.
        lr: learning rate of Adam.
        generator: source of the masks.

    Returns: the loss of each step.
    """
    if model.stride < model.patch or model.pad is not None:
        raise ValueError(
            f"masked pretraining needs stride = patch and pad = None, so that no hidden value is seen elsewhere; "
            f"got patch {model.patch}, stride {model.stride}, pad {model.pad!r}"
        )
    head = nn.Linear(model.dim, model.patch * model.seen).to(model.position)
    forecasting = {id(p) for p in model.head.parameters()}
    learned = [p for p in model.parameters() if id(p) not in forecasting]
    optimizer = torch.optim.Adam([*learned, *head.parameters()], lr=lr)
    losses: list[Tensor] = []
    model.train()
    for past in batches:
        rows = len(past) * model.channels // model.seen
        hidden = random_patch_mask(rows, model.tokens, share, generator).to(past.device)
        loss = masked_patch_loss(model, head, past, hidden)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    model.eval()
    return [float(loss) for loss in losses]
