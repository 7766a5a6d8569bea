"""What claims about block wirings take from ``claims.common``, until they name it there and their evidence rests on it."""

from torch import nn

from anabranch.bench.fit import score
from anabranch.claims.common.language import language_model
from anabranch.claims.common.training import start_alike, train
from anabranch.data.task import Task

__all__ = ["language_model", "measured", "start_alike", "train"]


def measured(model: nn.Module, task: Task, seconds: float) -> dict[str, float]:
    """Test and validation score of a trained model, its parameters, and the seconds that training took."""
    return {
        task.metric.name.split("/")[0]: score(model, task.test, task),
        "valid": score(model, task.valid, task),
        "parameters": float(sum(p.numel() for p in model.parameters())),
        "seconds": seconds,
    }
